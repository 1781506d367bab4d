//! What the screen shows: all of its state, and what it makes of what is told.

use std::time::Instant;

use serde_json::Value;

use super::heard::{Ask, Heard, Source, Told};
use super::list::{List, Picked};
use super::policy::Document;
use super::requests::Requests;
use super::store::{Key, Store};
use super::text::Plain;
use super::waiting::Waiting;

/// Which list is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum View {
    /// What waits, and requests.
    #[default]
    Requests,
    /// Sandboxes.
    Sandboxes,
    /// What is permitted beside the policies.
    Leases,
}

/// What covers the list.
#[derive(Debug)]
pub(super) enum Cover {
    /// The keys.
    Help,
    /// The selected question, all of it.
    Question,
    /// What is known of the record of this number.
    Story(Story),
    /// A sandbox's policy.
    Policy(Document),
}

/// A record's story.
#[derive(Debug)]
pub(super) struct Story {
    /// The number of the record.
    pub(super) number: u64,
    /// Where it is from.
    pub(super) source: Source,
    /// The record.
    pub(super) record: Value,
    /// What the policy says of it, once that is known.
    pub(super) told: Option<Value>,
}

/// What is being typed.
#[derive(Debug)]
pub(super) struct Prompt {
    /// What for.
    pub(super) goal: Goal,
    /// What was typed.
    pub(super) text: String,
}

/// What is typed for.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    /// What rows have.
    Filter,
    /// For how long to approve this question by this edit.
    Time(Key, usize),
    /// For how many requests.
    Uses(Key, usize),
}

/// How much room there was when it was drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// For questions.
    pub(super) waiting: usize,
    /// For requests.
    pub(super) requests: usize,
    /// For another list, or what covers it.
    pub(super) list: usize,
    /// The lines of what covers the list.
    pub(super) lines: usize,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Screen {
    pub(super) store: Store,
    pub(super) waiting: Waiting,
    pub(super) requests: Requests,
    pub(super) view: View,
    pub(super) sandboxes: Picked<Key>,
    pub(super) leases: Picked<Key>,
    pub(super) cover: Option<Cover>,
    pub(super) scroll: List,
    pub(super) prompt: Option<Prompt>,
    pub(super) room: Room,
    /// What is said at the bottom, and whether it is a problem.
    pub(super) said: Option<(Plain, bool)>,
    /// A decision that is under way, and the question that it answers.
    pub(super) deciding: Option<Option<Key>>,
    /// Whether to end.
    pub(super) is_over: bool,
}

impl Screen {
    /// Takes what a source tells.
    pub(super) fn hear(&mut self, source: Source, heard: Heard, now: Instant) {
        if matches!(heard, Heard::Ended)
            && let Some(known) = self.store.sources.get(&source)
        {
            self.say(&format!("{} has ended", known.name));
        }
        let is_about_questions = !matches!(heard, Heard::Records(_) | Heard::Counts(_));
        let fresh = self.store.hear(source, heard, now);
        if fresh > 0 {
            self.requests.add(&self.store, fresh);
        }
        if is_about_questions {
            self.arrange();
        }
    }

    /// Puts what waits in order.
    pub(super) fn arrange(&mut self) {
        self.waiting.arrange(&self.store);
        if matches!(self.cover, Some(Cover::Question)) && self.waiting.order.is_empty() {
            self.cover = None;
        }
    }

    /// Takes what became of an ask.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Done(text) => {
                // The stream says so too, a moment later.
                if let Some(Some(key)) = self.deciding.take() {
                    self.store.answered(&key);
                    self.arrange();
                }
                self.said = Some((text, false));
            }
            Told::Failed(why) => {
                self.deciding = None;
                self.said = Some((why, true));
            }
            Told::Story { record, story } => {
                if let Some(Cover::Story(open)) = &mut self.cover
                    && open.number == record
                {
                    open.told = Some(story);
                }
            }
            Told::Policy { sandbox, marked, details } => {
                let document = Document::new(sandbox, &details, marked.as_deref());
                self.scroll = List { selected: 0, first: document.marked.unwrap_or(0) };
                self.cover = Some(Cover::Policy(document));
            }
        }
    }

    /// Says something at the bottom.
    pub(super) fn say(&mut self, text: &str) {
        self.said = Some((Plain::of(text), false));
    }

    /// Says what is wrong.
    pub(super) fn complain(&mut self, text: &str) {
        self.said = Some((Plain::of(text), true));
    }

    /// Begins a decision, unless one is under way.
    pub(super) fn decide(&mut self, answers: Option<Key>, source: Source, ask: Ask) -> Asks {
        if self.deciding.is_some() {
            self.complain("the last answer is still under way");
            return Vec::new();
        }
        self.deciding = Some(answers);
        self.said = None;
        vec![(source, ask)]
    }
}

/// What is asked of whom.
pub(super) type Asks = Vec<(Source, Ask)>;
