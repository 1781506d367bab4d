//! Approves a question for good: the edit is also written into the policy's file, and put into
//! force.
//!
//! A run does it itself, with its user's rights. A daemon's file is edited here, with the rights of
//! whoever types the command: the daemon may have none to it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use http::Method;
use interceptor_policy::{Patch, strict_json};
use serde_json::{Value, json};

use super::sandboxes;
use super::to::DaemonClient;
use crate::cli::daemon::client::ApiRequest;
use crate::cli::daemon::events::encoded;
use crate::cli::person::Person;
use crate::cli::policy_file::printable;
use crate::cli::registries;
use crate::fleet::{PolicyEdit, TextDigest, hide_keys};

/// Approves a question with this answer, which names one of its patches. What was decided, and the
/// policy's file.
///
/// # Errors
/// If the file cannot be edited, or the question not answered. Then neither has happened, unless
/// the error says so.
pub(in crate::cli) fn for_good(
    to: &DaemonClient,
    sandbox: &str,
    id: &str,
    answer: &Value,
) -> anyhow::Result<(Value, String)> {
    let (shown, by) = to.get_with_user(&sandboxes::path(sandbox))?;
    let Some(file) = shown["policy_file"].as_str().map(PathBuf::from) else {
        bail!(
            "the policy of {} has no file; replace it: interceptor ctl policy put",
            printable(sandbox)
        );
    };
    let path = format!("/v1/approvals/{}", encoded(id));
    // Runs alone have one.
    if shown["command"].is_string() {
        let body = json!({
            "patch": answer["patch"], "seconds": answer["seconds"], "uses": answer["uses"],
        });
        let decided = to.value(post(format!("{path}/always"), &body))?;
        return Ok((decided, file.display().to_string()));
    }
    let edit = prepare(&file, &shown["policy"], &answer["patch"], by == 0)?;
    let shown = file.display();
    let only_if = TextDigest::of(edit.before());
    let decided = to.value(post(format!("{path}?file_sha256={}", only_if.digits()), answer))?;
    edit.write()
        .with_context(|| format!("the requests that waited go on, but {shown} was not written"))?;
    let path = format!("{}/reload", sandboxes::path(sandbox));
    to.ask(ApiRequest { method: Method::POST, path, body: None }).with_context(|| {
        format!("the edit was written to {shown}, but the daemon did not reload it")
    })?;
    Ok((decided, shown.to_string()))
}

/// A request with this body.
fn post(path: String, body: &Value) -> ApiRequest {
    let body = Some(("application/json", body.to_string().into_bytes()));
    ApiRequest { method: Method::POST, path, body }
}

/// The edit of a file that a daemon named, with the policy that it shows.
fn prepare(
    file: &Path,
    shown: &Value,
    patch: &Value,
    is_roots: bool,
) -> anyhow::Result<PolicyEdit> {
    let patch = Patch::from_value(patch.clone()).context("the question's patch")?;
    let catalogue = registries::catalogue(None)?;
    // Its keys are compared by the daemon.
    let is_in_force = |text: &str| is_same(text, shown);
    let prepare = || PolicyEdit::prepare(file, &is_in_force, &patch, &catalogue);
    // Whoever is not root does not say what root edits.
    let prepared = if is_roots { prepare() } else { Person::invoking()?.act(|| Ok(prepare()))? };
    Ok(prepared?)
}

/// Whether a text is this policy, which is shown without its keys.
fn is_same(text: &str, shown: &Value) -> bool {
    let Ok(strict) = strict_json(text) else { return false };
    let Ok(mut own) = serde_json::from_str::<Value>(&strict) else { return false };
    hide_keys(&mut own);
    own == *shown
}
