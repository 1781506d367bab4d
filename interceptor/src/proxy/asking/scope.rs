//! What leases may permit.

use interceptor_policy::Policy;

/// Why a scope does not permit a lease.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScopeError {
    /// Nobody may permit more than the policy does.
    #[error(
        "the policy is the operator's and holds as it is while a run without sudo lasts: nobody \
         can permit more by a lease or an approval. Ask the operator to change the policy, and \
         start the run again"
    )]
    Settled,
    /// With the patch, the policy would reach addresses that are not public.
    #[error(
        "the policy would allow addresses that are not public, which is not yours to do without \
         sudo: {0}; the operator can permit it (`own_policies`: \"any-address\")"
    )]
    NotPublic(String),
}

/// What leases may permit, whoever gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LeaseScope {
    /// Whatever fits the policy.
    #[default]
    Any,
    /// What fits the policy and adds no address that is not public.
    Public,
    /// Nothing: there are no leases, and nobody is asked.
    Nothing,
}

impl LeaseScope {
    /// Judges a policy with a patch laid over it.
    pub(super) fn judge(self, laid: &Policy) -> Result<(), ScopeError> {
        match self {
            LeaseScope::Any => Ok(()),
            LeaseScope::Nothing => Err(ScopeError::Settled),
            LeaseScope::Public => match laid.allowed_special() {
                special if special.is_empty() => Ok(()),
                special => Err(ScopeError::NotPublic(special.join(", "))),
            },
        }
    }
}
