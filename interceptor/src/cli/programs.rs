//! Programs that print keys, run with the rights and the variables of the person who typed the
//! command.
//!
//! A program runs outside the sandbox while the sandbox lives, often as the user who runs the
//! command inside. So nothing may be run that this user could change: the program, a script among
//! its arguments, a directory of PATH, a variable that names code to load.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use interceptor_policy::ExecSource;
use zeroize::Zeroizing;

use super::authors::{self, WRITABLE};
use super::live::guarded::Guarded;
use super::person::Person;
use super::policy_file::printable;
use crate::credential::{MOST_PRINTED, Programs, Runs, SourceProblem};
use crate::ipc::Strings;
use crate::sandbox::handover::Program;
use crate::sandbox::keeper::Keeper;
use crate::sandbox::program::{self, ProgramError};
use crate::sandbox::user::UserIdentity;

/// Where programs are looked for if the person has no PATH.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Variables that make interpreters load code, and what sudo sets, as prefixes of their names.
const LEFT_OUT: [&str; 25] = [
    "BASH_ENV",
    "BASH_FUNC_",
    "CLASSPATH",
    "CLOUDSDK_PYTHON",
    "DOTNET_STARTUP_HOOKS",
    "ENV",
    "GCONV_PATH",
    "GEM_",
    "GIO_",
    "GTK_",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LD_",
    "LUA_",
    "NODE_OPTIONS",
    "NODE_PATH",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "PERL",
    "PYTHON",
    "RUBYLIB",
    "RUBYOPT",
    "SUDO_",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// Variables that name settings in place of those in the home.
const SETTINGS: [&str; 3] = ["GIT_CONFIG_GLOBAL", "VAULT_CONFIG_PATH", "WGETRC"];

/// The programs of one person.
#[derive(Debug)]
struct PersonsPrograms {
    identity: UserIdentity,
    /// The person's variables, without those that load code and without PATH.
    environment: Vec<OsString>,
    /// The directories in which programs are looked for.
    path: Vec<PathBuf>,
    umask: u32,
    guard: Guard,
    /// Whether the settings in the home may be the sandbox's.
    is_home_changeable: bool,
    whose: String,
}

/// Against whom programs are guarded.
#[derive(Debug)]
struct Guard {
    /// Who runs the command inside.
    runner: UserIdentity,
    /// Who typed the command: besides root the only one who may change them.
    person: u32,
    /// The working directory.
    directory: PathBuf,
}

/// The programs of a person, guarded against who runs the command inside in this directory.
pub(super) fn of_person(
    person: &Person,
    runner: &UserIdentity,
    directory: &Path,
) -> Arc<dyn Programs> {
    let (person_uid, directory) = (person.identity.uid, directory.to_owned());
    let guard = Guard { runner: runner.clone(), person: person_uid, directory };
    let path = person.variable("PATH").unwrap_or_else(|| PATH.into());
    let is_guarded = |directory: &PathBuf| {
        directory.is_absolute() && !guard.is_changeable(directory).unwrap_or(true)
    };
    let path = std::env::split_paths(&path).filter(is_guarded).collect();
    let identity = person.identity.clone();
    let whose = format!("{}:{}:{:?}:{}", identity.uid, identity.gid, identity.groups, runner.uid);
    let mut environment = environment(person);
    let is_changeable = |path: &Path| guard.is_changeable(path).unwrap_or(true);
    let is_home_changeable = person.home().is_some_and(|home| is_changeable(&home));
    let named = |name: &str| person.variable(name).map(PathBuf::from);
    for name in SETTINGS.iter().filter(|_| is_home_changeable) {
        if named(name).is_none_or(|path| is_changeable(&path)) {
            let begins = format!("{name}=");
            environment.retain(|line| !line.as_bytes().starts_with(begins.as_bytes()));
            environment.push(format!("{begins}/dev/null").into());
        }
    }
    let umask = person.umask().unwrap_or(0o077);
    Arc::new(PersonsPrograms {
        identity,
        environment,
        path,
        umask,
        guard,
        is_home_changeable,
        whose,
    })
}

/// The person's variables, but for PATH.
fn environment(person: &Person) -> Vec<OsString> {
    let is_left_out =
        |name: &OsStr| LEFT_OUT.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()));
    let line = |name: &OsStr, value: &OsStr| [name, OsStr::new("="), value].join(OsStr::new(""));
    let own = [("HOME", person.home().map(PathBuf::into_os_string)), ("USER", name_of(person))];
    let own = own.into_iter().chain([("LOGNAME", name_of(person))]);
    let own: Vec<(&str, OsString)> = own.filter_map(|(name, value)| Some((name, value?))).collect();
    let is_own = |name: &OsStr| name == "PATH" || own.iter().any(|(known, _)| name == *known);
    let all = person.environment();
    let others = all.iter().filter(|(name, _)| !is_own(name) && !is_left_out(name));
    let mut lines: Vec<OsString> = others.map(|(name, value)| line(name, value)).collect();
    lines.extend(own.iter().map(|(name, value)| line(OsStr::new(name), value)));
    // Code in the home is the sandbox's to write.
    lines.push("PYTHONNOUSERSITE=1".into());
    lines
}

