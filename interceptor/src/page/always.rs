//! Approves a question for good: the edit is also written into the policy's file, and the policy
//! read again.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use interceptor_policy::Patch;
use serde::Deserialize;
use serde_json::{Value, json};

use super::files::PolicyFiles;
use super::shared::Shared;
use crate::control::{ApiProblem, Id, Text, blocking, lease_text, undecided};
use crate::fleet::{Answer, EditError, Fleet, Member, Source, Terms};

/// What is approved.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approved {
    /// One of the question's patches.
    patch: Vec<Value>,
}

/// Approves it.
pub(super) async fn approve(
    State(shared): State<Shared>,
    Id(id): Id,
    Text(text): Text,
) -> Result<Json<Value>, ApiProblem> {
    let Approved { patch } = serde_json::from_str(&text)
        .map_err(|error| ApiProblem::field("", format!("this is no answer: {error}")))?;
    let patch = Patch::from_value(patch.into());
    let patch = patch.map_err(|error| ApiProblem::field("/patch", error.to_string()))?;
    let _editing = shared.0.editing.lock().await;
    let inner = shared.0.clone();
    let decided = blocking(move || {
        let (fleet, files) = (&inner.page.fleet, &inner.page.files);
        decide(fleet, files.as_ref(), &id, patch)
    });
    decided.await?.map(Json)
}

fn decide(
    fleet: &Arc<Fleet>,
    files: &dyn PolicyFiles,
    id: &str,
    patch: Patch,
) -> Result<Value, ApiProblem> {
    let question = fleet.questions().into_iter().find(|question| question.id == id);
    let allow = Answer::Allow { patch: Some(patch.clone()), terms: Terms::default() };
    let Some(question) = question else {
        // Whatever it is, it says so.
        fleet.decide(id, &allow, "page").map_err(undecided)?;
        return Ok(json!({}));
    };
    // Only what was proposed goes into a file, whatever the answer says.
    if !question.proposals.iter().any(|proposal| proposal.patch == patch) {
        return Err(ApiProblem::field("/patch", "the patch is none of the question's `patches`"));
    }
    let member = fleet.get(&question.sandbox)?;
    let path = file_of(&member)?;
    let shown = member.summary().policy;
    let edit = files.prepare(fleet, &path, &shown, &patch).map_err(|error| unwritten(&error))?;
    let lease = fleet.decide(id, &allow, "page").map_err(undecided)?;
    edit.write().map_err(|error| {
        let why = format!("the requests that waited go on, but {} was not written", path.display());
        ApiProblem::internal(format!("{why}: {error}"))
    })?;
    files.reload(fleet, &member, &edit).map_err(|why| {
        let path = path.display();
        ApiProblem::internal(format!("the edit is in {path}, but it was not read again: {why}"))
    })?;
    let path = path.display().to_string();
    Ok(json!({ "id": id, "lease": lease.map(lease_text), "policy_file": path }))
}

fn file_of(member: &Member) -> Result<PathBuf, ApiProblem> {
    match member.summary().source {
        Source::File(path) => Ok(path),
        Source::Given => {
            let title = "The policy has no file";
            let detail = "replace the policy: interceptor ctl policy put";
            Err(ApiProblem::new(StatusCode::CONFLICT, "no_policy_file", title, detail))
        }
    }
}

fn unwritten(error: &EditError) -> ApiProblem {
    let by_hand = match error {
        EditError::Unreadable { .. } => {
            "; the daemon may write the files that its options named when it started: at a \
             terminal, `interceptor ctl approve ID --always` writes with your own rights"
        }
        _ => "",
    };
    let title = "The policy's file cannot be edited";
    ApiProblem::new(StatusCode::CONFLICT, "not_editable", title, format!("{error}{by_hand}"))
}
