//! Places that the user named.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use super::super::{pinned, prepare};
use super::{Launch, Sent, alone, inside, launch, open_directory, users};

const NOBODY: u32 = 65534;

/// This thread's mounts.
fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

#[test]
fn p8_what_a_member_has_hidden_tells_nothing_of_what_only_root_sees() {
    let directory = open_directory();
    let roots = directory.path().join("roots");
    fs::create_dir_all(roots.join("directory")).unwrap();
    let (key, own) = (roots.join("key"), directory.path().join("own.key"));
    fs::write(&key, "sk-roots").unwrap();
    fs::write(&own, "sk-own").unwrap();
    fs::set_permissions(&roots, Permissions::from_mode(0o700)).unwrap();
    let named = |launch: &mut Launch| {
        launch.hidden_directories = vec![Sent(roots.join("directory"))];
    };
    let hidden = [key, own.clone()];
    let mut members = users(directory.path(), &hidden);
    named(&mut members);
    inside(
        members,
        || (),
        || {
            assert!(!mounts().contains("/roots"), "{}", mounts());
            assert_eq!(fs::read_to_string(&own).unwrap(), "", "the own one is hidden");
        },
    );
    // What root named is hidden from everybody.
    let mut operators = launch("nobody", directory.path(), &hidden);
    named(&mut operators);
    inside(
        operators,
        || (),
        || {
            assert!(mounts().contains("/roots/key ") && mounts().contains("/roots/directory "));
        },
    );
}

#[test]
fn p2_a_secret_behind_a_closed_door_that_the_command_could_open_keeps_it_from_starting() {
    let home = open_directory();
    let behind = home.path().join("closed");
    fs::create_dir_all(behind.join("secret")).unwrap();
    fs::write(behind.join("key"), "sk-own").unwrap();
    for path in [home.path(), &behind] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let secret = || Sent(behind.join("secret"));
    let of_a_key = users(home.path(), &[behind.join("key")]);
    let mut of_a_directory = users(home.path(), &[]);
    of_a_directory.hidden_directories = vec![secret()];
    let mut of_a_home = launch("nobody", home.path(), &[]);
    of_a_home.secrets.hidden = vec![secret()];
    for launch in [of_a_key, of_a_directory, of_a_home] {
        let begin = || {
            let null = File::open("/dev/null").unwrap();
            prepare(&launch, &[null.as_fd(), null.as_fd(), null.as_fd()])
        };
        fs::set_permissions(&behind, Permissions::from_mode(0o000)).unwrap();
        alone(|| {
            let said = begin().unwrap_err().to_string();
            assert!(said.contains("to hide it") && said.contains("closed/"), "{said}");
        });
        fs::set_permissions(&behind, Permissions::from_mode(0o700)).unwrap();
        alone(|| begin().unwrap());
    }
}

#[test]
fn p8_a_link_in_the_place_of_a_pinned_directory_is_not_followed() {
    let directory = open_directory();
    let roots = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (link, real) = (directory.path().join("link"), directory.path().join("real"));
    symlink(roots.path(), &link).unwrap();
    fs::create_dir(&real).unwrap();
    let places = [link.join("x"), real.join("x")];
    for launch in [users(directory.path(), &[]), launch("nobody", directory.path(), &[])] {
        alone(|| {
            pinned::pin(places.iter().map(PathBuf::as_path), &launch).unwrap();
            let mounts = mounts();
            assert!(!mounts.contains(&*roots.path().to_string_lossy()), "{mounts}");
            assert!(mounts.contains(&format!("{} ", real.display())), "{mounts}");
        });
    }
}
