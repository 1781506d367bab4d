//! Whether the container engines on this host call the hook or the runtime.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::cli::install;
use crate::cli::oci_runtime;
use crate::oci::podman::{self, PROGRAM};
use crate::oci::{docker, toml};

use super::check::Check;

/// Every engine that is installed.
pub(super) fn all() -> impl Iterator<Item = Check> {
    [podman(), docker(), containerd(), crio()].into_iter().flatten()
}

/// Docker, if installed.
fn docker() -> Option<Check> {
    const INSTALL: &str = "sudo interceptor install docker";
    on_path(docker::DAEMON).then(|| {
        let present = fs::read_to_string(docker::CONFIG).unwrap_or_default();
        let ours = docker::configured(&present);
        let failed = |why: String| Check::failed(docker::PROGRAM, false, why, INSTALL);
        if ours.is_empty() {
            return failed("no runtime is installed: containers start unconfined".into());
        }
        if let Some((name, program)) = ours.iter().find(|(_, program)| !program.is_file()) {
            return failed(format!("{}, the program of {name}, does not exist", program.display()));
        }
        let known = match install::known_to_docker() {
            Ok(known) => known,
            Err(error) => return failed(format!("whether it is in force is not known: {error:#}")),
        };
        let names: Vec<String> = ours.into_iter().map(|(name, _)| name).collect();
        if let Some(name) = names.iter().find(|name| !known.contains(name)) {
            return failed(format!("the running daemon does not know {name}"));
        }
        let detail = format!(
            "in force: {} ({}); containers started by another runtime are unconfined",
            names.join(", "),
            docker::CONFIG
        );
        Check::passed(docker::PROGRAM, false, detail)
    })
}

/// containerd, if installed.
fn containerd() -> Option<Check> {
    const INSTALL: &str = "sudo interceptor install containerd";
    on_path(toml::CONTAINERD).then(|| {
        let failed = |why: &str, remedy| Check::failed(toml::CONTAINERD, false, why, remedy);
        let present = fs::read_to_string(toml::CONTAINERD_CONFIG).unwrap_or_default();
        let Some(program) = toml::handler(&present) else {
            return failed("no runtime handler is installed: pods start unconfined", INSTALL);
        };
        if !is_interceptor(&program) {
            return failed("the handler's program is not the interceptor", INSTALL);
        }
        let written = fs::metadata(toml::CONTAINERD_CONFIG).and_then(|file| file.modified());
        match (running_since(toml::CONTAINERD), written) {
            (Some(since), Ok(written)) if since >= written => {
                let detail = format!(
                    "in force: the handler {} ({}); pods of other handlers are unconfined",
                    toml::HANDLER,
                    toml::CONTAINERD_CONFIG
                );
                Check::passed(toml::CONTAINERD, false, detail)
            }
            (None, _) => failed("the handler is installed; containerd does not run", INSTALL),
            _ => failed(
                "the handler was installed after containerd was started",
                "sudo systemctl restart containerd",
            ),
        }
    })
}

/// CRI-O, if installed.
fn crio() -> Option<Check> {
    const INSTALL: &str = "sudo interceptor install cri-o";
    on_path(toml::CRIO).then(|| {
        if Path::new(toml::CRIO_CONFIG).is_file() {
            let detail = format!(
                "a runtime handler is written ({}); whether CRI-O has read it is not known",
                toml::CRIO_CONFIG
            );
            return Check::failed(toml::CRIO, false, detail, "sudo systemctl reload crio");
        }
        let why = "no runtime handler is installed: pods start unconfined";
        Check::failed(toml::CRIO, false, why, INSTALL)
    })
}

/// Whether a program is the one that is called by its name.
fn is_interceptor(program: &Path) -> bool {
    let named = program.file_name().is_some_and(|name| name == oci_runtime::NAME);
    named && fs::canonicalize(program).is_ok_and(|file| file.is_file())
}

/// When the oldest process of this name, with the usual configuration, was started
/// (proc_pid_stat(5)).
fn running_since(name: &str) -> Option<SystemTime> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime = Duration::try_from_secs_f64(uptime.split(' ').next()?.parse().ok()?).ok()?;
    let booted = SystemTime::now().checked_sub(uptime)?;
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let ticks = u64::try_from(ticks).ok().filter(|ticks| *ticks > 0)?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let starts = processes.filter_map(|process| {
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        let (before, after) = stat.rsplit_once(") ")?;
        let is_it = before.split_once('(')?.1 == name;
        // dockerd has a containerd of its own, with another configuration.
        let line = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split('\0').skip_while(|word| !word.starts_with("--config"));
        let other = match words.next() {
            Some("--config") => words.next() != Some(toml::CONTAINERD_CONFIG),
            Some(word) => word.strip_prefix("--config=") != Some(toml::CONTAINERD_CONFIG),
            None => false,
        };
        let is_it = is_it && !other;
        // Field 22; the state after the name is field 3.
        is_it.then(|| after.split(' ').nth(19)?.parse::<u64>().ok()).flatten()
    });
    booted.checked_add(Duration::from_millis(starts.min()?.saturating_mul(1000) / ticks))
}

/// Podman, if installed.
fn podman() -> Option<Check> {
    on_path(PROGRAM).then(|| match podman::directories() {
        Ok(read) => judge(&podman::hooks(&read), &read),
        // Podman needs a home and a runtime directory, which only a login session has.
        Err(error) if !nix::unistd::geteuid().is_root() => {
            Check::failed(PROGRAM, false, error.to_string(), "run as root")
        }
        Err(error) => Check::failed(
            PROGRAM,
            false,
            error.to_string(),
            "sudo interceptor install podman starts a container to prove that the hook is called",
        ),
    })
}

fn judge(hooks: &[podman::HookFile], read: &[std::path::PathBuf]) -> Check {
    const INSTALL: &str = "sudo interceptor install podman";
    let read: Vec<_> = read.iter().map(|directory| directory.display().to_string()).collect();
    let read = read.join(", ");
    if let Some(hook) = hooks.iter().find(|hook| hook.fault.is_none()) {
        let detail =
            format!("the hook is in force: {} ({PROGRAM} reads {read})", hook.file.display());
        return Check::passed(PROGRAM, false, detail);
    }
    let why = match hooks.first() {
        Some(podman::HookFile { file, fault: Some(fault) }) => {
            format!("{} has no effect: {fault}", file.display())
        }
        _ => "no hook is installed".to_owned(),
    };
    let detail = format!(
        "{why}: containers start unconfined, even with a policy annotation ({PROGRAM} reads \
         {read})"
    );
    Check::failed(PROGRAM, false, detail, INSTALL)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_hook_without_effect_never_looks_as_if_it_were_in_force() {
        let read = [PathBuf::from("/read")];
        let hook = |fault: Option<&str>| podman::HookFile {
            file: "/read/i.json".into(),
            fault: fault.map(str::to_owned),
        };
        let force = judge(&[hook(Some("gone")), hook(None)], &read);
        assert!(force.ok && force.detail.contains("in force") && force.detail.contains("/read"));
        for none in [judge(&[], &read), judge(&[hook(Some("podman does not read /etc/x"))], &read)]
        {
            assert!(
                !none.ok && !none.required && none.detail.contains("unconfined"),
                "{}",
                none.detail
            );
            assert!(none.remedy.unwrap().contains("install podman"));
        }
    }
}
