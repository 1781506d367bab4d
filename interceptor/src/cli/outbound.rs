//! How the services are asked that give keys: with what the command line says of the way out, and
//! for whom.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::person::Person;
use super::{authors, history, setup};
use crate::credential::{Asks, Household, Outbound, StateWork};
use crate::files;
use crate::sandbox::user::UserIdentity;
use crate::tls::client;

/// Where a daemon keeps its state.
pub(super) const STATE: &str = "/var/lib/interceptor";

/// A person who typed a command.
#[derive(Debug)]
struct PersonsHousehold {
    person: Person,
    /// Who runs the command inside.
    runner: UserIdentity,
    directory: PathBuf,
    /// Whether files are read with the person's rights, rather than this process's.
    as_person: bool,
    whose: String,
}

/// The household of a person, whose sandbox is this user's, in this directory.
pub(super) fn household_of(
    person: &Person,
    (runner, directory): (&UserIdentity, &Path),
    as_person: bool,
) -> Arc<dyn Household> {
    let whose = format!("{}:{}:{as_person}", person.identity.uid, runner.uid);
    let (person, runner) = (person.clone(), runner.clone());
    let directory = directory.to_owned();
    Arc::new(PersonsHousehold { person, runner, directory, as_person, whose })
}

impl Household for PersonsHousehold {
    fn whose(&self) -> &str {
        &self.whose
    }

    fn accepts(&self, file: &Path) -> bool {
        authors::is_operators(file, &self.runner, &self.directory)
    }

    fn read(&self, file: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        let read = || files::read(file, most).map(|(text, _)| text);
        if self.as_person { self.person.act(read) } else { read() }
    }

    fn with_state(&self, work: StateWork<'_>) -> io::Result<()> {
        let state = history::make_state_directory(&self.person);
        let state = state.ok_or_else(|| files::unfit("there is no directory for the state"))?;
        self.person.act(|| work(&state))
    }
}

/// The daemon.
#[derive(Debug)]
struct DaemonsHousehold;

impl Household for DaemonsHousehold {
    fn whose(&self) -> &str {
        "daemon"
    }

    fn accepts(&self, file: &Path) -> bool {
        authors::only_root_could(file, &authors::nobody(), Path::new("/"))
    }

    fn read(&self, file: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        files::read(file, most).map(|(text, _)| text)
    }

    fn with_state(&self, work: StateWork<'_>) -> io::Result<()> {
        let state = Path::new(STATE);
        if !state.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            let why = "the directory /var/lib/interceptor is not there: make it (mode 0700) and \
                start the daemon again";
            return Err(files::unfit(why));
        }
        work(state)
    }
}

/// What asks services for a person, by these `--resolve` and `--upstream-ca`.
///
/// # Errors
/// If one of them is invalid.
pub(super) fn of_person(
    (resolve, upstream_ca): (&[String], &[PathBuf]),
    person: &Person,
    sandbox: (&UserIdentity, &Path),
) -> anyhow::Result<Asks> {
    of(resolve, upstream_ca, household_of(person, sandbox, false))
}

/// What asks services for the daemon.
///
/// # Errors
/// As [`of_person`].
pub(super) fn of_daemon(resolve: &[String], upstream_ca: &[PathBuf]) -> anyhow::Result<Asks> {
    of(resolve, upstream_ca, Arc::new(DaemonsHousehold))
}

fn of(
    resolve: &[String],
    upstream_ca: &[PathBuf],
    household: Arc<dyn Household>,
) -> anyhow::Result<Asks> {
    let upstream = setup::upstream(resolve)?;
    let verifier = client::verifier(upstream_ca, &[]).context("--upstream-ca")?;
    let outbound = Outbound::new(upstream, verifier, household).context("upstream TLS")?;
    Ok(Ok(Arc::new(outbound)))
}
