//! A sandbox that asks, and what is answered: its rules brought to its desk.

use std::sync::Arc;

use interceptor_policy::Patch;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::asking::{
    Answer, AskError, Asked, DecideError, LeaseError, LeaseView, Seat, Terms, Waiting,
};
use super::rules::Rules;
use super::sandbox::Sandbox;

/// The longest path that is asked about: nobody reads a longer one, and it is kept meanwhile.
const LONGEST_PATH: usize = 4096;
/// How many times as long as a proposal took the next one waits.
const PAUSE: u32 = 4;

impl Sandbox {
    /// Asks a person, or waits with those who ask the same. Takes a seat, if there is none yet.
    ///
    /// # Errors
    /// If nobody is asked.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        asked: Asked,
        seat: &mut Option<Seat>,
    ) -> Result<Waiting, AskError> {
        let desk = &self.asking;
        if !desk.can_answer() || asked.subject.path.len() > LONGEST_PATH {
            return Err(AskError::Nothing);
        }
        let seat = match seat {
            Some(seat) => seat,
            None => seat.insert(desk.seat()?),
        };
        let key = asked.key();
        if let Some(waiting) = desk.join(&key, rules.generation) {
            return Ok(waiting);
        }
        // Compiling a policy takes its time, and a sandbox decides how often it asks.
        let turns = desk.proposing.get_or_init(|| Arc::new(Semaphore::new(1))).clone();
        let turn = turns.acquire_owned().await.map_err(|_| AskError::Nothing)?;
        if let Some(waiting) = desk.join(&key, rules.generation) {
            return Ok(waiting);
        }
        let (policy, subject) = (rules.policy.clone(), asked.subject.clone());
        let proposing = tokio::task::spawn_blocking(move || {
            let began = std::time::Instant::now();
            let proposals = policy.proposals(&subject);
            let pause = began.elapsed() * PAUSE;
            // However often it asks and gives up, it gets a fifth of a processor.
            Handle::current().spawn(async move {
                tokio::time::sleep(pause).await;
                drop(turn);
            });
            proposals
        });
        let proposals = proposing.await.unwrap_or_default();
        if proposals.is_empty() {
            return Err(AskError::Nothing);
        }
        Ok(desk.open(seat, key, asked, rules.generation, proposals))
    }
}

impl Sandbox {
    /// Answers a question. Compiles a policy: call it from a thread that may block.
    ///
    /// # Errors
    /// If there is no such question, or the answer does not fit it.
    pub(crate) fn decide(
        &self,
        id: &str,
        answer: &Answer,
        by: &str,
    ) -> Result<Option<LeaseView>, DecideError> {
        let rules = self.rules();
        let lease = self.asking.decide(&rules, id, answer, by)?;
        self.catch_up(&rules);
        Ok(lease)
    }

    /// Lays leases over rules that came into force while one was made.
    fn catch_up(&self, before: &Arc<Rules>) {
        let rules = self.rules();
        if rules.generation != before.generation {
            self.asking.prepare(&rules);
            self.asking.rules_changed(&rules);
        }
    }

    /// Ends a lease, and its connections that are idle; `false` if there is none of this id.
    pub(crate) fn revoke(&self, lease: &str) -> bool {
        let revoked = self.asking.revoke(lease);
        if revoked {
            self.pool.expire();
        }
        revoked
    }

    /// Gives a lease. Compiles a policy: call it from a thread that may block.
    ///
    /// # Errors
    /// If it has no end, or the patch does not fit the policy.
    pub(crate) fn lease(
        &self,
        patch: Patch,
        terms: Terms,
        by: &str,
    ) -> Result<LeaseView, LeaseError> {
        let rules = self.rules();
        let lease = self.asking.give(&rules, patch, terms, by)?;
        self.catch_up(&rules);
        Ok(lease)
    }
}