fn name_of(person: &Person) -> Option<OsString> {
    Some(OsString::from(&person.identity.name))
}

impl Guard {
    /// Whether the sandbox, or any user but root and the person, could put something else in a
    /// place, or change what is there.
    fn is_changeable(&self, path: &Path) -> io::Result<bool> {
        if self.runner.is_root() {
            // Inside, all else is read-only for root.
            let own = WRITABLE.iter().map(Path::new).chain([self.directory.as_path()]);
            let writable: Vec<PathBuf> =
                own.map(|place| place.canonicalize().unwrap_or_else(|_| place.into())).collect();
            let is_within = |at: &PathBuf| writable.iter().any(|place| at.starts_with(place));
            return Ok(on_the_way(path)?.iter().any(is_within)
                || Guarded::any(path, &authors::nobody(), self.person)?.is_changeable);
        }
        Ok(Guarded::any(path, &self.runner, self.person)?.is_changeable)
    }
}

/// The most links in a path, as for the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Every place that an absolute path leads through, links and what they lead to, each without links
/// above it.
fn on_the_way(path: &Path) -> io::Result<Vec<PathBuf>> {
    let names = |path: &Path| path.iter().map(OsStr::to_owned).collect::<VecDeque<_>>();
    let (mut at, mut left) = (PathBuf::new(), names(path));
    let (mut found, mut links) = (Vec::new(), 0);
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        found.push(next.clone());
        if !next.symlink_metadata()?.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let mut target = names(&next.read_link()?);
        target.append(&mut left);
        left = target;
    }
    Ok(found)
}

/// Refuses what the sandbox's user could change.
fn check(
    path: &Path,
    is_changeable: &dyn Fn(&Path) -> io::Result<bool>,
) -> Result<(), SourceProblem> {
    match is_changeable(path) {
        Ok(false) => Ok(()),
        Ok(true) => Err(SourceProblem::Changeable(printable(&path.to_string_lossy()))),
        Err(error) => Err(SourceProblem::Unstarted(error.to_string())),
    }
}

/// A program's file.
fn found(name: &str, path: &[PathBuf]) -> Result<PathBuf, SourceProblem> {
    if name.starts_with('/') {
        return Ok(PathBuf::from(name));
    }
    let mut places = path.iter().map(|directory| directory.join(name));
    places.find(|place| place.is_file()).ok_or(SourceProblem::NotFound)
}

/// Whether a path may lead anywhere: what cannot be told may.
fn leads(path: &Path) -> bool {
    const NOWHERE: [i32; 3] = [libc::ENOENT, libc::ENOTDIR, libc::ENAMETOOLONG];
    let error = path.symlink_metadata().err().and_then(|error| error.raw_os_error());
    error.is_none_or(|error| !NOWHERE.contains(&error))
}

/// The command line, guarded.
fn command(
    source: &ExecSource,
    path: &[PathBuf],
    is_changeable: &dyn Fn(&Path) -> io::Result<bool>,
) -> Result<Vec<OsString>, SourceProblem> {
    let program = found(source.program(), path)?;
    check(&program, is_changeable)?;
    let arguments = source.argv.iter().skip(1);
    // Each may be a script or a directory of one, also behind `--option=`: programs start in `/`.
    let values = arguments.clone().filter_map(|argument| Some(argument.split_once('=')?.1));
    for argument in arguments.clone().map(String::as_str).chain(values) {
        let place = Path::new("/").join(argument);
        if place != Path::new("/dev/null")
            && place.components().any(|part| matches!(part, Component::Normal(_)))
            && leads(&place)
        {
            check(&place, is_changeable)?;
        }
    }
    Ok([program.into_os_string()].into_iter().chain(arguments.map(Into::into)).collect())
}

