//! A sandbox's policy, without keys, placeholders or leases.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::shared::Shared;
use crate::control::{ApiProblem, Id};
use crate::fleet::Member;

/// Shows it.
pub(super) async fn show(
    State(shared): State<Shared>,
    Id(id): Id,
) -> Result<Json<Value>, ApiProblem> {
    let member = shared.0.page.fleet.get(&id)?;
    Ok(Json(shown(&member)))
}

fn shown(member: &Member) -> Value {
    let about = member.summary();
    let file = about.source.path().map(|path| path.display().to_string());
    let warnings: Vec<Value> = about
        .warnings
        .iter()
        .map(|warning| json!({ "pointer": warning.pointer, "detail": warning.message }))
        .collect();
    json!({
        "id": &*member.id,
        "policy": about.policy,
        "policy_file": file,
        "policy_changed": format!("{:.6}", about.changed),
        "warnings": warnings,
    })
}
