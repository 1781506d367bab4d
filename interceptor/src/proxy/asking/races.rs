//! What happens at the same time: many that ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::AskError;
use super::desk::MOST_WAITING;
use super::tests::{ask, asked, sandbox};

const PATIENCE: Duration = Duration::from_secs(30);

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
