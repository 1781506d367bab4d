//! How `ctl` and `audit` reach the daemon: requests over its control socket, and the exit status
//! for each outcome.

pub(super) mod client;
pub(super) mod events;
mod problem;
mod spoken;

use std::future::Future;
use std::process::ExitCode;

use self::client::ApiError;
use crate::notice;

/// The control socket's default path.
pub(super) const SOCKET: &str = "/run/interceptor/control.sock";

/// Runs a future on a runtime of its own. What it started and did not end is left behind.
pub(super) fn block_on<T>(
    future: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_background();
    outcome
}

/// The exit status of a request. Reports a refusal itself; leaves other errors to the caller.
pub(super) fn conclude_any(outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    let error = match outcome {
        Ok(()) => return Ok(ExitCode::SUCCESS),
        Err(error) => error,
    };
    match error.downcast_ref::<ApiError>() {
        Some(refused @ ApiError::Refused(_)) => {
            notice::error(refused);
            Ok(ExitCode::FAILURE)
        }
        _ => Err(error),
    }
}
