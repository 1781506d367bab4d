//! Each test changes its own mount namespace, which belongs to a thread and ends with it.

mod named;
mod terminal;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::super::handover::{Launch, Secrets};
use super::super::user::UserIdentity;
use super::prepare;
use crate::ipc::{SentPath as Sent, Strings};

fn launch(user: &str, directory: &Path, hidden: &[PathBuf]) -> Launch {
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::new(vec!["sandbox.test".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    Launch {
        command: Strings::default(),
        environment: Strings::default(),
        directory: Sent(directory.into()),
        identity: UserIdentity::choose(Some(user), None).unwrap(),
        umask: None,
        ca_pem: authority.pem(),
        hidden: hidden.iter().cloned().map(Sent).collect(),
        hidden_directories: Vec::new(),
        secrets: Secrets::default(),
        policy: None,
        bundles: Vec::new(),
        search_bundles: true,
        open_files: (1024, 1024),
        limits: None,
        ignored: None,
        users_paths: false,
        shared_network: false,
        nesting: false,
    }
}

/// A directory for everybody.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), all).unwrap();
    directory
}

/// A launch whose paths the user chose.
fn users(directory: &Path, hidden: &[PathBuf]) -> Launch {
    Launch { users_paths: true, ..launch("nobody", directory, hidden) }
}

/// Runs `before` in new namespaces, prepares them, and runs `after` there.
fn inside(launch: Launch, before: impl FnOnce() + Send, after: impl FnOnce() + Send) {
    alone(|| {
        before();
        let null = fs::File::open("/dev/null").unwrap();
        prepare(&launch, &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
        after();
    });
}

/// Runs it in new namespaces.
fn alone(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
                .unwrap();
            let none: Option<&Path> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn p2_a_key_file_is_hidden_under_every_path_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    fs::write(first.join("key"), "sk-real").unwrap();
    fs::write(first.join("other"), "kept").unwrap();
    let before = || {
        let none: Option<&Path> = None;
        mount(Some(&first), &second, none, MsFlags::MS_BIND, none).unwrap();
    };
    inside(
        launch("nobody", directory.path(), &[first.join("key"), first.join("gone")]),
        before,
        || {
            for alias in [&first, &second] {
                // This thread is root and can read even the cover, which is empty.
                assert_eq!(
                    fs::read_to_string(alias.join("key")).unwrap(),
                    "",
                    "{}",
                    alias.display()
                );
                assert_eq!(fs::read_to_string(alias.join("other")).unwrap(), "kept");
            }
        },
    );
    assert_eq!(fs::read_to_string(first.join("key")).unwrap(), "sk-real");
}

#[test]
fn k9_no_cgroup_is_in_sight_wherever_it_was_mounted() {
    let directory = tempfile::tempdir().unwrap();
    let point = directory.path().join("cgroup");
    fs::create_dir(&point).unwrap();
    let before = || {
        mount(Some("cgroup2"), &point, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        assert!(point.join("cgroup.procs").exists());
    };
    inside(launch("nobody", directory.path(), &[]), before, || {
        assert!(!point.join("cgroup.procs").exists());
        assert_eq!(fs::read_dir("/sys/fs/cgroup").map_or(0, Iterator::count), 0);
        assert!(!Path::new("/sys/fs/bpf/maps.debug").exists());
        assert_eq!(errno(fs::write("/sys/kernel/profiling", "1")), Some(libc::EROFS));
        assert_eq!(errno(fs::write("/proc/sys/kernel/hostname", "x")), Some(libc::EROFS));
        // Not every kernel has it.
        assert!(fs::OpenOptions::new().write(true).open("/proc/sysrq-trigger").is_err());
        assert!(!Path::new("/dev/vda").exists() && !Path::new("/dev/net/tun").exists());
        fs::write("/dev/null", "x").unwrap();
    });
}

#[test]
fn k11_sockets_of_the_hosts_services_are_out_of_reach() {
    let path = PathBuf::from(format!("/run/interceptor-test-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    inside(
        launch("nobody", Path::new("/"), &[]),
        || (),
        || {
            assert!(!path.exists());
            assert!(!Path::new("/run/interceptor").exists());
            assert!(!Path::new("/run/dbus").exists());
        },
    );
    drop(listener);
    fs::remove_file(&path).unwrap();
}

#[test]
fn the_resolver_and_the_trust_files_are_ours_and_cannot_be_changed() {
    inside(
        launch("nobody", Path::new("/"), &[]),
        || (),
        || {
            assert!(
                fs::read_to_string("/etc/resolv.conf").unwrap().contains("nameserver 198.18.0.2\n")
            );
            let ours = fs::read("/run/sandbox-trust/ca-bundle.pem").unwrap();
            assert_eq!(fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap(), ours);
            for file in [
                "/etc/resolv.conf",
                "/etc/hosts",
                "/run/sandbox-trust/ca-bundle.pem",
                "/etc/ssl/certs/ca-certificates.crt",
            ] {
                assert_eq!(errno(fs::write(file, "x")), Some(libc::EROFS), "{file}");
            }
        },
    );
    assert!(!fs::read_to_string("/etc/resolv.conf").unwrap().contains("198.18.0.2"));
}

#[test]
fn root_inside_writes_only_where_it_works_and_to_a_copy_of_its_home() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let marker = Path::new("/root").join(format!("interceptor-test-{}", std::process::id()));
    inside(
        launch("root", directory.path(), &[]),
        || (),
        || {
            for file in
                ["/etc/interceptor-test", "/usr/bin/interceptor-test", "/var/lib/interceptor-test"]
            {
                assert_eq!(errno(fs::write(file, "x")), Some(libc::EROFS), "{file}");
            }
            fs::write(directory.path().join("result"), "x").unwrap();
            fs::write(&marker, "x").unwrap();
        },
    );
    assert!(directory.path().join("result").exists());
    assert!(!marker.exists());
}

#[test]
fn a_working_directory_below_run_stays_reachable() {
    let directory = tempfile::tempdir_in("/run").unwrap();
    fs::write(directory.path().join("file"), "here").unwrap();
    inside(
        launch("nobody", directory.path(), &[]),
        || (),
        || {
            assert_eq!(fs::read_to_string(directory.path().join("file")).unwrap(), "here");
        },
    );
}

#[test]
fn the_bundle_of_a_package_is_read_with_the_authority_and_stays_as_it_is_outside() {
    let directory = tempfile::tempdir().unwrap();
    let packages = directory.path().join("lib/python3/site-packages");
    let hidden = packages.join("botocore/cacert.pem");
    let roots = fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap();
    for name in ["certifi", "botocore", "gone"] {
        fs::create_dir_all(packages.join(name)).unwrap();
    }
    for file in [&packages.join("certifi/cacert.pem"), &hidden] {
        fs::write(file, &roots).unwrap();
    }
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    std::os::unix::fs::symlink("/etc/hostname", packages.join("gone/cacert.pem")).unwrap();
    let launch = launch("nobody", directory.path(), std::slice::from_ref(&hidden));
    let ours = launch.ca_pem.clone();
    inside(
        launch,
        || (),
        || {
            let bundle = packages.join("certifi/cacert.pem");
            let seen = fs::read_to_string(&bundle).unwrap();
            assert!(seen.starts_with(&ours[..200]) && seen.len() > 100_000, "{}", seen.len());
            assert_eq!(errno(fs::write(&bundle, "x")), Some(libc::EROFS));
            // A hidden file stays hidden, whatever its name.
            assert_eq!(fs::read_to_string(&hidden).unwrap(), "");
            assert!(!fs::read_to_string("/etc/hostname").unwrap().contains("CERTIFICATE"));
        },
    );
    assert_eq!(fs::read(packages.join("certifi/cacert.pem")).unwrap(), roots);
}

#[test]
fn a_home_shows_a_database_for_browsers_and_a_link_in_it_leads_nowhere() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let give =
        |path: &Path| nix::unistd::chown(path, Some(65534.into()), Some(65534.into())).unwrap();
    give(home.path());
    give(elsewhere.path());
    let at_home = |directory: &Path| {
        let mut launch = launch("nobody", directory, &[]);
        launch.identity.home = Some(Sent(home.path().into()));
        launch
    };
    let database = home.path().join(".pki/nssdb/cert9.db");
    inside(
        at_home(Path::new("/")),
        || (),
        || {
            assert!(fs::read(&database).unwrap().starts_with(b"SQLite format 3\0"));
            fs::write(home.path().join(".pki/nssdb/pkcs11.txt"), "x").unwrap();
        },
    );
    assert_eq!(
        fs::read_dir(home.path().join(".pki/nssdb")).unwrap().count(),
        0,
        "outside it is empty"
    );

    fs::remove_dir_all(home.path().join(".pki")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), home.path().join(".pki")).unwrap();
    inside(
        at_home(Path::new("/")),
        || (),
        || assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0),
    );
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}
