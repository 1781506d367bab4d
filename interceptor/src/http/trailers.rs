//! The trailers of a request: sent, or the request is refused, but never dropped silently.
//!
//! Their recipient may merge trailers into the headers (RFC 9110 section 6.5.1). So trailers that
//! frame or route a message are refused, trailers that authenticate are removed on governed hosts
//! as headers are, and a placeholder in a trailer is misuse as it is in a header. An HTTP/1.1
//! connection carries only trailers that `trailer` announced, since the head is sent before they
//! arrive.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, TRAILER};
use interceptor_policy::{CredentialId, Deny, Filter, Host, Reason, Scheme, is_method_override};

use super::inject::strip_trailer_authentication;
use super::offers::is_offer_in_trailer;
use super::refuse::deny::refusal;
use crate::proxy::Rules;
use crate::upstream::body::Carriage;

/// Fields that frame, route, authenticate or control the handling of a message.
const NEVER: [&str; 21] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// The names that `trailer` announces.
pub(crate) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect()
}

/// Scheme, host and port.
pub(crate) type Origin = (Scheme, Host, u16);

/// How to handle the trailers of one request.
#[derive(Debug)]
pub(crate) struct Trailers {
    rules: Arc<Rules>,
    /// The credential of the request.
    credential: Option<CredentialId>,
    /// Where the request goes; `None` if it has no trailers.
    to: Option<Origin>,
    carriage: Carriage,
}

impl Trailers {
    /// For a request judged by `rules`.
    pub(crate) fn new(
        rules: Arc<Rules>,
        credential: Option<CredentialId>,
        to: Option<Origin>,
    ) -> Trailers {
        Trailers { rules, credential, to, carriage: Carriage::All }
    }

    /// Sets which trailers the connection can carry.
    pub(crate) fn carried(&mut self, carriage: Carriage) {
        self.carriage = carriage;
    }

    /// The trailers to send.
    ///
    /// # Errors
    /// The refusal, if one may not be sent or would be lost.
    pub(crate) fn kept(&self, mut fields: HeaderMap) -> Result<HeaderMap, Deny> {
        let presented = self.rules.keyring.presented(&fields, None);
        // Looked up only now, since hardly any request has trailers.
        let policy = &self.rules.policy;
        let governing =
            self.to.as_ref().map(|(scheme, host, port)| policy.governing(*scheme, host, *port));
        let governing = governing.unwrap_or_default();
        if let Some(id) = presented.credentials.iter().find(|id| !governing.contains(id)) {
            let name = &self.rules.policy.credential(*id).name;
            let message = format!(
                "the trailers carry the placeholder of the credential `{name}`, which belongs in \
                 a header of a request to the credential's own hosts"
            );
            let deny = refusal(Reason::CredentialMisuse, message);
            return Err(Deny { filter: Filter::Credential, credential: Some(*id), ..deny });
        }
        if let Some(id) = self.credential {
            strip_trailer_authentication(&mut fields, &self.rules.policy, id);
        }
        for name in fields.keys() {
            let never = NEVER.contains(&name.as_str().replace('_', "-").as_str());
            if never || is_method_override(name.as_str()) || is_offer_in_trailer(name) {
                return Err(refused(
                    name,
                    "frames, routes or authenticates a message, and belongs in its head",
                ));
            }
            match &self.carriage {
                Carriage::Announced(names) if !names.contains(name) => {
                    return Err(refused(
                        name,
                        "was not announced; the origin speaks HTTP/1.1, so name it in a `trailer` \
                         header and send the body chunked",
                    ));
                }
                _ => {}
            }
        }
        Ok(fields)
    }
}

fn refused(name: &HeaderName, why: &str) -> Deny {
    refusal(Reason::RequestMalformed, format!("the trailer `{name}` {why}"))
}
