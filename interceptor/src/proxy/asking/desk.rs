//! The questions and leases of one sandbox, and the requests that wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use interceptor_policy::Proposal;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use super::super::rules::Rules;
use super::feed::ApprovalFeed;
use super::lease::Lease;
use super::question::{AskError, Asked, Key, Question, Verdict};
use super::scope::LeaseScope;
use super::view::{ApprovalEvent, LeaseView, QuestionView};
use crate::audit::{Audit, Record, RequestId};
use crate::upstream::pool::Generation;

/// The most requests of a sandbox that wait at one time.
pub(crate) const MOST_WAITING: usize = 64;
/// How many decided questions are remembered, to tell them from unknown ones.
const REMEMBERED: usize = 256;

/// The questions and leases of one sandbox.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(super) sandbox: Arc<str>,
    pub(super) audit: Audit,
    pub(super) feed: ApprovalFeed,
    table: Mutex<Table>,
    /// Told whenever a waiting request may be judged otherwise.
    pub(super) changed: Notify,
    /// One proposal at a time; made for the first.
    pub(crate) proposing: OnceLock<Arc<Semaphore>>,
    /// What leases may permit; unset where that is not bounded.
    scope: OnceLock<LeaseScope>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) questions: Vec<Question>,
    pub(super) leases: Vec<Arc<Lease>>,
    pub(super) decided: VecDeque<RequestId>,
    /// Another process has the leases; uses are counted there.
    pub(super) is_handed: bool,
    /// How many requests wait, on a question or for one.
    seats: usize,
    /// Numbers the requests that wait.
    next: u64,
}

impl Desk {
    pub(crate) fn new(sandbox: Arc<str>, audit: Audit, feed: ApprovalFeed) -> Desk {
        Desk {
            sandbox,
            audit,
            feed,
            table: Mutex::default(),
            changed: Notify::new(),
            proposing: OnceLock::new(),
            scope: OnceLock::new(),
        }
    }

    /// Told when a waiting request may be judged otherwise. Enable it before judging.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Bounds what leases may permit, once and for good.
    pub(crate) fn bound_leases(&self, scope: LeaseScope) {
        // Fails if it is bounded already.
        let _ = self.scope.set(scope);
    }

    /// What leases may permit.
    pub(super) fn lease_scope(&self) -> LeaseScope {
        self.scope.get().copied().unwrap_or_default()
    }

    /// Whether anybody could answer a question.
    pub(crate) fn can_answer(&self) -> bool {
        self.lease_scope() != LeaseScope::Nothing
    }

    /// Whether there is any lease.
    pub(crate) fn has_leases(&self) -> bool {
        !self.table().leases.is_empty()
    }

    /// The first lease, of those that count no uses first, by which `judge` permits, and what it
    /// says. Takes one of its uses.
    pub(crate) fn permitting<T>(
        &self,
        base: &Arc<Rules>,
        now: Timestamp,
        judge: impl Fn(&Arc<Rules>) -> Option<T>,
    ) -> Option<(Arc<Lease>, T)> {
        let mut leases = {
            let mut table = self.table();
            table.leases.retain(|lease| !lease.is_over(now));
            table.leases.clone()
        };
        leases.sort_by_key(|lease| lease.counts_uses());
        leases.into_iter().find_map(|lease| {
            let judged = judge(&lease.rules(base)?)?;
            // Between two hand-overs of what is left, a use is taken in one process alone.
            let is_counted_here = {
                let table = self.table();
                (!table.is_handed || !lease.counts_uses()) && lease.take(now)
            };
            is_counted_here.then_some((lease, judged))
        })
    }

    /// The leases in force, oldest first.
    pub(crate) fn leases(&self, now: Timestamp) -> Vec<LeaseView> {
        self.table().in_force(now).collect()
    }

    /// Whether another process has the leases.
    pub(crate) fn is_handed(&self) -> bool {
        self.table().is_handed
    }

