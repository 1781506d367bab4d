//! Approves a question for good: the edit is also written into the policy's file, and the policy
//! read again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use interceptor_policy::Patch;

use super::approvals::problem;
use super::leases::shown;
use super::model_approvals::{ApprovalForGood, ApprovalWritten};
use super::params::{Id, Text, malformed};
use super::problem::ApiProblem;
use super::shared::{Control, Speaker, blocking};
use crate::fleet::{Answer, DecideError, EditError, Fleet, PolicyFiles, Terms};

/// Permits what a question asks, and writes the edit into the policy's file, with the rights of the
/// run's user; comments stay. The file must still hold what was read from it, to the letter. The
/// lease is for the requests that wait, unless `seconds` or `uses` extend it.
#[utoipa::path(
    post,
    path = "/v1/approvals/{id}/always",
    tag = "approvals",
    params(("id" = String, Path, description = "The question's id")),
    request_body(content = ApprovalForGood),
    responses(
        (
            status = 200,
            description = "It is decided, and the edit in force",
            body = ApprovalWritten,
        ),
        (status = 400, description = "The body is not such an answer"),
        (status = 404, description = "There is no such question"),
        (
            status = 409,
            description = "It is decided already, or the policy has no file that can be edited",
        ),
        (status = 422, description = "The patch is none of the question's"),
    )
)]
pub(super) async fn approve(
    State(control): State<Control>,
    Extension(speaker): Extension<Speaker>,
    Id(id): Id,
    Text(text): Text,
) -> Result<Json<ApprovalWritten>, ApiProblem> {
    let Some(files) = control.files else { return Err(no_file()) };
    blocking(move || decide(&control.fleet, files.as_ref(), (&id, &text), &speaker))
        .await?
        .map(Json)
}

/// Approves a question, by its id and the text of the request.
///
/// # Errors
/// If the file cannot be edited, or the question not answered. Then neither has happened, unless
/// the problem says so.
pub(crate) fn decide(
    fleet: &Arc<Fleet>,
    files: &dyn PolicyFiles,
    (id, text): (&str, &str),
    speaker: &Speaker,
) -> Result<ApprovalWritten, ApiProblem> {
    let ApprovalForGood { patch, seconds, uses } =
        serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let patch = Patch::from_value(patch.into());
    let patch = patch.map_err(|error| ApiProblem::field("/patch", error.to_string()))?;
    let question = fleet.questions().into_iter().find(|question| question.id == id);
    let terms = Terms { seconds, uses };
    let allow = Answer::Allow { patch: Some(patch.clone()), terms };
    let decide = || fleet.decide(id, &allow, speaker.name()).map_err(problem);
    let Some(question) = question else {
        // Whatever it is, it says so.
        decide()?;
        return Err(problem(DecideError::Unknown));
    };
    // Only what was proposed goes into a file, whatever the answer says.
    if !question.proposals.iter().any(|proposal| proposal.patch == patch) {
        return Err(ApiProblem::field("/patch", "the patch is none of the question's `patches`"));
    }
    let member = fleet.get(&question.sandbox)?;
    let path = member.file().ok_or_else(no_file)?;
    let edit = files.prepare(fleet, &member, &path, &patch).map_err(|error| unwritten(&error))?;
    let lease = decide()?;
    let failed = |why: String| {
        let what =
            format!("the requests that waited go on, but {} was not written", path.display());
        ApiProblem::internal(format!("{what}: {why}"))
    };
    // First, so that whoever watches the file finds in it what is in force.
    files.reload(fleet, &member, edit.text()).map_err(failed)?;
    edit.write().map_err(|error| {
        let kept = files.reload(fleet, &member, edit.before()).err();
        let kept = kept.map_or(String::new(), |why| format!("; the edit stays in force: {why}"));
        failed(format!("{error}{kept}"))
    })?;
    let policy_file = path.display().to_string();
    Ok(ApprovalWritten { id: id.to_owned(), lease: lease.map(shown), policy_file })
}

fn no_file() -> ApiProblem {
    let title = "The policy has no file";
    let detail = "replace the policy: interceptor ctl policy put";
    ApiProblem::new(StatusCode::CONFLICT, "no_policy_file", title, detail)
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
