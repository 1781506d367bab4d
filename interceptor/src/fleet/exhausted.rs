//! Tells errors apart that mean "no more of this": a host with thousands of sandboxes reaches its
//! limits one after another, and each has a remedy.

use std::error::Error;
use std::io;

use super::FleetError;
use crate::sandbox::SandboxError;

/// Adds what to raise, if a limit of the host was reached.
pub(super) fn explain(error: FleetError) -> FleetError {
    let Some(code) = code(&error) else { return error };
    let Some(remedy) = remedy(code) else { return error };
    let what = match &error {
        // Others have the kernel's words in their own.
        FleetError::Kernel(_) => format!("{error}: {}", io::Error::from_raw_os_error(code)),
        _ => error.to_string(),
    };
    FleetError::Exhausted { what, remedy }
}

/// The kernel's error number at the bottom of an error.
fn code(error: &FleetError) -> Option<i32> {
    match error {
        FleetError::System { cause, .. }
        | FleetError::Sandbox(SandboxError::System { cause, .. }) => cause.raw_os_error(),
        other => {
            let mut source: Option<&(dyn Error + 'static)> = Some(other);
            while let Some(error) = source {
                if let Some(error) = error.downcast_ref::<io::Error>() {
                    return error.raw_os_error();
                }
                source = error.source();
            }
            None
        }
    }
}

fn remedy(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::EMFILE => {
            "each sandbox takes 22 open files: raise the daemon's limit (LimitNOFILE= of its \
             unit, or ulimit -n), at most to sysctl fs.nr_open"
        }
        libc::ENFILE => "the host has no more open files: raise sysctl fs.file-max",
        libc::ENOSPC | libc::EDQUOT => {
            "a file system is full: trust files take up to half a megabyte for each sandbox; \
             enlarge it, or name a directory on another with --trust-dir"
        }
        libc::ENOMEM => {
            "the kernel has no memory for another sandbox, or may not use more: raise MemoryMax= \
             of the daemon's unit, or remove sandboxes"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelError;

    fn failed(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_limit_is_named_with_what_to_raise_wherever_it_was_reached() {
        let what = || "cannot open".to_owned();
        let all = [
            (FleetError::System { what: what(), cause: failed(libc::EMFILE) }, "LimitNOFILE"),
            (SandboxError::System { what: what(), cause: failed(libc::ENFILE) }.into(), "file-max"),
            (FleetError::System { what: what(), cause: failed(libc::ENOSPC) }, "--trust-dir"),
            (KernelError::Io { action: "open", source: failed(libc::ENOMEM) }.into(), "MemoryMax"),
        ];
        for (error, named) in all {
            let text = explain(error).to_string();
            assert!(text.starts_with("cannot open") && text.contains(named), "{text}");
        }
        let other = FleetError::System { what: what(), cause: failed(libc::EINVAL) };
        assert!(!explain(other).to_string().contains(';'));
        assert!(matches!(explain(FleetError::IdTaken), FleetError::IdTaken));
    }
}
