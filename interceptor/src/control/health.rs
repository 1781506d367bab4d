//! `/healthz` and `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::Control;
use super::model::Health;

/// Says that the daemon lives.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "daemon",
    responses((status = 200, description = "It lives", body = Health))
)]
pub(super) async fn alive(State(control): State<Control>) -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sandboxes: control.fleet.list().len() as u64,
    })
}

/// Metrics as OpenMetrics text, which Prometheus reads.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "daemon",
    responses((status = 200, description = "Metrics", body = String, content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(State(control): State<Control>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], control.fleet.metrics())
}
