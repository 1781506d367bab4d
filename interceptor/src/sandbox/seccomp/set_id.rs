//! Refuses set-user-id and set-group-id files (`S_ISUID`, `S_ISGID`; inode(7)). Root inside has no
//! capabilities, but its files belong to root: a set-user-id file in the working directory would
//! make anybody outside root.
//!
//! chown(2) cannot bypass this: it clears the bits. openat2(2) takes its mode in memory, where no
//! filter can read it, so it fails with ENOSYS; C libraries and runtimes fall back to openat(2).

use std::collections::BTreeMap;

use seccompiler::{BackendError, BpfProgram, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::rules::{argument, build, unconditional};

/// The two bits.
const BITS: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];
/// `O_TMPFILE` without the `O_DIRECTORY` in it: the bit that makes the mode count.
const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// Not named by libc yet: fchmodat2(2), Linux 6.6, with one number on all architectures.
const FCHMODAT2: i64 = 452;

/// Calls whose mode always applies, and the mode's argument number.
const MODES: [(i64, u8); 4] =
    [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (FCHMODAT2, 2), (libc::SYS_mknodat, 2)];
/// Older variants, on architectures that still have them.
#[cfg(target_arch = "x86_64")]
const OLDER: [(i64, u8); 3] = [(libc::SYS_chmod, 1), (libc::SYS_creat, 1), (libc::SYS_mknod, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: [(i64, u8); 0] = [];
/// Calls whose mode applies if the flags create a file: the argument numbers of flags and mode.
#[cfg(target_arch = "x86_64")]
const OPENS: [(i64, u8, u8); 2] = [(libc::SYS_openat, 2, 3), (libc::SYS_open, 1, 2)];
#[cfg(not(target_arch = "x86_64"))]
const OPENS: [(i64, u8, u8); 1] = [(libc::SYS_openat, 2, 3)];

/// The programs: `EPERM` for the bits, `ENOSYS` for calls that cannot be judged.
pub(super) fn programs() -> Result<Vec<BpfProgram>, String> {
    let rules = rules().map_err(|error| error.to_string())?;
    Ok(vec![build(libc::EPERM, rules)?, build(libc::ENOSYS, unconditional(&[libc::SYS_openat2]))?])
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for bit in BITS {
        for (call, mode) in MODES.into_iter().chain(OLDER) {
            rules.entry(call).or_default().push(SeccompRule::new(vec![has(mode, bit)?])?);
        }
        for (call, flags, mode) in OPENS {
            for makes in [libc::O_CREAT, TMPFILE] {
                let rule = SeccompRule::new(vec![has(flags, makes as u32)?, has(mode, bit)?])?;
                rules.entry(call).or_default().push(rule);
            }
        }
    }
    Ok(rules)
}

fn has(index: u8, bit: u32) -> Result<SeccompCondition, BackendError> {
    argument(index, SeccompCmpOp::MaskedEq(u64::from(bit)), u64::from(bit))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Tries every way to create such a file, and some calls that must keep working, by system call
    /// number.
    const PROGRAM: &str = r#"
import ctypes, errno, os, platform, stat, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
directory = sys.argv[1]
def path(name): return os.path.join(directory, name).encode()
def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    print(name, 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()])
AT = -100
plain = os.open(path('plain'), os.O_CREAT | os.O_RDWR, 0o755)
fchmod, fchmodat, mknodat, openat = (52, 53, 33, 56) if arm else (91, 268, 259, 257)
for bit in (0o4000, 0o2000):
    mode = 0o755 | bit
    call('fchmod', fchmod, plain, mode)
    call('fchmodat', fchmodat, AT, path('plain'), mode)
    call('fchmodat2', 452, AT, path('plain'), mode, 0)
    call('mknodat', mknodat, AT, path('node'), stat.S_IFREG | mode, 0)
    call('openat', openat, AT, path('made'), os.O_CREAT | os.O_WRONLY, mode)
    call('tmpfile', openat, AT, directory.encode(), os.O_TMPFILE | os.O_WRONLY, mode)
    if not arm:
        call('chmod', 90, path('plain'), mode)
        call('creat', 85, path('created'), mode)
        call('mknod', 133, path('node'), stat.S_IFREG | mode, 0)
        call('open', 2, path('made'), os.O_CREAT | os.O_WRONLY, mode)
how = struct.pack('QQQ', os.O_CREAT | os.O_WRONLY, 0o4755, 0)
call('openat2', 437, AT, path('made2'), how, len(how))
print('--')
call('chmod', fchmodat, AT, path('plain'), 0o1777)
call('make', openat, AT, path('made'), os.O_CREAT | os.O_WRONLY, 0o600)
call('open without a mode', openat, AT, path('plain'), os.O_RDONLY, 0o7777)
for name in os.listdir(directory):
    mode = os.stat(os.path.join(directory, name)).st_mode
    if mode & 0o6000: print('FOUND', name)
"#;

    fn attempt(root: bool) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let output = std::thread::spawn(move || {
            super::super::apply(super::super::FilterOptions { root, nesting: false }).unwrap();
            Command::new("/usr/bin/python3").args(["-c", PROGRAM]).arg(path).output().unwrap()
        })
        .join()
        .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn root_inside_makes_no_file_that_runs_as_its_owner() {
        let text = attempt(true);
        let (refused, allowed) = text.split_once("--\n").unwrap();
        for line in refused.lines() {
            let expected = if line.starts_with("openat2") { "ENOSYS" } else { "EPERM" };
            assert!(line.ends_with(expected), "{line} in:\n{text}");
        }
        assert!(refused.lines().count() >= 13);
        assert_eq!(allowed, "chmod ok\nmake ok\nopen without a mode ok\n", "{text}");
        // Without the filter the kernel permits each of them, so it is the filter that refuses.
        assert!(attempt(false).contains("FOUND"));
    }
}
