//! What the code under test names of a module that is not built here.

/// No target makes a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {}
