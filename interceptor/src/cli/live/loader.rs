//! Loads what becomes the policy of a sandbox that runs: what its file holds by now, or a document
//! that its user gave.
//!
//! Nothing that is loaded may hold a key that the sandbox can read: what is hidden inside was
//! settled when it started.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interceptor_policy::{Catalogue, KeySource, Policy, Problem, Proxy, strict_json};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use serde_json::Value;

use crate::cli::person::{Person, act_as};
use crate::cli::stable::Typed;
use crate::cli::which::Which;
use crate::cli::written::Written;
use crate::cli::{outbound, programs};
use crate::credential::{self, Asks, CREDENTIALS_DIRECTORY, Keyring, Means, Sources};
use crate::fleet::{Compiling, FleetError, GivenPolicies, LoadedPolicy, Source, without_keys};
use crate::ipc::{SentPath as Sent, Strings};
use crate::sandbox::handover::Secrets;
use crate::sandbox::user::UserIdentity;

/// How a running sandbox gets another policy.
#[derive(Debug)]
pub(in crate::cli) struct Loader {
    /// The options that made the first policy, or added to it.
    pub(in crate::cli) which: Which,
    /// Who typed the command.
    pub(in crate::cli) person: Person,
    /// Who runs the command inside.
    pub(in crate::cli) runner: UserIdentity,
    /// The service catalogue and profiles.
    pub(in crate::cli) catalogue: Catalogue,
    /// The upstream proxy in place of a policy's own.
    pub(in crate::cli) proxy: Option<Proxy>,
    /// What asks services for keys.
    pub(in crate::cli) asks: Asks,
    /// Whether the placeholders are new ones.
    pub(in crate::cli) fresh: bool,
    /// What is hidden inside.
    pub(in crate::cli) hidden: Hidden,
    /// The command's variables.
    pub(in crate::cli) environment: Strings,
    /// The policy's file when the sandbox started, which is covered inside.
    pub(in crate::cli) covered: Option<Covered>,
    /// The directory of what the person trusts, as it was before the command started.
    pub(in crate::cli) trusted: Option<OwnedFd>,
}

/// A file that is covered inside. It is held open, so that no other file gets its inode.
#[derive(Debug)]
pub(in crate::cli) struct Covered(OwnedFd);

impl Covered {
    /// The file at this path.
    pub(in crate::cli) fn at(path: &Path) -> Option<Covered> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        open(path, flags, Mode::empty()).ok().map(Covered)
    }

    /// Whether this path leads to it now.
    fn is(&self, path: &Path) -> bool {
        let own = fstat(&self.0).map(|own| (own.st_dev, own.st_ino)).ok();
        let now = fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        own.is_some() && own == now
    }
}

/// What is hidden inside, without links.
#[derive(Debug)]
pub(in crate::cli) struct Hidden {
    hidden: Vec<PathBuf>,
    shown: Vec<PathBuf>,
}

impl Hidden {
    /// Of these files, directories and secrets.
    pub(in crate::cli) fn of(files: &[Sent], directories: &[Sent], secrets: &Secrets) -> Hidden {
        let resolved = |paths: &[Sent]| {
            // What does not exist is not hidden.
            paths.iter().filter_map(|path| fs::canonicalize(&path.0).ok()).collect::<Vec<_>>()
        };
        let mut hidden = Vec::new();
        // All of it, but for the working directory.
        if !std::env::current_dir().is_ok_and(|directory| directory.starts_with("/run")) {
            hidden.push(PathBuf::from("/run"));
        }
        for paths in [files, directories, &secrets.hidden, &secrets.own] {
            hidden.extend(resolved(paths));
        }
        Hidden { hidden, shown: resolved(&secrets.shown) }
    }

    fn holds(&self, path: &Path) -> bool {
        let among = |places: &[PathBuf]| places.iter().any(|place| path.starts_with(place));
        among(&self.hidden) && !among(&self.shown)
    }
}

/// With whose rights key files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// This process's.
    Own,
    /// Those of the person who typed the command.
    Person,
}

/// A document, and what of it counts for its keys.
struct Text<'a> {
    text: &'a str,
    /// The file that it came from, without links.
    file: Option<&'a Path>,
    /// Whether it may name programs that were not run before.
    runs_new: bool,
}

impl Loader {
    /// Loads what a file holds, with what the options add to it.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`].
    pub(super) fn file(
        &self,
        path: &Path,
        text: &str,
        previous: &Keyring,
        rights: Rights,
    ) -> Result<LoadedPolicy, FleetError> {
        let checked = interceptor_policy::check(text, &self.catalogue);
        if checked.policy.is_none() {
            // With the lines of the file.
            return Err(FleetError::Policy(checked.errors));
        }
        let name = path.display().to_string();
        let written = Written::without_file(&name, text.to_owned());
        let joined = self.which.again(written, &self.person, &self.catalogue);
        let joined = joined.map_err(|error| invalid(format!("{error:#}")))?;
        self.load(&joined.text, Source::file(path, text), previous, rights)
    }

    /// What would be shown of a document with what the options add to it, and the policy that it
    /// would be; `None` if they do not fit.
    pub(super) fn shown(&self, document: &str, keyring: &Keyring) -> Option<(Value, Policy)> {
        let written = Written::without_file("", document.to_owned());
        let joined = self.which.again(written, &self.person, &self.catalogue).ok()?;
        let strict = strict_json(&joined.text).ok()?;
        let policy = interceptor_policy::check(&strict, &self.catalogue).policy?;
        Some((without_keys(&strict, &[], keyring), policy))
    }

