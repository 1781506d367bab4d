//! The console, which is the command's terminal.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::super::devices;
use super::{Launch, alone, launch, open_directory, users};

#[test]
fn p8_the_console_is_the_terminal_that_came_and_no_other_file_of_its_name() {
    let directory = open_directory();
    let (points, roots) = (directory.path().join("pts"), directory.path().join("roots"));
    fs::create_dir(&points).unwrap();
    fs::create_dir(&roots).unwrap();
    fs::write(roots.join("ptmx"), "secret").unwrap();
    let none: Option<&Path> = None;
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    alone(|| {
        let options = Some("newinstance,ptmxmode=0666");
        mount(Some("devpts"), &points, Some("devpts"), MsFlags::empty(), options).unwrap();
        let mut terminal = OpenOptions::new();
        let terminal = terminal.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let terminal = terminal.open(points.join("ptmx")).unwrap();
        let null = File::open("/dev/null").unwrap();
        let found = |launch: &Launch| devices::terminal(&[null.as_fd(), terminal.as_fd()], launch);
        let which = |file: &File| {
            let status = file.metadata().unwrap();
            (status.dev(), status.ino(), status.rdev())
        };
        let same = |file: OwnedFd| which(&File::from(file)) == which(&terminal);
        let [operators, members] = [launch("nobody", &points, &[]), users(&points, &[])];
        assert!(found(&operators).is_some_and(same));
        assert!(found(&members).is_some_and(same));
        // Where the member may not go, root does not go either.
        mode(directory.path(), 0o700);
        assert!(found(&operators).is_some_and(same));
        assert!(found(&members).is_none());
        mode(directory.path(), 0o755);
        // Another file of this name.
        mount(Some(&roots), &points, none, MsFlags::MS_BIND, none).unwrap();
        assert!(found(&operators).is_none());
        assert!(found(&members).is_none());
    });
}
