//! Errors as problem documents (RFC 9457). None repeats a value from the request, which may be a
//! key.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fleet::FleetError;

/// An error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ApiProblem {
    /// The kind of problem, e.g. `urn:interceptor:problem:policy_invalid`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// A short title for people.
    pub(crate) title: String,
    /// The response status.
    pub(crate) status: u16,
    /// What is wrong in this case, and how to fix it.
    pub(crate) detail: String,
    /// Every error in the submitted document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<FieldError>,
}

/// One error of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FieldError {
    /// The JSON pointer to the value concerned; empty for the document as a whole.
    pub(crate) pointer: String,
    /// What is wrong, and how to fix it.
    pub(crate) detail: String,
}

impl ApiProblem {
    /// A problem of a kind.
    pub(crate) fn new(
        status: StatusCode,
        kind: &str,
        title: &str,
        detail: impl Into<String>,
    ) -> ApiProblem {
        ApiProblem {
            kind: format!("urn:interceptor:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// An invalid document, with every error.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> ApiProblem {
        let detail = match errors.as_slice() {
            [only] => format!("{}: {}", place(&only.pointer), only.detail),
            several => format!("{} errors, listed in `errors`", several.len()),
        };
        let title = "The document is invalid";
        ApiProblem {
            errors,
            ..ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", title, detail)
        }
    }

    /// One error of one field.
    pub(crate) fn field(pointer: &str, detail: impl Into<String>) -> ApiProblem {
        ApiProblem::invalid(vec![FieldError { pointer: pointer.to_owned(), detail: detail.into() }])
    }

    /// An internal failure; details go to the log.
    pub(crate) fn internal(detail: impl Into<String>) -> ApiProblem {
        ApiProblem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "The request failed", detail)
    }
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "the document" } else { pointer }
}

impl From<interceptor_policy::Problem> for FieldError {
    fn from(problem: interceptor_policy::Problem) -> FieldError {
        FieldError { pointer: problem.pointer, detail: problem.message }
    }
}

impl From<FleetError> for ApiProblem {
    fn from(error: FleetError) -> ApiProblem {
        let conflict =
            |kind, title| ApiProblem::new(StatusCode::CONFLICT, kind, title, error.to_string());
        match error {
            FleetError::NoCgroup(detail) => ApiProblem::field("/cgroup", detail),
            FleetError::NoNamespace(detail) => {
                let field = if detail.starts_with("process ") { "/pid" } else { "/netns" };
                ApiProblem::field(field, detail)
            }
            FleetError::NotPrivate(detail) => ApiProblem::field("/private_network", detail),
            FleetError::BadId(detail) => ApiProblem::field("/id", detail),
            FleetError::Policy(problems) => {
                ApiProblem::invalid(problems.into_iter().map(FieldError::from).collect())
            }
            FleetError::IdTaken => conflict("id_taken", "The id is taken"),
            FleetError::Taken(_) => {
                conflict("cgroup_taken", "A policy is already enforced on the cgroup")
            }
            FleetError::Unknown => ApiProblem::new(
                StatusCode::NOT_FOUND,
                "no_such_sandbox",
                "There is no such sandbox",
                "GET /v1/sandboxes lists all sandboxes",
            ),
            FleetError::Ending => ApiProblem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ending",
                "The daemon is shutting down",
                "it accepts no more sandboxes",
            ),
            FleetError::Kernel(crate::kernel::KernelError::Full { .. }) => ApiProblem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "full",
                "The limit of sandboxes is reached",
                "remove one, or start the daemon with a larger --max-sandboxes",
            ),
            FleetError::Exhausted { .. } => {
                tracing::error!(%error, "request failed");
                ApiProblem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "full",
                    "A limit of the host is reached",
                    error.to_string(),
                )
            }
            FleetError::Kernel(_)
            | FleetError::Sandbox(_)
            | FleetError::Proxy(_)
            | FleetError::System { .. } => {
                let detail = chain(&error);
                tracing::error!(error = %detail, "request failed");
                ApiProblem::internal(detail)
            }
        }
    }
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        let kind = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}

/// Nothing is at this path.
pub(super) async fn no_route() -> ApiProblem {
    let detail = "GET /openapi.json describes the API";
    ApiProblem::new(StatusCode::NOT_FOUND, "no_such_route", "There is nothing at this path", detail)
}

/// Something is at this path, but not for this method.
pub(super) async fn no_method() -> ApiProblem {
    let detail = "the `allow` header lists the methods it has";
    ApiProblem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no_such_method",
        "The resource does not have this method",
        detail,
    )
}
