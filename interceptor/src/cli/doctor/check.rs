//! The result of one check.

use serde::Serialize;

/// A check and its result.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What was checked.
    pub(super) name: String,
    /// Whether it passed.
    pub(super) ok: bool,
    /// Whether `interceptor run` needs it.
    pub(super) required: bool,
    /// The finding.
    pub(super) detail: String,
    /// What to do about a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Check {
    pub(super) fn passed(
        name: impl Into<String>,
        required: bool,
        detail: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), ok: true, required, detail: detail.into(), remedy: None }
    }

    pub(super) fn failed(
        name: impl Into<String>,
        required: bool,
        detail: impl Into<String>,
        remedy: &str,
    ) -> Self {
        Self {
            name: name.into(),
            ok: false,
            required,
            detail: detail.into(),
            remedy: Some(remedy.to_owned()),
        }
    }
}
