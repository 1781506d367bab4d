//! What happens at the same time: a hand-over, new rules, answers, and many that ask.

use std::cell::RefCell;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::desk::MOST_WAITING;
use super::lease::MOST_LEASES;
use super::tests::{Held, allow, ask, asked, permitted, policy, sandbox, subject, terms};
use super::{Answer, AskError, DecideError, LeaseError, Terms};
use crate::credential::Keyring;
use crate::proxy::{Rules, Sandbox};

const PATIENCE: Duration = Duration::from_secs(30);

fn hour() -> Terms {
    terms(Some(3600), None)
}

/// An answer that permits for an hour.
fn for_an_hour() -> Answer {
    Answer::Allow { patch: None, terms: hour() }
}

/// Gives so many leases of an hour.
fn fill(sandbox: &Arc<Sandbox>, count: usize) {
    for _ in 0..count {
        sandbox.lease(allow("a.test"), hour(), "uid:0").unwrap();
    }
}

async fn held(sandbox: &Arc<Sandbox>, host: &str) -> (Held, String) {
    let held = ask(sandbox, asked(host, "/")).await.unwrap();
    let questions = sandbox.asking.questions();
    (held, questions.into_iter().find(|one| one.host == host).unwrap().id)
}

#[tokio::test]
async fn requests_whose_turn_to_ask_has_not_come_wait_too_and_their_time_runs() {
    let sandbox = sandbox();
    // Nobody's turn comes until there is a permit.
    let turns = sandbox.asking.proposing.get_or_init(|| Arc::new(Semaphore::new(0))).clone();
    let mut asking = JoinSet::new();
    for number in 0..MOST_WAITING {
        let sandbox = sandbox.clone();
        asking.spawn(async move { ask(&sandbox, asked(&format!("h{number}.test"), "/")).await });
    }
    let full = async {
        while sandbox.asking.seat().is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, full).await.expect("who waits for a turn has a place");
    let more = tokio::time::timeout(PATIENCE, ask(&sandbox, asked("more.test", "/"))).await;
    assert_eq!(more.expect("the limit holds for them too").unwrap_err(), AskError::Full);
    let before_the_turn = Instant::now();
    turns.add_permits(1);
    let first = tokio::time::timeout(PATIENCE, asking.join_next()).await.expect("its turn came");
    let first = first.unwrap().unwrap().unwrap();
    assert!(first.question.deadline <= before_the_turn + asked("a.test", "/").timeout);
    // Places are given back, whatever became of the question.
    asking.shutdown().await;
    drop(first);
    let seats: Vec<_> = (0..MOST_WAITING).map(|_| sandbox.asking.seat().unwrap()).collect();
    assert_eq!(sandbox.asking.seat().map(drop).unwrap_err(), AskError::Full);
    drop(seats);
    assert!(sandbox.asking.questions().is_empty());
}

#[tokio::test]
async fn a_use_is_counted_once_if_the_hand_over_comes_while_it_is_judged() {
    let (old, new) = (sandbox(), sandbox());
    let now = Timestamp::now();
    old.lease(allow("b.test"), terms(None, Some(1)), "uid:0").unwrap();
    let lost = old.lease(allow("c.test"), hour(), "uid:0").unwrap();
    let handed = RefCell::default();
    let wanted = subject("b.test", "/");
    let judge = |rules: &Arc<Rules>| {
        let is_allowed = wanted.judge(&rules.policy).is_allow();
        is_allowed.then(|| *handed.borrow_mut() = old.asking.hand_over())
    };
    let here = old.asking.permitting(&old.rules(), now, judge).is_some();
    new.asking.restore(handed.take(), &new.rules()).unwrap();
    let there = permitted(&new, "b.test", now).is_some();
    assert_ne!(here, there, "one use permits one request");
    // What is given or revoked from now on, the other process would not know of.
    let given = old.lease(allow("d.test"), hour(), "uid:0");
    assert!(matches!(given, Err(LeaseError::Ending)), "{given:?}");
    assert!(old.asking.is_handed() && permitted(&new, "c.test", now) == Some(lost.id));
    old.asking.resume();
    assert!(old.lease(allow("d.test"), hour(), "uid:0").is_ok());
}

#[tokio::test]
async fn a_lease_that_is_given_while_the_policy_is_replaced_holds() {
    let sandbox = sandbox();
    let now = Timestamp::now();
    let known = sandbox.lease(allow("a.test"), hour(), "uid:0").unwrap();
    let keyring = Keyring::load(&policy(""), None).unwrap();
    let next = Arc::new(sandbox.prepare(policy(""), keyring).unwrap());
    let laid = |host: &str| {
        let wanted = subject(host, "/");
        let judge =
            |rules: &Arc<Rules>| wanted.judge(&rules.policy).is_allow().then(|| rules.clone());
        sandbox.asking.permitting(&next, now, judge)
    };
    sandbox.asking.prepare(&next);
    let between = sandbox.lease(allow("b.test"), hour(), "uid:0").unwrap();
    let (_, before) = laid("a.test").unwrap();
    sandbox.asking.rules_changed(&next);
    assert_eq!(laid("b.test").map(|(lease, _)| lease.id.to_string()), Some(between.id));
    // What was laid before stays as it is, with its connections.
    let (lease, after) = laid("a.test").unwrap();
    assert_eq!(lease.id.to_string(), known.id);
    assert!(Arc::ptr_eq(&before, &after));
}

#[tokio::test]
async fn leases_that_have_ended_are_not_counted_and_a_question_that_gets_none_still_waits() {
    let sandbox = sandbox();
    fill(&sandbox, MOST_LEASES - 1);
    sandbox.lease(allow("b.test"), terms(None, Some(1)), "uid:0").unwrap();
    assert!(permitted(&sandbox, "b.test", Timestamp::now()).is_some());
    let (_c, id) = held(&sandbox, "c.test").await;
    sandbox.decide(&id, &for_an_hour(), "uid:0").unwrap();
    let (_d, id) = held(&sandbox, "d.test").await;
    let full = sandbox.decide(&id, &for_an_hour(), "uid:0");
    assert!(matches!(full, Err(DecideError::Lease(LeaseError::TooMany))), "{full:?}");
    // One that holds only for who waits takes no place.
    let once = Answer::Allow { patch: None, terms: Terms::default() };
    assert_eq!(sandbox.decide(&id, &once, "uid:0").unwrap().unwrap().uses, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_answers_at_once_those_for_which_there_is_no_place_change_nothing() {
    let sandbox = sandbox();
    fill(&sandbox, MOST_LEASES - 1);
    let mut waits = Vec::new();
    for number in 0..8 {
        waits.push(held(&sandbox, &format!("h{number}.test")).await);
    }
    let start = Barrier::new(waits.len());
    let decide = |id: &str| {
        start.wait();
        sandbox.decide(id, &for_an_hour(), "uid:0").map(drop)
    };
    let decided: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = waits.iter().map(|(_, id)| scope.spawn(|| decide(id))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(decided.iter().filter(|one| one.is_ok()).count(), 1, "{decided:?}");
    assert_eq!(sandbox.asking.questions().len(), waits.len() - 1, "the others still wait");
    let told = waits.iter_mut().filter_map(|(held, _)| held.question.verdict.try_recv().ok());
    assert_eq!(told.count(), 1);
}
