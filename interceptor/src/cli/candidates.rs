//! Completions of values on the command line: names of services, profiles, agents, policies and
//! running sandboxes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, Command};
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};
use interceptor_policy::Catalogue;
use serde_json::Value;

use super::daemon::client::{self, Address, ApiError, ApiRequest};
use super::daemon::{SOCKET, block_on};
use super::discovery;
use super::live::place;
use super::person::Person;
use super::registries;

/// How long to wait for the daemon while someone waits at a keyboard.
const PATIENCE: Duration = Duration::from_secs(1);

/// The command line, with completions for its values.
pub(super) fn attach(command: Command) -> Command {
    let name = command.get_name().to_owned();
    command.mut_args(|argument| known(&name, argument)).mut_subcommands(attach)
}

fn known(command: &str, argument: Arg) -> Arg {
    let is_option = argument.get_long().is_some();
    match (command, argument.get_id().as_str(), is_option) {
        ("run", "policy", _) => argument.add(policies()),
        ("run", "command", _) => argument.add(commands()),
        (_, "policy", true) | ("check", "files", _) | ("trust" | "put", "file", _) => {
            argument.add(policy_files())
        }
        (_, "agent", _) | ("agents", "name", _) => argument.add(agents()),
        ("run", "profile", _) | ("profiles", "name", _) => argument.add(profiles()),
        ("run", "key", _) | ("services", "name", _) => argument.add(services()),
        ("show" | "delete" | "get" | "put" | "audit", "id", false) | (_, "sandbox", true) => {
            argument.add(sandboxes())
        }
        _ => argument,
    }
}

/// The names of the catalogue's services.
fn services() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let catalogue = Catalogue::builtin();
        catalogue.services().map(|service| service.name.clone().into()).collect()
    })
}

/// The names of the network profiles, including the operator's.
fn profiles() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let catalogue = registries::catalogue(None).unwrap_or_else(|_| Catalogue::builtin());
        catalogue
            .profiles()
            .map(|(name, profile)| {
                CompletionCandidate::new(name).help(Some(profile.description.clone().into()))
            })
            .collect()
    })
}

/// The names of the agents.
fn agents() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let agents = interceptor_policy::agents().iter();
        agents
            .map(|agent| {
                CompletionCandidate::new(&agent.name).help(Some(agent.title.clone().into()))
            })
            .collect()
    })
}

/// The ids of the user's own runs, and of the daemon's sandboxes that the user may see.
fn sandboxes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let person = Person::invoking().ok();
        let runs = person.and_then(|person| place::runs(&person).ok()).unwrap_or_default();
        let mut ids: Vec<String> = runs.into_iter().map(|run| run.id).collect();
        ids.extend(of_daemon().unwrap_or_default());
        ids.into_iter().map(CompletionCandidate::new).collect()
    })
}

fn of_daemon() -> Option<Vec<String>> {
    let daemon = Address { path: SOCKET.into(), is_run: false };
    let asked = block_on(async {
        let question = client::ask(&daemon, ApiRequest::get("/v1/sandboxes"));
        match tokio::time::timeout(PATIENCE, question).await {
            Ok(answer) => answer.map(Some),
            Err(_) => Ok::<_, ApiError>(None),
        }
    });
    let list: Value = serde_json::from_slice(&asked.ok()??.body).ok()?;
    let sandboxes = list["sandboxes"].as_array()?.iter();
    Some(sandboxes.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect())
}

/// Files that could be policies.
fn policy_files() -> ArgValueCompleter {
    ArgValueCompleter::new(files())
}

/// The names of policies, and files that could be policies.
fn policies() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let typed = current.to_string_lossy();
        let mut found: Vec<CompletionCandidate> = Vec::new();
        if !typed.contains(['/', '.']) {
            let person = Person::invoking().ok();
            let known = person.map(|person| discovery::known(&person)).unwrap_or_default();
            found.extend(
                known
                    .into_iter()
                    .filter(|name| name.starts_with(&*typed))
                    .map(|name| CompletionCandidate::new(name).help(Some("a named policy".into()))),
            );
        }
        found.extend(files().complete(current));
        found
    })
}

fn files() -> PathCompleter {
    PathCompleter::any().filter(|path: &Path| {
        let ending = path.extension().and_then(OsStr::to_str);
        path.is_file() && ending.is_some_and(|ending| ["json", "jsonc"].contains(&ending))
    })
}

/// The commands on this process's `PATH`, and files.
fn commands() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let typed = current.to_string_lossy();
        if typed.is_empty() || typed.contains('/') {
            return PathCompleter::any().complete(current);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let entries = directories.iter().filter_map(|directory| directory.read_dir().ok());
        let names =
            entries.flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(&*typed)).collect();
        names.sort();
        names.dedup();
        names.into_iter().map(CompletionCandidate::new).collect()
    })
}
