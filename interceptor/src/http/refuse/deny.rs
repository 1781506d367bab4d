//! Refusals caused by the request itself, or by what happened to it.

use interceptor_policy::{CredentialId, Deny, Filter, Policy, Reason};

/// A refusal caused by the request itself, or by what happened to it, rather than by a rule.
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

/// Refuses a host name that contains a placeholder, which its resolvers and servers would learn.
pub(crate) fn named_placeholder(policy: &Policy, id: CredentialId) -> Deny {
    let message = format!(
        "the request was refused: its host name carries the placeholder of the credential `{}`, \
         which belongs in a header of a request to the credential's own hosts",
        policy.credential(id).name
    );
    let deny = refusal(Reason::CredentialMisuse, message);
    Deny { filter: Filter::Credential, credential: Some(id), ..deny }
}
