//! What waits for a person: in which order it is shown, which question is selected, and whether it
//! may be answered.
//!
//! A sandbox can ask as much as it likes. So the oldest question of each sandbox comes first, then
//! the second of each: none is hidden behind another sandbox's. Of one sandbox only so many are
//! shown until more are asked for. What is typed answers only a question that has stood selected on
//! the screen, all of it, for a while: keys that were meant for another do not answer it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::heard::{Ask, Question};
use super::list::{List, Move};
use super::store::{Key, Store};
use serde_json::{Value, json};

/// The most questions of one sandbox that are shown at once.
pub(super) const AT_ONCE: usize = 6;
/// How long a question stands before it can be answered.
pub(super) const SETTLES: Duration = Duration::from_millis(800);

/// What is shown of the questions.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The questions that are shown, in their order.
    pub(super) order: Vec<Key>,
    /// How many more wait of each sandbox.
    pub(super) hidden: usize,
    /// The window.
    pub(super) list: List,
    /// The selected question, which stays selected as long as it waits.
    selected: Option<Key>,
    /// Which of its edits.
    patch: usize,
    /// All questions of these are shown.
    open: BTreeSet<Key>,
    /// What stands on the screen, and since when.
    stands: Option<(Key, usize, Instant)>,
}

impl Waiting {
    /// Puts what waits now in its order.
    pub(super) fn arrange(&mut self, store: &Store) {
        let mut of_sandbox: BTreeMap<(u32, &str), Vec<(&str, &Key)>> = BTreeMap::new();
        for (key, question) in &store.questions {
            let own = of_sandbox.entry((key.0, &question.sandbox)).or_default();
            own.push((&question.asked_at, key));
        }
        let (mut ranked, mut hidden) = (Vec::new(), 0);
        for ((source, sandbox), mut own) in of_sandbox {
            own.sort_unstable();
            let is_open = self.open.contains(&(source, sandbox.to_owned()));
            let shown = if is_open { own.len() } else { own.len().min(AT_ONCE) };
            hidden += own.len() - shown;
            let shown = own.into_iter().take(shown).enumerate();
            ranked.extend(shown.map(|(rank, (asked_at, key))| (rank, asked_at, key)));
        }
        ranked.sort_unstable();
        self.order = ranked.into_iter().map(|(_, _, key)| key.clone()).collect();
        self.hidden = hidden;
        let known = self.selected.as_ref();
        match known.and_then(|known| self.order.iter().position(|key| key == known)) {
            Some(at) => self.list.selected = at,
            None => {
                self.list.selected = self.list.selected.min(self.order.len().saturating_sub(1));
                self.select();
            }
        }
    }

    fn select(&mut self) {
        self.selected = self.order.get(self.list.selected).cloned();
        self.patch = 0;
    }

    /// The selected question.
    pub(super) fn selected<'a>(&self, store: &'a Store) -> Option<(&Key, &'a Question)> {
        let key = self.selected.as_ref()?;
        Some((key, store.questions.get(key)?))
    }

    /// The number of the edit that is chosen.
    pub(super) fn patch(&self) -> usize {
        self.patch
    }

    /// Moves the selection.
    pub(super) fn go(&mut self, to: Move, height: usize) {
        self.list.go(to, self.order.len(), height);
        self.select();
    }

    /// Chooses the next edit of the selected question.
    pub(super) fn other_patch(&mut self, store: &Store) {
        let count = self.selected(store).map_or(0, |(_, question)| question.patches.len());
        self.patch = if count == 0 { 0 } else { (self.patch + 1) % count };
    }

    /// Shows all questions of the selected question's sandbox, or not.
    pub(super) fn more(&mut self, store: &Store) {
        let Some((key, question)) = self.selected(store) else { return };
        let sandbox = (key.0, question.sandbox.clone());
        if !self.open.remove(&sandbox) {
            self.open.insert(sandbox);
        }
        self.arrange(store);
    }

    /// The screen shows the selected question as it is, or not the whole of it.
    pub(super) fn shown(&mut self, is_whole: bool, now: Instant) {
        let Some(key) = self.selected.as_ref().filter(|_| is_whole) else {
            self.stands = None;
            return;
        };
        let is_same = self
            .stands
            .as_ref()
            .is_some_and(|(known, patch, _)| known == key && *patch == self.patch);
        if !is_same {
            self.stands = Some((key.clone(), self.patch, now));
        }
    }

    /// Whatever stood there was out of sight.
    pub(super) fn unsettle(&mut self) {
        self.stands = None;
    }

    /// Whether the selected question may be answered.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.stands.as_ref().is_some_and(|(key, patch, since)| {
            Some(key) == self.selected.as_ref()
                && *patch == self.patch
                && now.saturating_duration_since(*since) >= SETTLES
        })
    }

    /// When it may be, if that is to come.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.stands.as_ref().map(|(_, _, since)| *since + SETTLES)
    }
}

/// What an approval says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    /// The requests that wait.
    Once,
    /// For so many seconds.
    Seconds(u64),
    /// For so many requests.
    Uses(u64),
    /// For good: in the policy's file.
    Always,
}

