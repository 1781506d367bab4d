//! Who types a run, who runs its command, and where.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::hidden;
use super::options::Run;
use crate::cli::at_home::AtHome;
use crate::cli::perform;
use crate::cli::person::Person;
use crate::cli::who::{self, Runner};
use crate::ipc::SentPath as Sent;
use crate::notice;
use crate::sandbox::environment;
use crate::sandbox::user::UserIdentity;

/// What a run finds where it is typed.
pub(super) struct Setting {
    /// Who types it.
    pub(super) person: Person,
    /// Who runs the command.
    pub(super) identity: UserIdentity,
    /// The umask to give the command; `None` keeps this process's.
    pub(super) umask: Option<u32>,
    /// The working directory.
    pub(super) directory: PathBuf,
    /// The caller's variables.
    pub(super) caller: Vec<(OsString, OsString)>,
    /// What is hidden of homes.
    pub(super) at_home: AtHome,
    /// The bundles of roots that options name, without links.
    pub(super) bundles: Vec<Sent>,
}

impl Setting {
    /// Looks.
    ///
    /// # Errors
    /// If something cannot be found, or an option does not fit it.
    pub(super) fn of(arguments: &Run, by_daemon: bool) -> anyhow::Result<Setting> {
        let directory = std::env::current_dir().context("cannot find the working directory")?;
        let person = Person::invoking()?;
        let chosen = who::choose(arguments.user.as_deref(), &person, &directory)?;
        let Runner { identity, umask, note } = chosen;
        if by_daemon && identity.uid != person.identity.uid {
            bail!("--user: without sudo, the command runs as you");
        }
        if arguments.nesting {
            perform::nesting_needs(&identity)?;
        }
        let quiet = arguments.common.quiet;
        note.filter(|_| !quiet).into_iter().for_each(notice::info);
        let bundles = arguments.ca_bundle.iter().map(|path| bundle(path));
        let bundles = bundles.collect::<anyhow::Result<Vec<Sent>>>()?;
        let caller = person.environment();
        let is_set = |name: &OsStr| caller.iter().any(|(known, _)| known == name);
        let mut objections =
            arguments.env.iter().filter_map(|given| environment::objection(given, is_set));
        if let Some(why) = objections.next() {
            bail!("--env: {why}");
        }
        let at_home = hidden::at_home(&person, &identity, &arguments.expose, &directory, quiet)?;
        Ok(Setting { person, identity, umask, directory, caller, at_home, bundles })
    }
}

/// Resolves a bundle given by the operator.
fn bundle(path: &Path) -> anyhow::Result<Sent> {
    let found = std::fs::canonicalize(path);
    found.map(Sent).with_context(|| format!("--ca-bundle {}", path.display()))
}