    fn load(
        &self,
        text: &str,
        source: Source,
        previous: &Keyring,
        rights: Rights,
    ) -> Result<LoadedPolicy, FleetError> {
        let strict = strict_json(text).map_err(|problem| FleetError::Policy(vec![problem]))?;
        // What a file holds may be somebody else's by now; who gives a document is known.
        let runs_new = source == Source::Given;
        let file = source.path().and_then(|path| fs::canonicalize(path).ok());
        let (catalogue, proxy) = (&self.catalogue, self.proxy.as_ref());
        // Its keys are read below.
        let sources = Sources::none("read elsewhere");
        let compiling = Compiling { catalogue, proxy, sources: &sources };
        LoadedPolicy::with_keys(&strict, &[], source, compiling, |policy| {
            let keyring = self.keys(
                policy,
                Text { text, file: file.as_deref(), runs_new },
                previous,
                rights,
            )?;
            self.is_secret(policy, &keyring, file.as_deref())?;
            Ok(keyring)
        })
    }

    fn keys(
        &self,
        policy: &Policy,
        from: Text<'_>,
        previous: &Keyring,
        rights: Rights,
    ) -> Result<Keyring, Vec<Problem>> {
        let Text { text, file, runs_new } = from;
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let sandbox = (&self.runner, directory.as_path());
        let household = outbound::household_of(&self.person, sandbox, rights == Rights::Person);
        let asks = self.asks.as_ref().map(|asks| Arc::new(asks.of_household(household)));
        let sources = Sources {
            runs: Ok(programs::of_person(&self.person, &self.runner, &directory)),
            asks: asks.map_err(|why| *why),
        };
        let runner = self.runner.uid;
        let typed = Typed { person: &self.person, runner, fresh: self.fresh, sources };
        let seed = file.and_then(|file| typed.seed(Some(file), text));
        let load = || {
            let environment = |name: &str| match (name, rights) {
                (CREDENTIALS_DIRECTORY, Rights::Own) => std::env::var_os(name),
                (CREDENTIALS_DIRECTORY, Rights::Person) => None,
                _ => self.person.given(name),
            };
            let (sources, seed) = (typed.sources.clone(), seed.as_ref());
            let means = Means { environment: &environment, seed, sources, runs_new };
            Keyring::load_with(policy, Some(previous), &means)
        };
        // With this process's rights, which it keeps.
        credential::keep_time();
        let loaded = match rights {
            Rights::Own => load(),
            // A file that is the person's may be another by the next time.
            Rights::Person => self
                .person
                .act(|| Ok(load()))
                .map_err(|error| vec![Problem::new("", error.to_string())])?
                .map(Keyring::read_once),
        };
        loaded.map_err(|errors| {
            errors
                .into_iter()
                .map(|error| Problem::new(error.pointer(policy), error.to_string()))
                .collect()
        })
    }

    /// Refuses a key that the sandbox can read.
    fn is_secret(
        &self,
        policy: &Policy,
        keyring: &Keyring,
        file: Option<&Path>,
    ) -> Result<(), Vec<Problem>> {
        const AGAIN: &str = "start it again with this policy, and it will be hidden";
        let mut problems = Vec::new();
        for (key, pointer) in policy.secret_sources() {
            let (path, what) = match key {
                KeySource::Env(_)
                | KeySource::Exec(_)
                | KeySource::Fetched(_)
                | KeySource::Aws(_) => continue,
                KeySource::File(path) => (path.as_path(), "the key's file"),
                KeySource::Literal(_) => match file {
                    Some(file) if !self.is_covered(file) => (file, "the policy's file"),
                    _ => continue,
                },
            };
            if self.is_visible(path) {
                let why =
                    format!("the running sandbox can read {what}, {}: {AGAIN}", path.display());
                problems.push(Problem::new(pointer, why));
            }
        }
        match keyring.redactor() {
            Ok(None) => {}
            Ok(Some(redactor)) => {
                use std::os::unix::ffi::OsStrExt as _;
                let mut lines = self.environment.0.iter();
                if let Some(line) = lines.find(|line| redactor.text(line.as_bytes()).is_some()) {
                    let name = line.to_string_lossy();
                    let name = name.split('=').next().unwrap_or_default();
                    let why = format!("the running sandbox has one of the keys in {name}: {AGAIN}");
                    problems.push(Problem::new("", why));
                }
            }
            Err(error) => problems.push(Problem::new("", error.to_string())),
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Whether this is the file that was covered when the sandbox started: one that an editor put
    /// in its place is not.
    fn is_covered(&self, file: &Path) -> bool {
        self.covered.as_ref().is_some_and(|covered| covered.is(file))
    }

    /// Whether the command can read a file.
    fn is_visible(&self, path: &Path) -> bool {
        let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.hidden.holds(&resolved) {
            return false;
        }
        self.runner.is_root()
            || act_as(&self.runner, || fs::File::open(&resolved).map(drop)).is_ok()
    }
}

impl GivenPolicies for Loader {
    fn read(&self, text: &str, previous: &Keyring, uid: u32) -> Result<LoadedPolicy, FleetError> {
        let rights = if uid == 0 { Rights::Own } else { Rights::Person };
        self.load(text, Source::Given, previous, rights)
    }
}

fn invalid(message: String) -> FleetError {
    FleetError::Policy(vec![Problem::new("", message)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_replaced_the_covered_one_is_never_taken_for_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("p.json");
        fs::write(&path, "{}").unwrap();
        let covered = Covered::at(&path).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(covered.is(&path) && covered.is(&link));
        // File systems give the inode of a removed file to the next one.
        for _ in 0..100 {
            fs::remove_file(&path).unwrap();
            assert!(!covered.is(&path));
            fs::write(&path, "{}").unwrap();
            assert!(!covered.is(&path));
        }
    }
}
