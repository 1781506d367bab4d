//! `/healthz` and `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;

use super::model::Health;
use super::shared::Control;
use crate::metrics::ExpositionFormat;

/// What is wrong once the process is gone that runs programs.
const LOST_PROGRAMS: &str =
    "no program is run for keys any more: its process has ended; start the daemon again";

/// Shows that the daemon is up, and what of it does not work any more.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "daemon",
    responses((status = 200, description = "The daemon is up", body = Health))
)]
pub(super) async fn alive(State(control): State<Control>) -> Json<Health> {
    let problems: Vec<String> =
        control.fleet.lost_programs().then(|| LOST_PROGRAMS.to_owned()).into_iter().collect();
    Json(Health {
        status: if problems.is_empty() { "ok" } else { "degraded" }.to_owned(),
        problems,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sandboxes: control.fleet.list().len() as u64,
    })
}

/// Metrics for Prometheus, in its text format or, on request, OpenMetrics.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "daemon",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(
    State(control): State<Control>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = ExpositionFormat::accepted(accepts);
    ([(header::CONTENT_TYPE, format.media_type())], format.text(control.fleet.metrics()))
}
