//! `/v1/approvals`: what sandboxes ask a person, and the answers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use interceptor_policy::Patch;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

use super::leases::{self, shown};
use super::model_approvals::{
    Approval, ApprovalAnswer, ApprovalDecided, ApprovalDecision, ProposedPatch,
};
use super::params::{Id, Params, Text, malformed};
use super::problem::ApiProblem;
use super::shared::{Control, Speaker, blocking};
use super::sse::{EventSender, ReaderGone};
use crate::fleet::{Answer, DecideError, Fleet, FleetError, QuestionView, Terms};

/// Interval of heartbeats on an idle stream.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Every question that waits for its answer, oldest first.
#[utoipa::path(
    get,
    path = "/v1/approvals",
    tag = "approvals",
    responses((status = 200, description = "The questions, oldest first", body = Vec<Approval>))
)]
pub(super) async fn list(State(fleet): State<Arc<Fleet>>) -> Json<Vec<Approval>> {
    Json(fleet.questions().into_iter().map(approval).collect())
}

/// Follows the questions of every sandbox. Events, each with the question: `asked`, `changed` (as
/// many requests wait as it says), `approved`, `refused`, `expired`, `withdrawn` (no request waits
/// any more). The stream begins with an `asked` for each that waits; after `dropped` (so many
/// events were lost), it begins anew.
#[utoipa::path(
    get,
    path = "/v1/approvals/events",
    tag = "approvals",
    responses((
        status = 200,
        description = "Server-sent events",
        body = String,
        content_type = "text/event-stream",
    ))
)]
pub(super) async fn follow(State(control): State<Control>) -> Response {
    let (events, answer) = EventSender::answer();
    tokio::spawn(async move {
        // Fails only if the reader is gone.
        let _ = send(control, events).await;
    });
    answer
}

async fn send(control: Control, events: EventSender) -> Result<(), ReaderGone> {
    // Before the list is read, so that nothing is missed.
    let mut coming = control.fleet.approvals();
    events.heartbeat().await?;
    all(&control.fleet, &events).await?;
    loop {
        let heard = tokio::select! {
            heard = tokio::time::timeout(HEARTBEAT, coming.recv()) => heard,
            () = events.gone() => return Err(ReaderGone),
        };
        match heard {
            Err(_) => events.heartbeat().await?,
            Ok(Ok(event)) => one(&events, event.name, event.question.clone()).await?,
            Ok(Err(RecvError::Lagged(count))) => {
                let data = serde_json::json!({ "dropped": count }).to_string();
                events.event("dropped", None, &data).await?;
                all(&control.fleet, &events).await?;
            }
            Ok(Err(RecvError::Closed)) => return Ok(()),
        }
    }
}

async fn all(fleet: &Fleet, events: &EventSender) -> Result<(), ReaderGone> {
    for question in fleet.questions() {
        one(events, "asked", question).await?;
    }
    Ok(())
}

async fn one(events: &EventSender, name: &str, question: QuestionView) -> Result<(), ReaderGone> {
    events.event(name, None, &question_text(&question)).await
}

/// A question as one line of JSON.
pub(crate) fn question_text(question: &QuestionView) -> String {
    // Made of strings and numbers; JSON has no raw line feed.
    serde_json::to_string(&approval(question.clone())).unwrap_or_default()
}

/// An answer in the form that the API takes.
///
/// # Errors
/// Why it is none.
pub(crate) fn answer_of(text: &str) -> Result<Answer, String> {
    answer(text).map_err(|problem| problem.detail)
}

/// A condition of an answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct OnlyIf {
    /// Decide only if the policy in force was read from a file with this SHA-256, in lower-case
    /// hexadecimal digits: what edits the file then keeps to what is in force, also of its keys.
    #[serde(default)]
    file_sha256: Option<String>,
}