/// Has curl, also behind `env NAME=VALUE`, leave out the settings in the home, which could send a
/// key anywhere; nothing but its first argument does that.
fn without_settings(command: &mut Vec<OsString>) {
    let is = |word: &OsString, name: &str| Path::new(word).file_name() == Some(OsStr::new(name));
    let is_assignment = |word: &&OsString| word.as_bytes().contains(&b'=');
    let at = match command.first().is_some_and(|program| is(program, "env")) {
        true => 1 + command[1..].iter().take_while(is_assignment).count(),
        false => 0,
    };
    if command.get(at).is_some_and(|program| is(program, "curl")) {
        command.insert(at + 1, "-q".into());
    }
}

impl Programs for PersonsPrograms {
    fn whose(&self) -> &str {
        &self.whose
    }

    fn accepts(&self, file: &Path) -> bool {
        authors::is_operators(file, &self.guard.runner, &self.guard.directory)
    }

    fn run(&self, source: &ExecSource) -> Result<Zeroizing<Vec<u8>>, SourceProblem> {
        let is_changeable = |path: &Path| self.guard.is_changeable(path);
        let mut command = command(source, &self.path, &is_changeable)?;
        if self.is_home_changeable {
            without_settings(&mut command);
        }
        let command = Strings(command);
        let mut environment = self.environment.clone();
        let path = std::env::join_paths(&self.path).unwrap_or_default();
        environment.push([OsStr::new("PATH="), &path].join(OsStr::new("")));
        let program = Program {
            command,
            environment: Strings(environment),
            identity: self.identity.clone(),
            umask: self.umask,
        };
        let printed = program::run(program, source.timeout, MOST_PRINTED);
        printed.map_err(|error| problem(source, error))
    }
}

fn problem(source: &ExecSource, error: ProgramError) -> SourceProblem {
    match error {
        ProgramError::Unstarted(why) => SourceProblem::Unstarted(why),
        ProgramError::Timeout => SourceProblem::Timeout(source.timeout),
        ProgramError::TooLong => SourceProblem::TooLong,
        ProgramError::Status(status) => SourceProblem::Status(status),
        ProgramError::Killed(signal) => SourceProblem::Killed(signal),
    }
}

/// The programs of a daemon, run as the user that its operator named.
#[derive(Debug)]
struct DaemonsPrograms {
    keeper: Keeper,
    identity: UserIdentity,
    whose: String,
}

/// Why a daemon runs no programs.
const NO_USER: &str = "the daemon runs no programs without `programs_as`, the user to run them as";

/// What runs the programs of a daemon, as the user of this name, if there is one. Call it before
/// the daemon gives up its rights.
///
/// # Errors
/// If there is no such user, it is root, or the process for it cannot be started.
pub(super) fn of_daemon(user: Option<&str>) -> anyhow::Result<Runs> {
    let Some(user) = user else { return Ok(Err(NO_USER)) };
    let identity = UserIdentity::choose(Some(user), None).context("programs_as")?;
    ensure!(!identity.is_root(), "programs_as: programs are not run as root; name another user");
    let keeper = Keeper::start(&identity)?;
    let whose = format!("daemon:{}", identity.uid);
    Ok(Ok(Arc::new(DaemonsPrograms { keeper, identity, whose })))
}

impl Programs for DaemonsPrograms {
    fn whose(&self) -> &str {
        &self.whose
    }

    fn accepts(&self, file: &Path) -> bool {
        authors::only_root_could(file, &self.identity, Path::new("/"))
    }

    fn has_ended(&self) -> bool {
        self.keeper.has_ended()
    }

