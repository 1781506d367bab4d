//! The way in: a one-time token becomes a session.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};

use super::shared::{Peer, Shared, cookie};
use crate::control::ApiProblem;

/// A document that goes on to the page. A redirect would not do: the browser would count the
/// request for the page as the one before, which may come from elsewhere, and send no cookie.
const WELCOME: &str = include_str!("../../page/welcome.html");
/// What a person sees whose token is unknown.
const STALE: &str = include_str!("../../page/stale.html");
/// What a person sees who has no session.
const LOCKED: &str = include_str!("../../page/locked.html");

/// Takes a token.
pub(super) async fn enter(
    State(shared): State<Shared>,
    peer: Peer,
    request: Request,
) -> Result<Response, ApiProblem> {
    // Whatever looks at the address before the person does must not use it up.
    if *request.method() != Method::GET || !is_opened(request.headers()) {
        let title = "The address is to be opened";
        let detail = "open it in a browser, as a page of its own";
        return Err(ApiProblem::new(StatusCode::FORBIDDEN, "not_opened", title, detail));
    }
    let entrance = &shared.0.page.entrance;
    let uid = peer.0.uid().ok_or_else(|| ApiProblem::internal("the browser's user is unknown"))?;
    if shared.0.page.person.is_some_and(|person| ![0, person].contains(&uid)) {
        let title = "The page is another user's";
        let detail = "the page of a run is for the user who started it, and root";
        return Err(ApiProblem::new(StatusCode::FORBIDDEN, "not_yours", title, detail));
    }
    let session = entrance.enter(token(request.uri()), uid);
    let session = session.map_err(|error| ApiProblem::internal(error.to_string()))?;
    let Some(session) = session else {
        return Ok(stale());
    };
    let name = cookie(entrance);
    let cookie = format!("{name}={}; Path=/; HttpOnly; SameSite=Strict", session.as_str());
    let mut answer = Html(WELCOME).into_response();
    let mut cookie = HeaderValue::try_from(cookie)
        .map_err(|_| ApiProblem::internal("the session cannot be told"))?;
    cookie.set_sensitive(true);
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    // Others may have had this address before, and have left files or a worker in the browser.
    let clear = HeaderValue::from_static(r#""cache", "storage""#);
    answer.headers_mut().insert("clear-site-data", clear);
    Ok(answer)
}

/// The token of an address.
pub(super) fn token(uri: &Uri) -> &str {
    let query = uri.query().unwrap_or_default();
    query.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default()
}

/// Tells a person that the address lets nobody in any more.
pub(super) fn stale() -> Response {
    (StatusCode::FORBIDDEN, Html(STALE)).into_response()
}

/// Whether a browser opens it as a document; a program says nothing of this.
fn is_opened(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_none_or(|said| said == value);
    let early = ["sec-purpose", "purpose"].iter().any(|name| headers.contains_key(*name));
    is("sec-fetch-dest", "document") && !early
}

/// Tells a person that there is no session.
pub(super) fn locked() -> Response {
    (StatusCode::UNAUTHORIZED, Html(LOCKED)).into_response()
}