    /// Forgets the leases that are over.
    pub(crate) fn expire_leases(&self) {
        let now = Timestamp::now();
        self.table().leases.retain(|lease| !lease.is_over(now));
    }

    /// Ends a lease; `false` if there is none of this id.
    pub(crate) fn revoke(&self, id: &str) -> bool {
        let mut table = self.table();
        let before = table.leases.len();
        table.leases.retain(|lease| {
            let stays = *lease.id != *id;
            if !stays {
                lease.end();
            }
            stays
        });
        table.leases.len() < before
    }

    /// Lays the leases over new rules, before these come into force.
    pub(crate) fn prepare(&self, rules: &Arc<Rules>) {
        let (leases, scope) = (self.table().leases.clone(), self.lease_scope());
        leases.iter().for_each(|lease| lease.lay(rules, scope));
    }

    /// New rules are in force: whoever waits is judged again. Lays the leases over them that were
    /// given since [`Desk::prepare`].
    pub(crate) fn rules_changed(&self, rules: &Arc<Rules>) {
        let (leases, scope) = (self.table().leases.clone(), self.lease_scope());
        for lease in leases {
            lease.lay(rules, scope);
            lease.settle(rules);
        }
        self.changed.notify_waiters();
    }

    /// The questions that wait, oldest first.
    pub(crate) fn questions(&self) -> Vec<QuestionView> {
        self.table().questions.iter().map(|question| question.view(&self.sandbox)).collect()
    }

    /// A question, if it still waits.
    pub(crate) fn question(&self, id: &str) -> Option<QuestionView> {
        let table = self.table();
        let found = table.questions.iter().find(|question| question.id.to_string() == id);
        found.map(|question| question.view(&self.sandbox))
    }

    /// Whether it is a question of this sandbox, or was one that is decided.
    pub(crate) fn knows(&self, id: &str) -> bool {
        let table = self.table();
        let asked = table.questions.iter().map(|question| question.id);
        asked.chain(table.decided.iter().copied()).any(|known| known.to_string() == id)
    }

    /// Every step leaves the table consistent.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the places for requests that wait, from the moment a request wants to ask: its time
/// runs while its proposals are made too.
#[derive(Debug)]
pub(crate) struct Seat {
    desk: Arc<Desk>,
    since: Instant,
    asked_at: Timestamp,
}

impl Seat {
    /// When the time of a request is over that may wait so long.
    pub(crate) fn deadline(&self, timeout: Duration) -> Instant {
        self.since + timeout
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desk.table().seats -= 1;
    }
}

/// A request that waits; dropping it withdraws its question.
#[derive(Debug)]
pub(crate) struct Waiting {
    desk: Arc<Desk>,
    question: RequestId,
    number: u64,
    /// What it is told.
    pub(crate) verdict: oneshot::Receiver<Verdict>,
    /// When its time is over.
    pub(crate) deadline: Instant,
    /// The rules for which it asks.
    pub(crate) generation: Generation,
}

impl Waiting {
    /// Its time is over, and with it that of all who ask the same.
    pub(crate) fn expire(&self) {
        self.desk.expire(self.question);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.desk.leave(self.question, self.number);
    }
}

impl Desk {
    /// Takes a place among those that wait.
    pub(crate) fn seat(self: &Arc<Self>) -> Result<Seat, AskError> {
        let mut table = self.table();
        if table.seats >= MOST_WAITING {
            return Err(AskError::Full);
        }
        table.seats += 1;
        drop(table);
        let (desk, since, asked_at) = (self.clone(), Instant::now(), Timestamp::now());
        Ok(Seat { desk, since, asked_at })
    }

    /// Joins an identical question.
    pub(crate) fn join(self: &Arc<Self>, key: &Key, generation: Generation) -> Option<Waiting> {
        let mut table = self.table();
        let number = table.next;
        let now = Instant::now();
        let same = |one: &&mut Question| {
            one.key == *key && one.generation == generation && now < one.deadline
        };
        let question = table.questions.iter_mut().find(same)?;
        let (sender, verdict) = oneshot::channel();
        question.waiters.push((number, sender));
        let (id, deadline) = (question.id, question.deadline);
        let question = question.view(&self.sandbox);
        table.next += 1;
        drop(table);
        self.feed.tell(ApprovalEvent { name: "changed", question });
        let desk = self.clone();
        Some(Waiting { desk, question: id, number, verdict, deadline, generation })
    }

