//! A key file on a hanging mount, like a network file system without its server: a file system
//! whose server never answers, in the daemon's own mount namespace.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Daemon, Guest, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

/// The server of a file system. Killing it ends all waits for it.
struct Silent(Child);

impl Silent {
    fn begin(daemon: &Daemon<'_>, at: &Path) -> Silent {
        let program = format!(
            "import ctypes, os, sys
device = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={{device}},rootmode=40000,user_id=0,group_id=0'.encode()
if ctypes.CDLL(None, use_errno=True).mount(b'lab', {at:?}.encode(), b'fuse', 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
print('mounted', flush=True)
sys.stdin.read()"
        );
        let mut command = Command::new("nsenter");
        command.arg("--mount").arg("--target").arg(daemon.running().pid().to_string());
        command.args(["python3", "-c", &program]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut silent = Silent(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(silent.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        silent
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn policy(file: &Path) -> Value {
    let credential = json!({ "key": { "file": file }, "hosts": [HOST], "env": "LAB_API_KEY" });
    json!({ "network": { "allow": [HOST] }, "credentials_v2": { "lab": credential } })
}

/// Sends one request, and returns the key that the origin got.
fn key_given(lab: &Lab, guest: &Guest<'_>, path: &str) -> Option<String> {
    let answer = &guest.fetch(&Plan::https(HOST, "http/1.1").ask("GET", path))[0].answers[0];
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = lab.seen().into_iter().rfind(|seen| seen.path == path)?;
    seen.values("authorization")[0].strip_prefix("Bearer ").map(str::to_owned)
}

#[test]
fn a_key_file_on_a_mount_that_hangs_stops_neither_requests_nor_other_keys_nor_the_daemon() {
    Lab::test(|lab| {
        lab.unordered();
        let next = lab.another_key();
        let in_lab = |name: &str| lab.directory().join(name);
        let (file, link, hole, sound) =
            (in_lab("file"), in_lab("link"), in_lab("hole"), in_lab("sound"));
        fs::write(&file, lab.key()).unwrap();
        fs::write(&sound, lab.key()).unwrap();
        fs::create_dir(&hole).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let daemon =
            lab.daemon().at_origin(HOST).quiet_log().under(&["unshare", "--mount"]).start();
        let (hangs, other) = (daemon.guest(&policy(&link)), daemon.guest(&policy(&sound)));
        assert_eq!(key_given(lab, &hangs, "/before").as_deref(), Some(lab.key()));

        let _silent = Silent::begin(&daemon, &hole);
        std::os::unix::fs::symlink(hole.join("key"), in_lab("new")).unwrap();
        fs::rename(in_lab("new"), &link).unwrap();
        fs::write(&sound, &next).unwrap();
        // When the change to the good file is noticed, the hanging one has been checked repeatedly
        // too.
        assert!(until(|| {
            assert_eq!(key_given(lab, &hangs, "/hangs").as_deref(), Some(lab.key()));
            key_given(lab, &other, "/other").as_ref() == Some(&next)
        }));
        daemon.running().signal(Signal::SIGHUP);
        for n in 0..3 {
            assert_eq!(key_given(lab, &hangs, &format!("/{n}")).as_deref(), Some(lab.key()));
        }
        assert_eq!(daemon.ids().len(), 2);
        daemon.remove(&hangs);
        assert_eq!(key_given(lab, &other, "/after").as_ref(), Some(&next));
        daemon.finish();
    });
}
