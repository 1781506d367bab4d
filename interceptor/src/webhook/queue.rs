//! Which questions a webhook is told next. No sandbox can hold every place, and none that asks fast
//! makes the questions of others unheard: what the feed has skipped is read from the questions
//! themselves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::Id;

use crate::fleet::{ApprovalEvent, QuestionView};

/// How many questions are told at one time.
const AT_ONCE: usize = 8;
/// How many of one sandbox.
const EACH: usize = 2;

/// A question that is still to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Untold {
    pub(super) id: String,
    pub(super) sandbox: String,
}

/// The questions that wait to be told, and those that are.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The oldest first.
    untold: VecDeque<Untold>,
    /// The ids of questions that wait for an answer: each is told once.
    known: HashSet<String>,
    /// The sandbox of each that is being told.
    telling: HashMap<Id, String>,
}

impl Queue {
    /// Takes in what the feed says, and, if it has skipped something, what `waits` reads; `false`
    /// once it says no more.
    pub(super) fn hear(
        &mut self,
        heard: Result<Arc<ApprovalEvent>, RecvError>,
        waits: impl FnOnce() -> Vec<QuestionView>,
    ) -> bool {
        match heard {
            Ok(event) => match event.name {
                "asked" => self.add(&event.question),
                "changed" => {}
                _ => self.forget(&event.question.id),
            },
            Err(RecvError::Lagged(count)) => {
                tracing::debug!(count, "events about questions were skipped");
                self.catch_up(&waits());
            }
            Err(RecvError::Closed) => return false,
        }
        true
    }

    /// Takes these for the questions that wait.
    pub(super) fn catch_up(&mut self, waiting: &[QuestionView]) {
        let ids: HashSet<&str> = waiting.iter().map(|question| question.id.as_str()).collect();
        self.known.retain(|id| ids.contains(id.as_str()));
        self.untold.retain(|untold| ids.contains(untold.id.as_str()));
        waiting.iter().for_each(|question| self.add(question));
    }

    fn add(&mut self, question: &QuestionView) {
        if self.known.insert(question.id.clone()) {
            let (id, sandbox) = (question.id.clone(), question.sandbox.clone());
            self.untold.push_back(Untold { id, sandbox });
        }
    }

    fn forget(&mut self, id: &str) {
        if self.known.remove(id) {
            self.untold.retain(|untold| untold.id != id);
        }
    }

    /// The next to be told, if there is a place: of the sandbox that holds the fewest.
    pub(super) fn next(&mut self) -> Option<Untold> {
        if self.telling.len() >= AT_ONCE {
            return None;
        }
        let held = |sandbox: &str| self.telling.values().filter(|held| *held == sandbox).count();
        let places = self.untold.iter().map(|untold| held(&untold.sandbox)).enumerate();
        let (at, _) = places.filter(|(_, held)| *held < EACH).min_by_key(|(_, held)| *held)?;
        self.untold.remove(at)
    }

    /// A task tells a question of this sandbox.
    pub(super) fn begin(&mut self, task: Id, sandbox: String) {
        self.telling.insert(task, sandbox);
    }

    /// The task has ended.
    pub(super) fn end(&mut self, task: Id) {
        self.telling.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::sync::broadcast;
    use tokio::task::JoinSet;

    use super::*;

    fn question(sandbox: &str, id: &str) -> QuestionView {
        QuestionView {
            id: id.to_owned(),
            sandbox: sandbox.to_owned(),
            asked_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            host: "a.test".to_owned(),
            port: 443,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            reason: "host_denied",
            message: String::new(),
            waiting: 1,
            proposals: Vec::new(),
        }
    }

    fn event(name: &'static str, sandbox: &str, id: &str) -> Arc<ApprovalEvent> {
        Arc::new(ApprovalEvent { name, question: question(sandbox, id) })
    }

    /// The ids that are begun now, each by a task that never ends.
    fn begun(queue: &mut Queue, tasks: &mut JoinSet<()>) -> Vec<String> {
        let mut ids = Vec::new();
        while let Some(Untold { id, sandbox }) = queue.next() {
            queue.begin(tasks.spawn(std::future::pending()).id(), sandbox);
            ids.push(id);
        }
        ids
    }

    #[tokio::test]
    async fn what_a_flood_of_another_sandbox_pushed_out_of_the_feed_is_told_all_the_same() {
        let (feed, mut coming) = broadcast::channel(4);
        let mut queue = Queue::default();
        feed.send(event("asked", "quiet", "told")).unwrap();
        assert!(queue.hear(coming.recv().await, || panic!("nothing was skipped")));
        feed.send(event("asked", "quiet", "lost")).unwrap();
        for _ in 0..100 {
            feed.send(event("changed", "loud", "flood")).unwrap();
        }
        let waits = ["told", "lost", "flood"];
        let read = || waits.map(|id| question(if id == "flood" { "loud" } else { "quiet" }, id));
        assert!(queue.hear(coming.recv().await, || read().to_vec()));
        let mut tasks = JoinSet::new();
        assert_eq!(begun(&mut queue, &mut tasks), ["told", "flood", "lost"]);
        drop(feed);
        while queue.hear(coming.recv().await, || panic!("nothing was skipped")) {}
        // Each once, however often the questions are read.
        queue.catch_up(&read());
        assert_eq!(queue.next(), None);
    }

    #[tokio::test]
    async fn a_sandbox_holds_its_own_places_and_what_no_longer_waits_is_not_told() {
        let mut queue = Queue::default();
        let mut tasks = JoinSet::new();
        let hear = |queue: &mut Queue, name, sandbox: &str, id: &str| {
            queue.hear(Ok(event(name, sandbox, id)), || panic!("nothing was skipped"))
        };
        for number in 0..20 {
            hear(&mut queue, "asked", "loud", &format!("loud{number}"));
        }
        assert_eq!(begun(&mut queue, &mut tasks), ["loud0", "loud1"]);
        hear(&mut queue, "asked", "quiet", "quiet0");
        assert_eq!(begun(&mut queue, &mut tasks), ["quiet0"]);
        for end in ["withdrawn", "approved", "refused", "expired"] {
            hear(&mut queue, "asked", "quiet", end);
            hear(&mut queue, end, "quiet", end);
        }
        assert_eq!(begun(&mut queue, &mut tasks), [""; 0]);
        // The next of a sandbox begins when one of its own has ended, and all are bounded.
        let first = *queue.telling.iter().find(|(_, sandbox)| *sandbox == "loud").unwrap().0;
        queue.end(first);
        assert_eq!(begun(&mut queue, &mut tasks), ["loud2"]);
        for number in 0..20 {
            let (sandbox, id) = (format!("s{number}"), format!("q{number}"));
            hear(&mut queue, "asked", &sandbox, &id);
        }
        assert_eq!(begun(&mut queue, &mut tasks).len(), AT_ONCE - 3);
        // Nothing is kept of what has ended.
        queue.catch_up(&[]);
        assert!(queue.known.is_empty() && queue.untold.is_empty());
    }
}
