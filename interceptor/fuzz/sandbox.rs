//! Stands in for a module that the code under test names but that is not built here.

/// No target makes a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {}
