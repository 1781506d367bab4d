//! Failures of the origin: it cannot be reached, answers too late, or does not answer in HTTP.

use interceptor_policy::{Deny, Host, Limits, Reason};

use super::super::sending::{Broken, Impatience};
use super::deny::refusal;
use crate::tls::refusal::{self as tls_refusal, HandshakeContext};
use crate::upstream::pool::ConnectError;

/// The failure when a time limit expires before the origin answers.
pub(in crate::http) fn too_slow(host: &Host, impatience: Impatience, limits: &Limits) -> Broken {
    let timeout = |message| refusal(Reason::UpstreamTimeout, message);
    match impatience {
        Impatience::Sandbox => Broken::idle(limits.idle_timeout),
        Impatience::Origin => {
            let message = format!(
                "`{host}` read nothing of the request's body for {:?}, which is \
                 limits.idle_timeout_seconds",
                limits.idle_timeout
            );
            Broken { deny: timeout(message), ends: Reason::IdleTimeout }
        }
        Impatience::Response => {
            let message = format!(
                "`{host}` did not begin to answer within {:?}, which is \
                 limits.response_timeout_seconds",
                limits.response_timeout
            );
            Broken { deny: timeout(message), ends: Reason::ResponseTimeout }
        }
    }
}

/// The refusal when no connection to the origin can be made.
pub(in crate::http) fn unreachable(host: &Host, error: &ConnectError) -> Deny {
    match error.denied() {
        Some(deny) => deny.clone(),
        None => refusal(error.reason(), format!("`{host}` could not be reached: {error}")),
    }
}

/// The refusal when a connection ends without a valid response.
pub(in crate::http) fn broken(
    host: &Host,
    error: &hyper::Error,
    attempt: HandshakeContext,
) -> Deny {
    tracing::debug!(%host, %error, "exchange with the origin failed");
    // In TLS 1.3 an origin rejects the client's certificate, or its absence, only after the
    // handshake.
    let alert = tls_refusal::in_chain(error)
        .filter(|error| matches!(error, rustls::Error::AlertReceived(_)));
    if alert.is_some() || attempt.asked_for_certificate && !error.is_parse() {
        let words = match alert {
            Some(alert) => tls_refusal::of_tls(alert, attempt),
            None => tls_refusal::certificate_missed(attempt),
        };
        return refusal(Reason::UpstreamTls, format!("`{host}` could not be reached: {words}"));
    }
    let what = if error.is_parse() {
        "sent an answer that is not valid HTTP"
    } else {
        "ended the connection without an answer"
    };
    refusal(Reason::UpstreamProtocol, format!("`{host}` {what}"))
}