    /// Opens a question with one request that waits.
    pub(crate) fn open(
        self: &Arc<Self>,
        seat: &Seat,
        key: Key,
        asked: Asked,
        generation: Generation,
        proposals: Vec<Proposal>,
    ) -> Waiting {
        // Somebody may have asked the same meanwhile.
        if let Some(waiting) = self.join(&key, generation) {
            return waiting;
        }
        let (asked_at, deadline) = (seat.asked_at, seat.deadline(asked.timeout));
        let timeout = SignedDuration::try_from(asked.timeout).unwrap_or(SignedDuration::ZERO);
        let expires_at = asked_at.checked_add(timeout).unwrap_or(Timestamp::MAX);
        let (sender, verdict) = oneshot::channel();
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        let question = Question {
            id: RequestId::new(),
            key,
            asked,
            asked_at,
            expires_at,
            deadline,
            generation,
            proposals,
            waiters: vec![(number, sender)],
        };
        let (id, view) = (question.id, question.view(&self.sandbox));
        table.questions.push(question);
        drop(table);
        self.audit.emit(record(&self.sandbox, id, "asked", &view));
        self.feed.tell(ApprovalEvent { name: "asked", question: view });
        let desk = self.clone();
        Waiting { desk, question: id, number, verdict, deadline, generation }
    }

    /// A request no longer waits; with the last one, the question goes.
    fn leave(&self, id: RequestId, number: u64) {
        let mut table = self.table();
        let Some(at) = table.questions.iter().position(|one| one.id == id) else { return };
        let question = &mut table.questions[at];
        question.waiters.retain(|(waiter, _)| *waiter != number);
        let is_last = question.waiters.is_empty();
        let view = question.view(&self.sandbox);
        if is_last {
            table.questions.remove(at);
        }
        drop(table);
        let name = if is_last { "withdrawn" } else { "changed" };
        self.feed.tell(ApprovalEvent { name, question: view });
    }

    /// The time of a question is over.
    fn expire(&self, id: RequestId) {
        let Some((question, view)) = self.close(id) else { return };
        self.audit.emit(record(&self.sandbox, id, "expired", &view));
        for (_, waiter) in question.waiters {
            // Fails for a request that has gone.
            let _ = waiter.send(Verdict::Expired);
        }
        self.feed.tell(ApprovalEvent { name: "expired", question: view });
    }

    /// Takes a question out, as decided; `None` if it is not there any more.
    pub(super) fn close(&self, id: RequestId) -> Option<(Question, QuestionView)> {
        let question = self.table().close(id)?;
        let view = question.view(&self.sandbox);
        Some((question, view))
    }
}

impl Table {
    /// The leases in force, oldest first.
    pub(super) fn in_force(&mut self, now: Timestamp) -> impl Iterator<Item = LeaseView> {
        self.leases.retain(|lease| !lease.is_over(now));
        self.leases.iter().map(|lease| lease.view())
    }

    /// Takes a question out, as decided; `None` if it is not there any more.
    pub(super) fn close(&mut self, id: RequestId) -> Option<Question> {
        let at = self.questions.iter().position(|one| one.id == id)?;
        let question = self.questions.remove(at);
        self.decided.push_back(id);
        if self.decided.len() > REMEMBERED {
            self.decided.pop_front();
        }
        Some(question)
    }
}

/// The record of what happened to a question.
pub(super) fn record(
    sandbox: &Arc<str>,
    id: RequestId,
    event: &'static str,
    question: &QuestionView,
) -> Record {
    Record::approval(sandbox, id, event)
        .host(question.host.as_str())
        .port(question.port)
        .method(question.method.as_str())
        .path(&question.path)
}
