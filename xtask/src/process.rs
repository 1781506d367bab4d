//! Starting other programs: cargo, and what needs root.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail};

/// The workspace's root, the parent of this crate's directory.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cargo that runs this program, with these arguments, in the workspace.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(workspace());
    command
}

/// Runs a command; failure is an error.
pub(crate) fn succeed(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", shown(&command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(&command));
    }
    Ok(())
}

/// Runs a command and passes its exit status on.
pub(crate) fn status(mut command: Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("starting {}", shown(&command)))?;
    Ok(code(status))
}

/// Replaces this process with the command, which takes over standard streams, signals and the exit
/// status.
pub(crate) fn become_command(mut command: Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", shown(&command)))
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Where cargo puts builds of `profile` (`debug`, `release`): beside this program, unless the
/// environment says otherwise.
pub(crate) fn built(profile: &str, name: &str) -> Result<PathBuf> {
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        return Ok(workspace().join(target).join(profile).join(name));
    }
    let own = env::current_exe().context("finding this program")?;
    let target =
        own.parent().and_then(Path::parent).context("this program is not in target/PROFILE")?;
    Ok(target.join(profile).join(name))
}

/// Whether this process is root, according to /proc, which needs no library.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1));
    effective == Some("0")
}

/// The prefix that runs a command as root: empty for root, else sudo with the environment that
/// build tools need.
pub(crate) fn as_root() -> Result<Vec<OsString>> {
    if is_root() {
        return Ok(vec![]);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|directory| directory.join("sudo").is_file()) {
        bail!(
            "this needs root (it makes cgroups and namespaces and loads eBPF), and there is no \
             sudo: run it as root"
        );
    }
    eprintln!(
        "xtask: this needs root (it makes cgroups and namespaces and loads eBPF): calling sudo"
    );
    let mut path_setting = OsString::from("PATH=");
    path_setting.push(path);
    let keep = "--preserve-env=HOME,CARGO_HOME,RUSTUP_HOME,RUST_LOG,RUST_BACKTRACE,\
                INTERCEPTOR_BIN,TERM,LANG,CI";
    Ok(vec!["sudo".into(), keep.into(), "env".into(), path_setting])
}

/// The arguments that make cargo run its builds as root, with this prefix.
pub(crate) fn runner(words: &[OsString]) -> Vec<String> {
    if words.is_empty() {
        return vec![];
    }
    let words: Vec<String> =
        words.iter().map(|word| format!("'{}'", word.to_string_lossy())).collect();
    vec!["--config".to_owned(), format!("target.'cfg(unix)'.runner = [{}]", words.join(", "))]
}

/// A program run as root.
pub(crate) fn root_command(program: &Path) -> Result<Command> {
    let mut words = as_root()?;
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    Ok(command)
}
