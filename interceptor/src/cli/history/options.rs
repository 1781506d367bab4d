//! The options of `run` that set its name and whether its records are kept.

use std::path::Path;

use anyhow::bail;
use serde_json::Value;

use super::{Keeper, keep, make_state_directory};
use crate::audit::Audit;
use crate::cli::person::Person;
use crate::fleet::check_id;
use crate::ipc::SentPath as Sent;
use crate::notice;
use crate::sandbox::SandboxError;
use crate::sandbox::launch;

/// A run's name, and whether its records are kept.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct History {
    /// The sandbox's name, in records and for other commands [default: random].
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Do not keep the records of this run for `audit last`, `why`, `learn last` and the like.
    #[arg(long)]
    no_history: bool,
}

fn name(text: &str) -> Result<String, String> {
    check_id(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl History {
    /// The id of the sandbox.
    pub(in crate::cli) fn id(&self) -> Result<String, SandboxError> {
        self.name.clone().map_or_else(launch::random_id, Ok)
    }

    /// Whether the records are kept.
    pub(in crate::cli) fn is_kept(&self) -> bool {
        !self.no_history
    }

    /// Starts to keep the records of the run; warns if that is not possible.
    pub(in crate::cli) fn begin(
        &self,
        audit: &Audit,
        person: &Person,
        sandbox: &str,
        kept: &Value,
        quiet: bool,
    ) {
        if self.no_history {
            return;
        }
        match keep(person, sandbox, kept) {
            Ok(file) => audit.observe(Box::new(Keeper::new(file, sandbox))),
            Err(_) if quiet => {}
            Err(error) => notice::warning(format_args!(
                "cannot keep the records of this run for `interceptor audit last`: {error} \
                 (--no-history keeps none)"
            )),
        }
    }
}

/// The directory of the person's state, which is hidden in the sandbox. Created if missing, since
/// the sandbox could create it.
///
/// # Errors
/// If the command would run in it.
pub(in crate::cli) fn hidden_state(
    person: &Person,
    working_directory: &Path,
) -> anyhow::Result<Option<Sent>> {
    let Some(state) = make_state_directory(person) else { return Ok(None) };
    if working_directory.starts_with(&state) {
        bail!(
            "the working directory is in {}, which the interceptor hides from every sandbox; \
             change to another directory",
            state.display()
        );
    }
    Ok(Some(Sent(state)))
}