    fn run(&self, source: &ExecSource) -> Result<Zeroizing<Vec<u8>>, SourceProblem> {
        // Anybody may be in a sandbox, so nobody but root may change them.
        let is_changeable = |path: &Path| Ok(Guarded::any(path, &self.identity, 0)?.is_changeable);
        let path = std::env::split_paths(PATH).collect::<Vec<_>>();
        let command = Strings(command(source, &path, &is_changeable)?);
        let home = self.identity.home.as_ref().map(|home| home.0.clone().into_os_string());
        let name = OsString::from(&self.identity.name);
        let lines = [
            ("PATH", Some(PATH.into())),
            ("HOME", home),
            ("USER", Some(name.clone())),
            ("LOGNAME", Some(name)),
            ("PYTHONNOUSERSITE", Some("1".into())),
        ];
        let line =
            |(name, value): (&str, OsString)| [OsString::from(name), value].join("=".as_ref());
        let environment = lines.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let program = Program {
            command,
            environment: Strings(environment.map(line).collect()),
            identity: self.identity.clone(),
            umask: 0o077,
        };
        let printed = self.keeper.run(program, source.timeout, MOST_PRINTED);
        printed.map_err(|error| problem(source, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_on_the_way_is_judged_for_root_inside() {
        let home = tempfile::tempdir().unwrap();
        let real = home.path().canonicalize().unwrap();
        let project = real.join("project");
        std::fs::create_dir_all(project.join("bin")).unwrap();
        std::fs::create_dir_all(real.join("safe")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", project.join("bin/python")).unwrap();
        std::os::unix::fs::symlink("../project/bin/python", real.join("safe/tool")).unwrap();
        let way = on_the_way(&real.join("safe/tool")).unwrap();
        assert!(way.contains(&project.join("bin/python")), "{way:?}");
        assert_eq!(way.last(), Some(&Path::new("/bin/sh").canonicalize().unwrap()));
        std::os::unix::fs::symlink("loop", real.join("loop")).unwrap();
        assert_eq!(on_the_way(&real.join("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn what_any_user_can_change_is_not_run_where_root_is_inside_either() {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        const OTHER: u32 = 54321;
        // Not below /tmp, which root inside can write.
        let place = tempfile::tempdir_in("/var/lib").unwrap();
        let (directory, file) = (place.path().join("bin"), place.path().join("bin/token"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let runner = UserIdentity::of_number(0, Some(0)).unwrap();
        let person = |person| Guard { runner: runner.clone(), person, directory: "/none".into() };
        let is_changeable = |uid| person(uid).is_changeable(&file).unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(place.path(), 0o755);
        for (path, kept, open) in [(&file, 0o755, 0o757), (&directory, 0o755, 0o777)] {
            mode(path, kept);
            assert!(!is_changeable(0), "{path:?}");
            mode(path, open);
            assert!(is_changeable(0), "{path:?}");
            mode(path, kept);
            chown(path, Some(OTHER), None).unwrap();
            // What is the person's is nobody else's.
            assert!(is_changeable(0) && !is_changeable(OTHER), "{path:?}");
            chown(path, Some(0), None).unwrap();
        }
        assert!(!is_changeable(0));
    }

    #[test]
    fn arguments_are_judged_wherever_they_lead_from_the_root() {
        let home = tempfile::tempdir().unwrap();
        let real = home.path().canonicalize().unwrap();
        let (inside, is_changeable) =
            (real.clone(), |path: &Path| Ok(path.canonicalize()?.starts_with(&real)));
        let judged = |arguments: &[&str]| {
            let argv = ["/bin/sh"].iter().chain(arguments).map(|&text| text.to_owned()).collect();
            let (timeout, ttl) = (ExecSource::TIMEOUT, ExecSource::TTL);
            let prints = interceptor_policy::Prints::Key;
            let source = ExecSource { argv, timeout, ttl, prints };
            command(&source, &[], &is_changeable)
        };
        let place = inside.to_str().unwrap();
        for refused in [
            vec![place.to_owned()],
            vec![place[1..].to_owned()],
            vec![format!("--script={place}")],
            vec![".".to_owned(), format!("/usr/..{place}")],
        ] {
            let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
            assert!(matches!(judged(&refused), Err(SourceProblem::Changeable(_))), "{refused:?}");
        }
        let long = "x".repeat(5000);
        for kept in [
            &["-c", "echo key"][..],
            &["..", "/", ".", ""],
            &["https://a.test/", &long, "A=/dev/null"],
        ] {
            assert_eq!(judged(kept).unwrap().len(), kept.len() + 1, "{kept:?}");
        }
    }
}
