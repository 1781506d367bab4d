//! `/v1/sandboxes/{id}/policy`: replaces the whole policy of a running sandbox.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::model::SandboxDetails;
use super::params::{Id, Params, Text, json};
use super::peer::Peer;
use super::problem::ApiProblem;
use super::sandboxes;
use super::shared::{Control, blocking};

/// Options for replacing a policy.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Replace {
    /// Whether to close connections that the new policy does not permit.
    #[serde(default)]
    close: bool,
}

/// Replaces the policy and the keys. Requests in flight finish under the old policy; later ones are
/// judged by the new one. A credential keeps its placeholder as long as its name stays. An invalid
/// policy changes nothing.
#[utoipa::path(
    put,
    path = "/v1/sandboxes/{id}/policy",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id"), Replace),
    request_body(content = serde_json::Value, description = "A policy document"),
    responses(
        (status = 200, description = "The policy was replaced", body = SandboxDetails),
        (status = 400, description = "The body is not JSON"),
        (status = 404, description = "There is no such sandbox"),
        (status = 413, description = "The body is too large"),
        (status = 422, description = "The document is not valid"),
    )
)]
pub(super) async fn replace(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Id(id): Id,
    Params(Replace { close }): Params<Replace>,
    Text(text): Text,
) -> Result<Json<SandboxDetails>, ApiProblem> {
    control.fleet.get(&id)?;
    json(&text)?;
    let uid = peer.uid();
    let member = blocking(move || control.fleet.replace(&id, &text, close, uid)).await??;
    Ok(Json(sandboxes::details(&member)))
}

/// Reads the sandbox's policy file again, as SIGHUP does for every sandbox. A policy without a file
/// stays as it is, and so does one whose file is not valid.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/reload",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "The policy is as its file says", body = SandboxDetails),
        (status = 404, description = "There is no such sandbox"),
        (status = 422, description = "The file is not valid"),
    )
)]
pub(super) async fn reload(
    State(control): State<Control>,
    Id(id): Id,
) -> Result<Json<SandboxDetails>, ApiProblem> {
    let member = blocking(move || control.fleet.reread(&id)).await??;
    Ok(Json(sandboxes::details(&member)))
}
