//! What of the caller's is hidden inside.

use std::path::{Path, PathBuf};

use crate::cli::at_home::AtHome;
use crate::cli::person::Person;
use crate::cli::{Common, discovery, history, live, setup};
use crate::ipc::SentPath as Sent;
use crate::notice;
use crate::sandbox::handover::ShownPolicy;
use crate::sandbox::user::UserIdentity;

/// What is hidden of the home, except for `--expose`.
pub(super) fn at_home(
    person: &Person,
    identity: &UserIdentity,
    expose: &[PathBuf],
    directory: &Path,
    quiet: bool,
) -> anyhow::Result<AtHome> {
    let mut at_home = AtHome::of(person, identity)?;
    at_home.expose(expose, directory)?;
    if quiet {
        return Ok(at_home);
    }
    if let Some((place, what)) = at_home.around(directory) {
        let place = place.display();
        notice::warning(format_args!(
            "the working directory is empty inside, because {place} is hidden ({what}); `--expose \
             {place}` shows it"
        ));
    }
    for file in at_home.linked() {
        notice::warning(format_args!(
            "{} is hidden, but has other hard links, through which the sandbox may read it",
            file.display()
        ));
    }
    Ok(at_home)
}

/// The directories of the interceptor's own state, settings and sockets, and of the SSH agent.
pub(super) fn directories(person: &Person, directory: &Path) -> anyhow::Result<Vec<Sent>> {
    let state = history::hidden_state(person, directory)?;
    let settings = discovery::hidden_settings(person, directory)?;
    let sockets = live::hidden_sockets(person, directory)?;
    let agent = agent_directory(person).map(Sent);
    Ok(agent.into_iter().chain(state).chain(settings).chain(sockets).collect())
}

/// The key files and the audit file, which the sandbox must neither read nor change; also the
/// policy, if it cannot be shown.
pub(super) fn files(
    secret_files: Vec<PathBuf>,
    policy: Option<&ShownPolicy>,
    common: &Common,
) -> Vec<Sent> {
    let audit = audit_file(common);
    let is_shown = |file: &PathBuf| policy.is_some_and(|policy| policy.path.0 == *file);
    let secret = secret_files.into_iter().filter(|file| !is_shown(file));
    secret.chain(audit).map(Sent).collect()
}

/// The audit file.
pub(super) fn audit_file(common: &Common) -> impl Iterator<Item = PathBuf> {
    common.audit.iter().filter_map(|path| setup::regular_file(path))
}

/// The directory of the caller's SSH agent socket, which gives access to the caller's keys.
fn agent_directory(person: &Person) -> Option<PathBuf> {
    let socket = PathBuf::from(person.variable("SSH_AUTH_SOCK")?);
    let directory = std::fs::canonicalize(socket.parent()?).ok()?;
    // Hidden only if it holds nothing else.
    let own = std::fs::read_dir(&directory).ok()?.count() == 1;
    own.then_some(directory)
}
