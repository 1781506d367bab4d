//! What all handlers share.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::FromRef;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::problem::ApiProblem;
use crate::entrance::Entrance;
use crate::fleet::{Fleet, PolicyFiles};
use crate::ipc::ControlSocket;

/// The most stories that are looked into at one time.
const STORIES: usize = 2;

/// The state shared by all handlers.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(super) fleet: Arc<Fleet>,
    pub(super) socket: Arc<ControlSocket>,
    pub(super) openapi: Arc<str>,
    /// The page, if there is one.
    pub(super) entrance: Option<Arc<Entrance>>,
    /// Other programs that may take over.
    pub(super) successors: Arc<[PathBuf]>,
    /// How a run's policy file is edited.
    pub(super) files: Option<Arc<dyn PolicyFiles>>,
    /// How many stories are looked into at one time.
    pub(super) stories: Stories,
    /// Ends the streams, which never end by themselves.
    pub(super) stop: CancellationToken,
}

/// Who reads a stream.
pub(crate) trait Reader: Send + Sync + 'static {
    /// Whether it may go on reading. Asked now and then.
    fn lasts(&self, fleet: &Arc<Fleet>) -> impl Future<Output = bool> + Send;
}

/// How many stories are looked into at one time; each compiles policies.
#[derive(Clone, Debug)]
pub(crate) struct Stories(pub(super) Arc<Semaphore>);

impl Default for Stories {
    fn default() -> Stories {
        Stories(Arc::new(Semaphore::new(STORIES)))
    }
}

/// Who makes a request, as records name it: `uid:N` or `page`.
#[derive(Clone, Debug)]
pub(crate) struct Speaker(Arc<str>);

impl Speaker {
    /// A user, by the control socket.
    pub(super) fn user(uid: u32) -> Speaker {
        Speaker(format!("uid:{uid}").into())
    }

    /// Whoever has a session of the page.
    pub(crate) fn page() -> Speaker {
        Speaker("page".into())
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.0
    }
}

impl FromRef<Control> for Arc<Fleet> {
    fn from_ref(control: &Control) -> Arc<Fleet> {
        control.fleet.clone()
    }
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
