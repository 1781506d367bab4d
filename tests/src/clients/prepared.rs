//! Directories that are expensive to make. Each is made once below `target/clients` under a lock,
//! named after a digest of its inputs, and moved into place when complete. A sandbox that cannot
//! reach `target` gets a copy.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest;

use crate::origin::body::hex;

/// `target/clients`.
fn root() -> PathBuf {
    let own = std::env::current_exe().expect("this test is a file");
    let target = own.ancestors().find(|path| path.file_name().is_some_and(|name| name == "target"));
    let directory = match target {
        Some(target) => target.join("clients"),
        None => std::env::temp_dir().join("interceptor-clients"),
    };
    fs::create_dir_all(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    directory
}

/// A directory below `target/clients` that a tool may fill as it likes.
pub(super) fn shared_cache(name: &str) -> PathBuf {
    root().join(name)
}

/// The directory `NAME-DIGEST`, made by `make` if it is not there; readable for everybody.
pub(super) fn prepared(name: &str, inputs: &[&str], make: impl FnOnce(&Path)) -> PathBuf {
    let mut hash = digest::Context::new(&digest::SHA256);
    for input in inputs {
        hash.update(input.as_bytes());
        hash.update(&[0]);
    }
    let name = format!("{name}-{}", &hex(hash.finish().as_ref())[..16]);
    let root = root();
    // Tests are separate processes that run in parallel: one makes it, the others wait.
    let lock = File::create(root.join(format!("{name}.lock"))).expect("own directory");
    lock.lock().expect("a lock on an own file");
    let directory = root.join(&name);
    if !directory.exists() {
        let partial = root.join(format!("{name}.partial"));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir(&partial).expect("own directory");
        make(&partial);
        readable(&partial);
        fs::rename(&partial, &directory).expect("own directory");
    }
    let open = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o001 != 0);
    if directory.ancestors().all(open) {
        return directory;
    }
    let copy = std::env::temp_dir().join(format!("interceptor-clients-{name}"));
    if !copy.exists() {
        let partial = copy.with_extension(format!("{}.partial", std::process::id()));
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(&directory).arg(&partial);
        run(cp, "room for a copy in the temporary directory");
        fs::rename(&partial, &copy).expect("a copy in the temporary directory");
    }
    copy
}

/// Ignore the umask: everybody may read this.
fn readable(path: &Path) {
    let metadata = fs::symlink_metadata(path).expect("own file");
    if metadata.is_symlink() {
        return;
    }
    let mode = metadata.mode() & 0o777;
    let executable = if metadata.is_dir() || mode & 0o100 != 0 { 0o111 } else { 0 };
    fs::set_permissions(path, Permissions::from_mode(mode | 0o444 | executable)).expect("own file");
    if metadata.is_dir() {
        for entry in fs::read_dir(path).expect("own directory").flatten() {
            readable(&entry.path());
        }
    }
}

/// Runs a command that must succeed. `needs` names what the machine lacks if it fails.
pub(super) fn run(mut command: Command, needs: &str) {
    let output = command.stdin(Stdio::null()).output();
    let program = command.get_program().display();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{program} failed ({}); the tests of real clients need {needs}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => {
            panic!("{program} cannot be started ({error}); the tests of real clients need {needs}")
        }
    }
}
