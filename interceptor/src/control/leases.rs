//! `/v1/sandboxes/{id}/leases`: what is permitted beside the policy, for a time or so many
//! requests.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use interceptor_policy::Patch;

use super::model_approvals::{Lease, NewLease};
use super::params::{Id, Text, malformed};
use super::problem::ApiProblem;
use super::shared::{Speaker, blocking};
use crate::fleet::{Fleet, FleetError, LeaseError, LeaseView, ScopeError, Terms};

/// The leases of a sandbox, oldest first.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/leases",
    tag = "approvals",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "The leases in force", body = Vec<Lease>),
        (status = 404, description = "There is no such sandbox"),
    )
)]
pub(super) async fn list(
    State(fleet): State<Arc<Fleet>>,
    Id(id): Id,
) -> Result<Json<Vec<Lease>>, ApiProblem> {
    let member = fleet.get(&id)?;
    Ok(Json(member.leases().into_iter().map(shown).collect()))
}

/// Permits more for a time, for so many requests, or both. The patch (RFC 6902) may change the
/// network's `allow` and `deny` rules, `network_profile`, and the `endpoints` and `allow_plaintext`
/// of credentials. The policy itself stays as it is.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/leases",
    tag = "approvals",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body(content = NewLease),
    responses(
        (status = 201, description = "The lease is in force", body = Lease),
        (status = 400, description = "The body is not such a request"),
        (
            status = 403,
            description = "The policy is an operator's, and the sandbox a run without sudo",
        ),
        (status = 404, description = "There is no such sandbox"),
        (status = 422, description = "The patch does not fit the policy, or the lease has no end"),
    )
)]
pub(super) async fn give(
    State(fleet): State<Arc<Fleet>>,
    Extension(speaker): Extension<Speaker>,
    Id(id): Id,
    Text(text): Text,
) -> Result<(StatusCode, Json<Lease>), ApiProblem> {
    fleet.get(&id)?;
    let NewLease { patch, seconds, uses } =
        serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let patch = Patch::from_value(patch.into());
    let patch = patch.map_err(|error| ApiProblem::field("/patch", error.to_string()))?;
    let terms = Terms { seconds, uses };
    let lease = blocking(move || fleet.lease(&id, patch, terms, speaker.name())).await??;
    Ok((StatusCode::CREATED, Json(shown(lease.map_err(problem)?))))
}

/// Revokes a lease. Holds for the next request; those in progress finish.
#[utoipa::path(
    delete,
    path = "/v1/sandboxes/{id}/leases/{lease}",
    tag = "approvals",
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("lease" = String, Path, description = "The lease's id"),
    ),
    responses(
        (status = 204, description = "It is revoked"),
        (status = 404, description = "There is no such sandbox or lease"),
    )
)]
pub(super) async fn revoke(
    State(fleet): State<Arc<Fleet>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, ApiProblem> {
    let none = || {
        ApiProblem::new(
            StatusCode::NOT_FOUND,
            "no_such_lease",
            "There is no such lease",
            "GET /v1/sandboxes/{id}/leases lists those in force",
        )
    };
    let Path((id, lease)) = path.map_err(|_| none())?;
    match blocking(move || fleet.revoke(&id, &lease)).await?? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(none()),
    }
}

pub(super) fn problem(error: LeaseError) -> ApiProblem {
    let detail = error.to_string();
    match error {
        LeaseError::TooMany => {
            ApiProblem::new(StatusCode::CONFLICT, "too_many_leases", "Too many leases", detail)
        }
        LeaseError::Ending => FleetError::Ending.into(),
        LeaseError::Endless => ApiProblem::field("/seconds", detail),
        LeaseError::TooLarge
        | LeaseError::Overlay(_)
        | LeaseError::Scope(ScopeError::NotPublic(_)) => ApiProblem::field("/patch", detail),
        LeaseError::Scope(ScopeError::Settled) => {
            ApiProblem::new(StatusCode::FORBIDDEN, "settled", "The policy is settled", detail)
        }
    }
}

/// A lease as the API shows it.
pub(crate) fn lease_text(lease: LeaseView) -> serde_json::Value {
    // Made of strings and numbers.
    serde_json::to_value(shown(lease)).unwrap_or_default()
}

/// A lease as the API shows it.
pub(super) fn shown(lease: LeaseView) -> Lease {
    Lease {
        id: lease.id,
        patch: lease.patch.as_array().cloned().unwrap_or_default(),
        created: format!("{:.6}", lease.created),
        until: lease.until.map(|end| format!("{end:.6}")),
        uses: lease.uses,
        by: lease.by,
    }
}
