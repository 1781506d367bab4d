//! `/v1/sandboxes/{id}/policy`: replaced as a whole, while the sandbox goes on.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::model::SandboxDetails;
use super::params::{Id, Params, Text, json};
use super::problem::Problem;
use super::{Control, blocking, sandboxes};

/// How a policy is replaced.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Replace {
    /// Whether connections that the new policy would not permit are closed at once.
    #[serde(default)]
    close: bool,
}

/// Replaces the policy and the keys. Requests under way end by the policy they began with, each later one is judged by the new. The
/// placeholder of a credential stays as long as its name does. A policy that is not valid changes nothing.
#[utoipa::path(
    put,
    path = "/v1/sandboxes/{id}/policy",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id"), Replace),
    request_body(content = serde_json::Value, description = "A policy document"),
    responses(
        (status = 200, description = "The policy holds", body = SandboxDetails),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such sandbox", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The document is not valid", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn replace(
    State(control): State<Control>,
    Id(id): Id,
    Params(Replace { close }): Params<Replace>,
    Text(text): Text,
) -> Result<Json<SandboxDetails>, Problem> {
    control.fleet.get(&id)?;
    json(&text)?;
    let member = blocking(move || control.fleet.replace(&id, &text, close)).await??;
    Ok(Json(sandboxes::details(&member)))
}
