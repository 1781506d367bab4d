//! What the sandboxes of a daemon ask, and their leases.

use std::sync::Arc;

use interceptor_policy::Patch;
use tokio::sync::broadcast;

use super::{Fleet, FleetError, Member};
pub(crate) use crate::proxy::asking::{
    Answer, ApprovalEvent, DecideError, LeaseError, LeaseView, QuestionView, ScopeError, Terms,
};

impl Fleet {
    /// Every question that waits, oldest first.
    pub(crate) fn questions(&self) -> Vec<QuestionView> {
        let members = self.list();
        let mut questions: Vec<QuestionView> =
            members.iter().flat_map(|member| member.sandbox.asking.questions()).collect();
        questions.sort_by_key(|question| question.asked_at);
        questions
    }

    /// A question, if it still waits.
    pub(crate) fn question(&self, id: &str) -> Option<QuestionView> {
        self.list().iter().find_map(|member| member.sandbox.asking.question(id))
    }

    /// What happens to questions from now on.
    pub(crate) fn approvals(&self) -> broadcast::Receiver<Arc<ApprovalEvent>> {
        self.runtime().approvals.listen()
    }

    /// Answers a question. Blocks.
    ///
    /// # Errors
    /// If there is no such question, or the answer does not fit it.
    pub(crate) fn decide(
        &self,
        id: &str,
        answer: &Answer,
        by: &str,
    ) -> Result<Option<LeaseView>, DecideError> {
        let members = self.list();
        let asked = members.iter().find(|member| member.sandbox.asking.knows(id));
        let member = asked.ok_or(DecideError::Unknown)?;
        // What is given while another process takes over would be lost.
        if member.is_frozen() {
            return Err(DecideError::Ending);
        }
        member.sandbox.decide(id, answer, by)
    }

    /// Gives a sandbox a lease. Blocks.
    ///
    /// # Errors
    /// If there is no such sandbox, or another process is taking it over; within, why there is no
    /// lease.
    pub(crate) fn lease(
        &self,
        id: &str,
        patch: Patch,
        terms: Terms,
        by: &str,
    ) -> Result<Result<LeaseView, LeaseError>, FleetError> {
        let member = self.get(id)?;
        if member.is_frozen() {
            return Err(FleetError::Ending);
        }
        Ok(member.sandbox.lease(patch, terms, by))
    }

    /// Ends a lease; `false` if there is none of this id. Blocks until no process permits by it.
    ///
    /// # Errors
    /// If there is no such sandbox, or another process is taking it over.
    pub(crate) fn revoke(&self, id: &str, lease: &str) -> Result<bool, FleetError> {
        let member = self.get(id)?;
        if member.is_frozen() {
            return Err(FleetError::Ending);
        }
        let revoked = member.sandbox.revoke(lease);
        // Another process may have taken it over before.
        if member.sandbox.asking.is_handed() {
            return Err(FleetError::Ending);
        }
        if revoked {
            // It still permits by what it handed over.
            self.outlive_predecessor(true);
        }
        Ok(revoked)
    }
}

impl Member {
    /// Its leases, oldest first.
    pub(crate) fn leases(&self) -> Vec<LeaseView> {
        self.sandbox.asking.leases(jiff::Timestamp::now())
    }

    fn is_frozen(&self) -> bool {
        self.with(|enforced| enforced.is_frozen).unwrap_or(true)
    }
}
