//! A policy's text, known again by its hash: it may hold keys, and is not kept itself.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// The SHA-256 of a policy's text, in lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct TextDigest(String);

impl TextDigest {
    /// Of a text as its file holds it, with comments.
    pub(crate) fn of(text: &str) -> TextDigest {
        let hash = digest(&SHA256, text.as_bytes());
        TextDigest(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Its digits.
    pub(crate) fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TextDigest {
    // Short keys could be guessed from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextDigest")
    }
}
