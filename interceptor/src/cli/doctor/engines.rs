//! Whether the container engines on this host call the hook.

use crate::oci::podman::{self, PROGRAM};

use super::check::Check;

/// Podman, if installed.
pub(super) fn podman() -> Option<Check> {
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
