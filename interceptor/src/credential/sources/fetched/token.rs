//! The answer of a token endpoint (RFC 6749 section 5).

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::printed::{self, End, Number, Printed};
use super::super::problem::SourceProblem;
use crate::fetch::Answer;
use crate::ipc::Secret;
use std::time::Duration;

/// The errors that an endpoint may name (RFC 6749 section 5.2). No other text of it is shown.
const CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

#[derive(Deserialize)]
struct Token {
    access_token: Secret,
    token_type: Option<Secret>,
    expires_in: Option<Number>,
    refresh_token: Option<Secret>,
}

/// A token, and the refresh token for the next.
pub(super) struct Given {
    pub(super) token: Printed,
    pub(super) refresh: Option<Secret>,
}

/// Reads an answer.
pub(super) fn read(answer: &Answer, ttl: Duration, now: Timestamp) -> Result<Given, SourceProblem> {
    if answer.status != StatusCode::OK {
        let refusal = serde_json::from_slice::<Refusal>(&answer.body).ok();
        let code = refusal.and_then(|Refusal { error }| CODES.into_iter().find(|c| *c == error));
        return Err(SourceProblem::Answered { status: answer.status.as_u16(), code });
    }
    // An error of the parser may quote the text.
    let token = serde_json::from_slice(&answer.body).map_err(|_| SourceProblem::NoToken)?;
    let Token { access_token, token_type, expires_in, refresh_token } = token;
    // A token of another kind is no use in the header of a request.
    if token_type.is_some_and(|kind| !kind.expose().eq_ignore_ascii_case("bearer")) {
        return Err(SourceProblem::TokenType);
    }
    let end = match expires_in {
        None => End::Never,
        Some(seconds) => End::In(seconds.value().ok_or(SourceProblem::NoToken)?),
    };
    let key = Zeroizing::new(access_token.expose().as_bytes().to_vec());
    Ok(Given { token: printed::lasting(key, end, ttl, now)?, refresh: refresh_token })
}