impl OnlyIf {
    /// # Errors
    /// If the policy of the question's sandbox came from something else.
    fn holds(&self, fleet: &Fleet, id: &str) -> Result<(), ApiProblem> {
        let Some(digits) = &self.file_sha256 else { return Ok(()) };
        let question = fleet.questions().into_iter().find(|question| question.id == id);
        // Without one, the answer says what became of it.
        let Some(question) = question else { return Ok(()) };
        if fleet.get(&question.sandbox)?.is_of_text(digits) {
            return Ok(());
        }
        let detail = "its file no longer holds what was read from it: make the daemon reload it, \
                      or edit it by hand";
        let title = "The policy in force is another";
        Err(ApiProblem::new(StatusCode::CONFLICT, "other_file", title, detail))
    }
}

/// Answers a question. `allow` gives a lease by one of the question's patches: without `seconds`
/// and `uses`, for as many requests as wait on it.
#[utoipa::path(
    post,
    path = "/v1/approvals/{id}",
    tag = "approvals",
    params(("id" = String, Path, description = "The question's id"), OnlyIf),
    request_body(content = ApprovalAnswer),
    responses(
        (status = 200, description = "It is decided", body = ApprovalDecided),
        (status = 400, description = "The body is not such an answer"),
        (status = 404, description = "There is no such question"),
        (
            status = 409,
            description = "It is decided already, or its policy was replaced or is another file's",
        ),
        (
            status = 422,
            description = "The patch is none of the question's, or the terms have no end",
        ),
    )
)]
pub(super) async fn decide(
    State(fleet): State<Arc<Fleet>>,
    Extension(speaker): Extension<Speaker>,
    Id(id): Id,
    Params(only_if): Params<OnlyIf>,
    Text(text): Text,
) -> Result<Json<ApprovalDecided>, ApiProblem> {
    let answer = answer(&text)?;
    let decided = blocking(move || {
        only_if.holds(&fleet, &id)?;
        let lease = fleet.decide(&id, &answer, speaker.name()).map_err(problem)?;
        let decision =
            if lease.is_some() { ApprovalDecision::Allow } else { ApprovalDecision::Deny };
        Ok(ApprovalDecided { id, decision, lease: lease.map(shown) })
    });
    decided.await?.map(Json)
}

/// An answer, from the text of a request or of a webhook.
fn answer(text: &str) -> Result<Answer, ApiProblem> {
    let ApprovalAnswer { decision, patch, seconds, uses } =
        serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    if decision == ApprovalDecision::Deny {
        return Ok(Answer::Deny);
    }
    let patch = patch.map(|operations| Patch::from_value(operations.into())).transpose();
    let patch = patch.map_err(|error| ApiProblem::field("/patch", error.to_string()))?;
    Ok(Answer::Allow { patch, terms: Terms { seconds, uses } })
}

pub(super) fn problem(error: DecideError) -> ApiProblem {
    let detail = error.to_string();
    match error {
        DecideError::Unknown => ApiProblem::new(
            StatusCode::NOT_FOUND,
            "no_such_question",
            "There is no such question",
            "GET /v1/approvals lists all that wait",
        ),
        DecideError::Decided => {
            ApiProblem::new(StatusCode::CONFLICT, "decided", "It is decided already", detail)
        }
        DecideError::Changed => {
            ApiProblem::new(StatusCode::CONFLICT, "changed", "The policy has changed", detail)
        }
        DecideError::OtherPatch => ApiProblem::field("/patch", detail),
        DecideError::Lease(error) => leases::problem(error),
        DecideError::Ending => FleetError::Ending.into(),
    }
}

/// A question as the API shows it.
pub(super) fn approval(question: QuestionView) -> Approval {
    let patch = |proposal: interceptor_policy::Proposal| ProposedPatch {
        patch: proposal.patch.to_value().as_array().cloned().unwrap_or_default(),
        wider: proposal.wider,
    };
    Approval {
        id: question.id,
        sandbox: question.sandbox,
        asked_at: format!("{:.6}", question.asked_at),
        expires_at: format!("{:.6}", question.expires_at),
        host: question.host,
        port: question.port,
        method: question.method,
        path: question.path,
        reason: question.reason.to_owned(),
        message: question.message,
        waiting: question.waiting as u64,
        patches: question.proposals.into_iter().map(patch).collect(),
    }
}
