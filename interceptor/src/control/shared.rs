//! What all handlers share.

use std::path::PathBuf;
use std::sync::Arc;

use super::problem::ApiProblem;
use crate::fleet::Fleet;
use crate::ipc::ControlSocket;

/// The state shared by all handlers.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(super) fleet: Arc<Fleet>,
    pub(super) socket: Arc<ControlSocket>,
    pub(super) openapi: Arc<str>,
    /// Other programs that may take over.
    pub(super) successors: Arc<[PathBuf]>,
}

/// Runs blocking work on a separate thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiProblem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "request failed");
        ApiProblem::internal("an internal error; see the daemon's log")
    })
}
