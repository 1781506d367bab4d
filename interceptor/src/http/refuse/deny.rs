//! Refusals that the request itself, or what became of it, gives rise to.

use interceptor_policy::{CredentialId, Deny, Filter, Policy, Reason};

/// A refusal that the request itself, or what became of it, gives rise to, rather than a rule.
pub(crate) fn refusal(reason: Reason, message: String) -> Deny {
    Deny {
        reason,
        status: reason.status(),
        filter: Filter::Request,
        rule: None,
        credential: None,
        message,
        nearest: None,
    }
}

/// The refusal of a host whose name carries a placeholder: whoever resolves or answers it would
/// learn of it.
pub(crate) fn named_placeholder(policy: &Policy, id: CredentialId) -> Deny {
    let message = format!(
        "the request was refused: its host name carries the placeholder of the credential `{}`, \
         which belongs in a header of a request to the credential's own hosts",
        policy.credential(id).name
    );
    let deny = refusal(Reason::CredentialMisuse, message);
    Deny { filter: Filter::Credential, credential: Some(id), ..deny }
}
