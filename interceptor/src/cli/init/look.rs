//! Looks around: agents on the PATH, variables with keys, remotes of the git repository. Runs
//! nothing and keeps no variable's value.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use interceptor_policy::{Agent, Authority, Catalogue, agents};

use crate::cli::agents::key_variables;
use crate::cli::person::Person;
use crate::files;

/// The largest git file that is read, in bytes.
const MAX_GIT: usize = 1 << 20;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// Installed agents.
    pub(super) agents: Vec<&'static Agent>,
    /// Services whose key is in a variable, with that variable.
    pub(super) keys: BTreeMap<String, String>,
    /// Every variable of services and agents that is set.
    pub(super) set: Vec<String>,
    /// The remotes of the repository.
    pub(super) remotes: Vec<Remote>,
}

/// A remote of a git repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its name.
    pub(super) name: String,
    /// Its host, as a network rule.
    pub(super) host: String,
    /// The path after the host, without a final `.git`.
    pub(super) path: String,
    /// Whether it is reached by SSH.
    pub(super) by_ssh: bool,
}

impl Surroundings {
    pub(super) fn look(person: &Person, directory: &Path, catalogue: &Catalogue) -> Surroundings {
        let is_set = |name: &&String| person.given(name).is_some_and(|value| !value.is_empty());
        let mut keys = BTreeMap::new();
        let mut set: Vec<String> = Vec::new();
        for service in catalogue.services() {
            if let Some(variable) = service.env.iter().find(is_set) {
                keys.insert(service.name.clone(), variable.clone());
            }
            set.extend(service.env.iter().filter(is_set).cloned());
        }
        for used in agents().iter().flat_map(|agent| &agent.credentials) {
            set.extend(key_variables(used, catalogue).iter().filter(is_set).cloned());
        }
        // It belongs to the keys of a service, and is none by itself.
        set.extend(["AWS_SESSION_TOKEN".to_owned()].iter().filter(is_set).cloned());
        let installed = |agent: &&Agent| agent.commands.iter().any(|name| on_path(person, name));
        let remotes = git_config(person, directory).map(|text| remotes(&text)).unwrap_or_default();
        Surroundings { agents: agents().iter().filter(installed).collect(), keys, set, remotes }
    }

    /// The first of these variables that is set.
    pub(super) fn first_set<'a>(&self, variables: &'a [String]) -> Option<&'a String> {
        variables.iter().find(|name| self.set.contains(name))
    }
}

/// Whether this command is on the person's PATH.
fn on_path(person: &Person, name: &str) -> bool {
    let path = person.variable("PATH").unwrap_or_default();
    let found = person.act(|| {
        Ok(std::env::split_paths(&path).filter(|directory| directory.is_absolute()).any(|place| {
            let metadata = std::fs::metadata(place.join(name));
            metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        }))
    });
    found.unwrap_or(false)
}

/// The configuration of the repository around a directory, read with the person's rights.
fn git_config(person: &Person, directory: &Path) -> io::Result<String> {
    person.act(|| {
        let mut above = directory.ancestors().map(|directory| directory.join(".git"));
        let Some(git) = above.find(|git| git.exists()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let own = if git.is_dir() { git } else { of_work_tree(&git)? };
        files::read_text(&own.join("config"), MAX_GIT)
    })
}

/// The repository that the `.git` file of a linked work tree or submodule names.
fn of_work_tree(file: &Path) -> io::Result<PathBuf> {
    let text = files::read_text(file, MAX_GIT)?;
    let named = text.trim().strip_prefix("gitdir: ").unwrap_or_default();
    let git = file.with_file_name("").join(named);
    match files::read_text(&git.join("commondir"), MAX_GIT) {
        Ok(common) => Ok(git.join(common.trim())),
        Err(_) => Ok(git),
    }
}

/// The remotes in the text of a git configuration.
fn remotes(text: &str) -> Vec<Remote> {
    let mut found: Vec<Remote> = Vec::new();
    let mut name = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            let section = line.strip_prefix("[remote \"").and_then(|rest| rest.strip_suffix("\"]"));
            name = section.map(str::to_owned);
        } else if let (Some(name), Some((key, url))) = (&name, line.split_once('='))
            && key.trim() == "url"
        {
            found.extend(remote(name, url.trim().trim_matches('"')));
        }
    }
    found
}

/// A remote by its URL: `https://host/path`, `ssh://user@host:port/path` or `user@host:path`.
fn remote(name: &str, url: &str) -> Option<Remote> {
    let (by_ssh, authority, path) = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/')?;
            let by_ssh = match scheme {
                "https" => false,
                "ssh" | "git+ssh" => true,
                _ => return None,
            };
            (by_ssh, authority, path)
        }
        None => {
            let (authority, path) =
                url.split_once(':').filter(|(_, path)| !path.starts_with(':'))?;
            (true, authority, path)
        }
    };
    let authority = Authority::parse(authority.rsplit('@').next()?).ok()?;
    let host = match (&authority.host, authority.port) {
        (interceptor_policy::Host::Name(name), None | Some(22 | 443)) => name.as_str().to_owned(),
        (interceptor_policy::Host::Name(name), Some(port)) => format!("{}:{port}", name.as_str()),
        _ => return None,
    };
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    Some(Remote { name: name.to_owned(), host, path: path.to_owned(), by_ssh })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_read_from_gits_configuration() {
        let text = "[core]\n\turl = https://no.test/x\n[remote \"origin\"]\n\turl = \
                    https://user:word@git.test/o/r.git\n\tfetch = +refs/*\n[remote \"ssh\"]\n \
                    url = git@host.test:o/r\n[remote \"port\"]\n\
                    url = ssh://git@a.test:2222/o/r.git\n\
                    [remote \"local\"]\nurl = /srv/r.git\n[remote \"odd\"]\nurl=ext::sh -c x\n\
                    [branch \"main\"]\nurl = https://no.test/x\n";
        let remote = |name: &str, host: &str, path: &str, by_ssh| Remote {
            name: name.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            by_ssh,
        };
        assert_eq!(
            remotes(text),
            [
                remote("origin", "git.test", "o/r", false),
                remote("ssh", "host.test", "o/r", true),
                remote("port", "a.test:2222", "o/r", true),
            ]
        );
    }
}
