//! `interceptor schema`: prints the JSON Schema of the policy document.

use std::io::{self, Write};
use std::process::ExitCode;

/// The arguments of `interceptor schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor schema > policy.schema.json

Editors check a policy that names it: \"$schema\": \"policy.schema.json\"")]
pub struct Schema {}

/// Runs the command.
pub fn run(_arguments: Schema) -> anyhow::Result<ExitCode> {
    io::stdout().lock().write_all(interceptor_policy::json_schema().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
