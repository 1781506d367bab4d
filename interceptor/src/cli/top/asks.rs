//! Carries out what is asked of a daemon or a run, beside the screen.

use http::Method;
use serde_json::Value;

use super::heard::{Ask, Told};
use super::text::Plain;
use crate::cli::ctl::{self, DaemonClient};
use crate::cli::daemon::client::ApiRequest;
use crate::cli::daemon::events::encoded;

/// Carries it out. Blocks.
pub(super) fn carry_out(to: &DaemonClient, ask: Ask) -> Option<Told> {
    let is_story = matches!(ask, Ask::Story { .. });
    match told(to, ask) {
        Ok(told) => Some(told),
        // The story that is known is shown.
        Err(_) if is_story => None,
        Err(error) => Some(Told::Failed(Plain::of(&format!("{error:#}")))),
    }
}

fn told(to: &DaemonClient, ask: Ask) -> anyhow::Result<Told> {
    let done = |text: &str| Ok(Told::Done(Plain::of(text)));
    match ask {
        Ask::Decide { question, body } => {
            let decided = ctl::decide(to, &question, &body)?;
            done(&said(&decided))
        }
        Ask::Always { sandbox, question, body } => {
            let (_, file) = ctl::for_good(to, &sandbox, &question, &body)?;
            done(&format!("approved, and the edit is in {file}"))
        }
        Ask::Lease { sandbox, body } => {
            let path = format!("{}/leases", of(&sandbox));
            let lease = to.value(post(path, &body))?;
            done(&format!("permitted{}", end(&lease)))
        }
        Ask::Revoke { sandbox, lease } => {
            let path = format!("{}/leases/{}", of(&sandbox), encoded(&lease));
            to.ask(ApiRequest { method: Method::DELETE, path, body: None })?;
            done("revoked")
        }
        Ask::Story { record, json } => {
            let sandbox = json["sandbox"].as_str().unwrap_or_default();
            let mut story = to.value(post(format!("{}/story", of(sandbox)), &json))?;
            // To tell the line at which a rule stands.
            if story["rule"].is_object() {
                story["policy"] = to.get(&of(sandbox))?["policy"].take();
            }
            Ok(Told::Story { record, story })
        }
        Ask::Policy { sandbox, marked } => {
            let details = to.get(&of(&sandbox))?;
            Ok(Told::Policy { sandbox, marked, details })
        }
    }
}

fn of(sandbox: &str) -> String {
    format!("/v1/sandboxes/{}", encoded(sandbox))
}

fn post(path: String, body: &Value) -> ApiRequest {
    let body = Some(("application/json", body.to_string().into_bytes()));
    ApiRequest { method: Method::POST, path, body }
}

/// A decision in words.
fn said(decided: &Value) -> String {
    match decided["decision"] == "deny" {
        true => "refused".to_owned(),
        false => format!("approved{}", end(&decided["lease"])),
    }
}

/// When a lease ends.
fn end(lease: &Value) -> String {
    let until = super::text::clock(&lease["until"]);
    match (until.is_empty(), lease["uses"].as_u64()) {
        (false, Some(uses)) => format!(" until {until} or for {uses} more"),
        (false, None) => format!(" until {until}"),
        (true, Some(uses @ 1..)) => format!(", and {uses} more"),
        (true, _) => String::new(),
    }
}
