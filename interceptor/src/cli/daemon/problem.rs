//! A refusal of the daemon: a problem document (RFC 9457), shown as an error message.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::policy_file::printable;

/// The most characters shown of a response that is not a problem document.
const SHOWN: usize = 300;

/// A refusal.
#[derive(Debug)]
pub(in crate::cli) struct DaemonProblem {
    status: StatusCode,
    document: Option<ProblemDocument>,
    /// The body, if it is not a problem document.
    text: String,
    /// The requested sandbox.
    sandbox: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct ProblemDocument {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    /// The errors in a policy, each with its location.
    #[serde(default)]
    errors: Vec<Value>,
}

impl DaemonProblem {
    /// Reads an answer's body.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> DaemonProblem {
        let document: Option<ProblemDocument> = serde_json::from_slice(body).ok();
        let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
        DaemonProblem { status, document, text: text.chars().take(SHOWN).collect(), sandbox: None }
    }

    /// Whether there is nothing at the path.
    pub(in crate::cli) fn is_missing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Adds the sandbox named in the request's path.
    pub(super) fn at(self, path: &str) -> DaemonProblem {
        let rest = path.strip_prefix("/v1/sandboxes/");
        let id = rest.and_then(|rest| rest.split(['/', '?']).next());
        let decoded =
            id.map(|id| percent_encoding::percent_decode_str(id).decode_utf8_lossy().into_owned());
        DaemonProblem { sandbox: decoded, ..self }
    }
}

impl fmt::Display for DaemonProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(document) = &self.document else {
            write!(f, "the daemon refused: {}", self.status)?;
            return match self.text.trim() {
                "" => Ok(()),
                text => write!(f, ": {}", printable(text)),
            };
        };
        if let (true, Some(id)) = (document.kind.ends_with(":no_such_sandbox"), &self.sandbox) {
            return write!(f, "no sandbox \"{}\"; see: interceptor ctl sandboxes", printable(id));
        }
        let title =
            document.title.as_deref().or(self.status.canonical_reason()).unwrap_or("refused");
        write!(f, "the daemon refused: {} ({})", printable(title), self.status.as_u16())?;
        if let Some(detail) = &document.detail {
            write!(f, ": {}", printable(detail))?;
        }
        // A single error is already in the detail, with its location.
        let told = |error: &Value| {
            let detail = document.detail.as_deref().unwrap_or_default();
            document.errors.len() == 1
                && error["detail"].as_str().is_some_and(|error| detail.ends_with(error))
        };
        for error in document.errors.iter().filter(|error| !told(error)) {
            let place = ["path", "pointer"].iter().find_map(|name| error[name].as_str());
            let message = ["message", "detail"].iter().find_map(|name| error[name].as_str());
            match (place.filter(|place| !place.is_empty()), message) {
                (Some(place), Some(message)) => {
                    write!(f, "\n  {}: {}", printable(place), printable(message))?;
                }
                (None, Some(message)) => write!(f, "\n  {}", printable(message))?,
                _ => write!(f, "\n  {}", printable(&error.to_string()))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_every_place_and_nothing_steers_the_terminal() {
        let body = br#"{"type":"about:blank","title":"The policy is not valid","status":422,
            "detail":"2 errors\u001b[2J",
            "errors":[{"path":"/network/allow/0","message":"no host"},{"message":"odd\u202e"}]}"#;
        let shown = DaemonProblem::read(StatusCode::UNPROCESSABLE_ENTITY, body).to_string();
        assert_eq!(
            shown,
            "the daemon refused: The policy is not valid (422): 2 errors\\u{1b}[2J\n  \
             /network/allow/0: no host\n  odd\\u{202e}"
        );
        let body = br#"{"type":"about:blank","title":"The document is invalid",
            "detail":"/pid: must be a number",
            "errors":[{"pointer":"/pid","detail":"must be a number"}]}"#;
        let shown = DaemonProblem::read(StatusCode::UNPROCESSABLE_ENTITY, body).to_string();
        assert_eq!(
            shown,
            "the daemon refused: The document is invalid (422): /pid: must be a number"
        );
        let shown = DaemonProblem::read(StatusCode::BAD_GATEWAY, b"<html>\x1b[2J").to_string();
        assert_eq!(shown, "the daemon refused: 502 Bad Gateway: <html>\\u{1b}[2J");
        assert_eq!(
            DaemonProblem::read(StatusCode::NOT_FOUND, b"{}").to_string(),
            "the daemon refused: Not Found (404)"
        );
        let body = br#"{"type":"urn:interceptor:problem:no_such_sandbox","title":"x"}"#;
        let problem = DaemonProblem::read(StatusCode::NOT_FOUND, body)
            .at("/v1/sandboxes/nope%1b/policy?close=true");
        assert_eq!(
            problem.to_string(),
            "no sandbox \"nope\\u{1b}\"; see: interceptor ctl sandboxes"
        );
    }
}
