//! In the place of the interceptor's own: no key changes while a target runs.

use interceptor_policy::redact::{RedactError, Redactor};

/// Has nothing to tell.
#[derive(Debug)]
pub(crate) struct KeyWatch;

impl KeyWatch {
    /// No other keys.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as the interceptor's own")]
    pub(crate) fn changed(&mut self) -> Result<Option<Redactor>, RedactError> {
        Ok(None)
    }
}
