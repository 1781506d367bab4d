//! Approves a question for good: the edit is also written into the policy's file.

use axum::Json;
use axum::extract::State;

use super::shared::Shared;
use crate::control::{ApiProblem, ApprovalWritten, Id, Speaker, Text, approve_for_good, blocking};

/// Approves it.
pub(super) async fn approve(
    State(shared): State<Shared>,
    Id(id): Id,
    Text(text): Text,
) -> Result<Json<ApprovalWritten>, ApiProblem> {
    let _editing = shared.0.editing.lock().await;
    let inner = shared.0.clone();
    let decided = blocking(move || {
        let (fleet, files) = (&inner.page.fleet, &inner.page.files);
        approve_for_good(fleet, files.as_ref(), (&id, &text), &Speaker::page())
    });
    decided.await?.map(Json)
}
