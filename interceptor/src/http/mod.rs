//! The HTTP pipeline: serve, decide, inject, forward, redact, refuse.
