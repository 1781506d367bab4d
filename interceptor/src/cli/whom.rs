//! Whom a command of `ctl` is for: one of the user's own runs, else the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::cli::daemon::client::{Address, ApiError};
use crate::cli::daemon::{SOCKET, conclude_any};
use crate::cli::live::place::{self, RunSocket};
use crate::cli::person::Person;
use crate::cli::policy_file::printable;

/// A control socket.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Whom {
    /// Its address, which holds while this value lives.
    pub(in crate::cli) socket: Address,
    /// The run that it is of.
    pub(in crate::cli) run: Option<RunSocket>,
    /// Whether it was not named.
    is_default: bool,
}

impl Whom {
    /// Who has this sandbox. A socket that was named decides.
    ///
    /// # Errors
    /// If the user's runs cannot be listed, or several claim to be it.
    pub(in crate::cli) fn has(named: Option<PathBuf>, id: &str) -> anyhow::Result<Whom> {
        if named.is_some() {
            return Ok(Whom::daemon(named));
        }
        let mut found: Vec<RunSocket> =
            own_runs()?.into_iter().filter(|run| run.id == id).collect();
        if found.len() > 1 {
            let paths: Vec<String> =
                found.iter().map(|run| printable(&run.path.display().to_string())).collect();
            bail!(
                "{} sockets claim to be of the run {}, so none is asked: {}. Name one with \
                 --control",
                found.len(),
                printable(id),
                paths.join(" and ")
            );
        }
        Ok(found.pop().map_or_else(|| Whom::daemon(None), Whom::of_run))
    }

    /// A run of the user's own.
    pub(in crate::cli) fn of_run(run: RunSocket) -> Whom {
        Whom { socket: run.address(), run: Some(run), is_default: false }
    }

    /// The daemon, at the usual place or another.
    pub(in crate::cli) fn daemon(named: Option<PathBuf>) -> Whom {
        let is_default = named.is_none();
        let path = named.unwrap_or_else(|| SOCKET.into());
        Whom { socket: Address { path, is_run: false }, run: None, is_default }
    }

    /// The exit status of a request about a sandbox.
    ///
    /// # Errors
    /// What failed, but for a refusal, which is reported.
    pub(in crate::cli) fn conclude(
        &self,
        id: &str,
        asked: Result<(), ApiError>,
    ) -> anyhow::Result<ExitCode> {
        match asked {
            // Unwrapped, so that `main` recognises a closed standard output.
            Err(ApiError::Output(error)) => Err(error.into()),
            asked => conclude_any(self.explain(id, asked.map_err(anyhow::Error::from))),
        }
    }

    /// Says also that there is no such run, where there is no daemon either.
    pub(in crate::cli) fn explain<T>(
        &self,
        id: &str,
        asked: anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let is_nowhere = |error: &anyhow::Error| {
            matches!(
                error.downcast_ref(),
                Some(ApiError::Unreachable { .. } | ApiError::Foreign { .. })
            )
        };
        match asked {
            Err(error) if self.is_default && is_nowhere(&error) => Err(error).with_context(|| {
                format!("you have no run {} (interceptor ps lists them)", printable(id))
            }),
            asked => asked,
        }
    }
}

/// The runs of the user who typed this command.
///
/// # Errors
/// If they cannot be listed.
pub(in crate::cli) fn own_runs() -> anyhow::Result<Vec<RunSocket>> {
    place::runs(&Person::invoking()?).context("cannot list your runs")
}
