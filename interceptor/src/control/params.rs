//! Extractors for handlers: bounded text, an id, a query. Each rejects with a problem document.

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use interceptor_policy::{MAX_BYTES, not_json};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::ApiProblem;

/// The body as text. It may contain keys and is zeroized on drop.
pub(crate) struct Text(pub(crate) Zeroizing<String>);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiProblem;

    async fn from_request(request: Request, _: &S) -> Result<Text, ApiProblem> {
        let too_large = || {
            let detail = format!("a request may have at most {MAX_BYTES} bytes");
            ApiProblem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "The request is too large",
                detail,
            )
        };
        let bytes = match to_bytes(request.into_body(), MAX_BYTES).await {
            Ok(bytes) => bytes,
            Err(error) if is_too_long(&error) => return Err(too_large()),
            Err(_) => return Err(malformed("the body ended too early")),
        };
        let bytes: Vec<u8> = match Bytes::try_into_mut(bytes) {
            // The only copy.
            Ok(own) => own.into(),
            Err(shared) => shared.into(),
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Text(Zeroizing::new(text))),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                Err(malformed("the body is not UTF-8"))
            }
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if cause.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The error for an unreadable request.
pub(super) fn malformed(detail: impl Into<String>) -> ApiProblem {
    ApiProblem::new(StatusCode::BAD_REQUEST, "malformed", "The request cannot be read", detail)
}

/// Rejects a text that is not JSON, as opposed to an invalid document.
pub(super) fn json(text: &str) -> Result<(), ApiProblem> {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(malformed(format!("line {}: {}", error.line(), not_json(text, &error)))),
    }
}

/// The id in the path.
pub(crate) struct Id(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, ApiProblem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Id(id)),
            // Text that is not UTF-8 is not an id.
            Err(_) => Err(crate::fleet::FleetError::Unknown.into()),
        }
    }
}

/// The query.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, ApiProblem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Params(query)),
            Err(_) => Err(malformed(
                "the query has an unknown, repeated or malformed parameter; see GET /openapi.json",
            )),
        }
    }
}
