//! `/v1/page`: where the page is, and an address that lets one browser in.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::model::{PageAddress, PageInvitation};
use super::problem::ApiProblem;
use super::shared::Control;
use crate::entrance::{Entrance, TOKEN_LIFE};

/// The page's address.
#[utoipa::path(
    get,
    path = "/v1/page",
    tag = "page",
    responses(
        (status = 200, description = "Where it is", body = PageAddress),
        (status = 404, description = "There is no page"),
    )
)]
pub(super) async fn show(State(control): State<Control>) -> Result<Json<PageAddress>, ApiProblem> {
    let entrance = entrance(&control)?;
    let address = format!("http://{}/", entrance.address());
    Ok(Json(PageAddress { address, unused: entrance.unused() as u64 }))
}

/// Makes an address of the page that lets one browser in: once, within two minutes.
#[utoipa::path(
    post,
    path = "/v1/page",
    tag = "page",
    responses(
        (status = 201, description = "The address", body = PageInvitation),
        (status = 404, description = "There is no page"),
    )
)]
pub(super) async fn invite(
    State(control): State<Control>,
) -> Result<(StatusCode, Json<PageInvitation>), ApiProblem> {
    let url = entrance(&control)?.invite();
    let url = url.map_err(|error| ApiProblem::internal(error.to_string()))?;
    let seconds = TOKEN_LIFE.as_secs();
    Ok((StatusCode::CREATED, Json(PageInvitation { url: url.to_string(), seconds })))
}

fn entrance(control: &Control) -> Result<&Arc<Entrance>, ApiProblem> {
    control.entrance.as_ref().ok_or_else(|| {
        let detail = "start it with --page (interceptor serve, interceptor run)";
        ApiProblem::new(StatusCode::NOT_FOUND, "no_page", "There is no page", detail)
    })
}
