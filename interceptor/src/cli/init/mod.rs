//! `interceptor init`: writes a policy for the agents, keys and git remotes that it finds. It asks
//! no questions, reads no key, and trusts what it wrote.

mod compose;
mod look;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use interceptor_policy::{Agent, Document};

use super::permits::{Extent, permits};
use super::person::Person;
use super::policy_file::printable;
use super::{agents, discovery, findings, members, registries, trust};
use look::Surroundings;

/// The file that is written.
const NAME: &str = "interceptor.jsonc";

/// The arguments of `interceptor init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor init
  interceptor init claude-code
  interceptor init --force codex

Without AGENT, the policy is for every installed agent and every service of the catalogue whose \
                        variable is set.")]
pub struct Init {
    /// Write it for this agent; `interceptor agents` lists them.
    #[arg(value_name = "AGENT")]
    agent: Option<String>,
    /// Replace an existing interceptor.jsonc.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(arguments: Init) -> anyhow::Result<ExitCode> {
    let asked = arguments.agent.as_deref().map(agents::known).transpose()?;
    let person = Person::invoking()?;
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    let catalogue = registries::catalogue(None)?;
    let here = Surroundings::look(&person, &directory, &catalogue);
    let used: Vec<&Agent> = match asked {
        Some(agent) => vec![agent],
        None => here.agents.clone(),
    };
    let text = compose::policy(&used, asked.is_some(), &here, &catalogue);
    let path = directory.join(NAME);
    let report = interceptor_policy::check(&text, &catalogue);
    let Some(policy) = &report.policy else {
        return Err(findings::invalid(NAME, &text, &report.errors));
    };
    write(&person, &path, &text, arguments.force)?;
    trust::record(&person, &path, &text)?;

    let mut out = io::stdout().lock();
    writeln!(out, "wrote {}, and trusted it; it permits", printable(&path.display().to_string()))?;
    if let Ok(parsed) = Document::parse(&text) {
        for line in permits(&parsed.document, policy, &catalogue, Extent::Short) {
            writeln!(out, "  {line}")?;
        }
    }
    for variable in compose::unset(&used, asked.is_some(), &here, &catalogue) {
        writeln!(out, "set {variable} first: the key is read from it")?;
    }
    writeln!(out, "now type")?;
    for agent in &used {
        let mut words = String::from(members::typed());
        for variable in agents::variables(agent, &person) {
            words.push_str(&format!(" --env {}", variable.to_string_lossy()));
        }
        let command = agent.commands.first().map_or("COMMAND", String::as_str);
        writeln!(out, "  {words} -- {command}")?;
    }
    if used.is_empty() {
        writeln!(out, "  {} -- COMMAND", members::typed())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(person: &Person, path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    for name in discovery::FOUND {
        let other = path.with_file_name(name);
        let is_there = person.act(|| Ok(other.symlink_metadata().is_ok()))?;
        match name == NAME {
            _ if !is_there => {}
            true if force => {}
            true => bail!("{} exists already; --force replaces it", other.display()),
            false => bail!("{} exists already; remove it first", other.display()),
        }
    }
    let written = person.act(|| {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        match force {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        options.open(path)?.write_all(text.as_bytes())
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}
