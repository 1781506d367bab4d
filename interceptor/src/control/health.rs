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

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "daemon",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(control): State<Control>) -> impl IntoResponse {
    let text = format!(
        "# HELP interceptor_sandboxes Sandboxes under enforcement.\n# TYPE interceptor_sandboxes gauge\ninterceptor_sandboxes {}\n",
        control.fleet.list().len()
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
