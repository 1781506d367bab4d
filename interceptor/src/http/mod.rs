//! The HTTP pipeline: serve, decide, inject, forward, redact, refuse.

pub mod inject;
pub mod redact;