/// Approves a question by one of its edits.
pub(super) fn approve(question: &Question, patch: usize, terms: Terms) -> Option<Ask> {
    let patch = &question.patches.get(patch)?.patch;
    let mut body = json!({ "decision": "allow", "patch": patch });
    let id = question.id.clone();
    match terms {
        // Those that were shown: one that came since asks anew.
        Terms::Once => body["uses"] = question.waiting.into(),
        Terms::Seconds(seconds) => body["seconds"] = seconds.into(),
        Terms::Uses(uses) => body["uses"] = uses.into(),
        Terms::Always => {
            let sandbox = question.sandbox.clone();
            body["uses"] = question.waiting.into();
            return Some(Ask::Always { sandbox, question: id, body });
        }
    }
    Some(Ask::Decide { question: id, body })
}

/// Refuses a question.
pub(super) fn refuse(question: &Question) -> Ask {
    let body: Value = json!({ "decision": "deny" });
    Ask::Decide { question: question.id.clone(), body }
}

#[cfg(test)]
mod tests {
    use super::super::heard::Heard;
    use super::super::text::Plain;
    use super::*;

    fn ask(store: &mut Store, sandbox: &str, id: &str, at: u32) {
        let patch = |wider: bool| json!({ "patch": [{ "op": "add" }], "wider": wider });
        let question = json!({ "event": "asked", "question": {
            "id": id, "sandbox": sandbox, "asked_at": format!("2026-01-01T00:00:{at:02}Z"),
            "host": "a.test", "port": 443, "path": "/", "method": "GET", "waiting": 2,
            "patches": [patch(false), patch(true)],
        } });
        let heard = Heard::read("question", &question.to_string()).unwrap();
        store.hear(1, heard, Instant::now());
    }

    fn store() -> Store {
        let mut store = Store::default();
        store.add(1, Plain::of("daemon"), true);
        store.hear(1, Heard::Begun, Instant::now());
        store
    }

    fn ids(waiting: &Waiting) -> Vec<&str> {
        waiting.order.iter().map(|(_, id)| id.as_str()).collect()
    }

    #[test]
    fn a_flood_of_one_sandbox_hides_no_question_of_another() {
        let (mut store, mut waiting) = (store(), Waiting::default());
        for number in 0..50 {
            ask(&mut store, "flood", &format!("f{number:02}"), number);
        }
        ask(&mut store, "real", "r", 59);
        waiting.arrange(&store);
        assert_eq!(ids(&waiting), ["f00", "r", "f01", "f02", "f03", "f04", "f05"]);
        assert_eq!(waiting.hidden, 44);
        waiting.more(&store);
        assert_eq!((waiting.order.len(), waiting.hidden), (51, 0));
        assert_eq!(ids(&waiting)[1], "r");
        waiting.more(&store);
        assert_eq!(waiting.order.len(), 7);
    }

    #[test]
    fn a_question_can_be_answered_once_it_has_stood_on_the_screen() {
        let (mut store, mut waiting) = (store(), Waiting::default());
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        ask(&mut store, "web", "a", 1);
        waiting.arrange(&store);
        assert!(!waiting.is_settled(at(10_000)), "it was never shown");
        waiting.shown(true, at(0));
        assert!(!waiting.is_settled(at(799)));
        assert!(waiting.is_settled(at(800)));
        // Another one that comes leaves it as it is.
        ask(&mut store, "web", "0", 0);
        waiting.arrange(&store);
        waiting.shown(true, at(900));
        assert_eq!(waiting.selected(&store).unwrap().1.id, "a");
        assert!(waiting.is_settled(at(900)));
        // What takes its place has to stand there first.
        store.answered(&(1, "a".to_owned()));
        waiting.arrange(&store);
        assert!(!waiting.is_settled(at(10_000)));
        waiting.shown(true, at(10_000));
        assert!(!waiting.is_settled(at(10_799)) && waiting.is_settled(at(10_800)));
        waiting.other_patch(&store);
        assert!(!waiting.is_settled(at(20_000)), "another edit is another answer");
        waiting.shown(true, at(20_000));
        assert!(waiting.is_settled(at(20_800)));
        waiting.shown(false, at(21_000));
        assert!(!waiting.is_settled(at(30_000)), "not all of it is seen");
    }

    #[test]
    fn an_approval_is_for_what_was_shown() {
        let mut store = store();
        ask(&mut store, "web", "q", 1);
        let question = store.questions.values().next().unwrap();
        let body = |terms| match approve(question, 1, terms) {
            Some(Ask::Decide { question, body }) if question == "q" => body,
            other => panic!("{other:?}"),
        };
        let with = |name: &str, value: u64| {
            let mut body = json!({ "decision": "allow", "patch": [{ "op": "add" }] });
            body[name] = value.into();
            body
        };
        assert_eq!(body(Terms::Once), with("uses", 2));
        assert_eq!(body(Terms::Uses(7)), with("uses", 7));
        assert_eq!(body(Terms::Seconds(60)), with("seconds", 60));
        assert!(matches!(approve(question, 0, Terms::Always), Some(Ask::Always { .. })));
        assert!(approve(question, 2, Terms::Once).is_none());
    }
}
