//! `interceptor ctl` about approvals and leases, and that no sandbox can answer itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use interceptor_tests::daemon::{Cgroup, Daemon, until};
use interceptor_tests::lab::Lab;
use interceptor_tests::sandbox::binary;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::{HOST, NEW, answer, curl, daemon, get, policy, questions};

fn ctl(daemon: &Daemon<'_>, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("interceptor"));
    command.env_clear().arg("ctl").arg("--control").arg(daemon.control()).args(arguments);
    command.output().expect("interceptor ctl")
}

#[track_caller]
fn out(daemon: &Daemon<'_>, arguments: &[&str]) -> String {
    let output = ctl(daemon, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn questions_are_answered_and_leases_given_at_a_terminal() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        assert_eq!(out(&daemon, &["approvals"]), "nothing waits for an answer\n");
        let url = format!("https://{NEW}/runs/12345");
        let held = curl(&guest, &[&url]);
        let asked = questions(&daemon, 1);
        let id = asked[0]["id"].as_str().unwrap();
        let listed = out(&daemon, &["approvals"]);
        for part in
            [id, &guest.id, NEW, "GET", "/runs/12345", "permits: add", "new.example.test:443"]
        {
            assert!(listed.contains(part), "{part}: {listed}");
        }
        let said = out(&daemon, &["approve", id, "--for", "1h"]);
        assert!(said.starts_with(&format!("{id}: approved until 20")), "{said}");
        assert_eq!(answer(held).1, "200");
        assert_eq!(get(&guest, &url).1, "200", "for an hour");
        let leases = out(&daemon, &["leases"]);
        assert!(leases.contains(&guest.id) && leases.contains("uid:"), "{leases}");
        let twice = ctl(&daemon, &["approve", id]);
        assert_eq!(twice.status.code(), Some(1), "{twice:?}");
        assert!(String::from_utf8_lossy(&twice.stderr).contains("decided already"), "{twice:?}");

        let held = curl(&guest, &[&format!("https://{HOST}/v1/jobs")]);
        let asked = questions(&daemon, 1);
        let id = asked[0]["id"].as_str().unwrap();
        assert_eq!(out(&daemon, &["refuse", id]), format!("{id}: refused\n"));
        assert_eq!(answer(held).1, "403");

        let given =
            out(&daemon, &["lease", &guest.id, "--allow", "third.example.test", "--uses", "2"]);
        assert!(given.ends_with(", 2 uses left\n"), "{given}");
        let lease = given.split(':').next().unwrap();
        assert!(out(&daemon, &["leases", &guest.id]).contains(lease));
        let revoked = out(&daemon, &["lease", &guest.id, "--revoke", lease]);
        assert_eq!(revoked, format!("{lease}: revoked\n"));
        assert!(!out(&daemon, &["leases"]).contains(lease));
        daemon.finish();
    });
}

#[test]
fn always_writes_the_edit_into_the_policys_file_with_its_comments() {
    Lab::test(|lab| {
        lab.unordered();
        let file = lab.directory().join("policy.jsonc");
        let text = format!(
            "{{\n  // what the agent needs\n  \"ask\": {{}},\n  \"network\": {{\n    \
             \"allow\": [\n      \
             \"{HOST}\", // its API\n    ],\n    \"deny\": [\"*\"]\n  }}\n}}\n"
        );
        fs::write(&file, &text).unwrap();
        lab.permits(&json!({ "network": { "allow": [HOST, NEW] } }).to_string());
        let daemon =
            lab.daemon().at_origin(HOST).at_origin(NEW).option("--policy").option(&file).start();
        let cgroup = Cgroup::new();
        let body = json!({ "cgroup": cgroup.path() }).to_string();
        let made = daemon.call("POST", "/v1/sandboxes", &body).json();
        let guest = daemon.guest_of(cgroup, &made);
        let url = format!("https://{NEW}/x");
        let held = curl(&guest, &[&url]);
        let asked = questions(&daemon, 1);
        let said = out(&daemon, &["approve", asked[0]["id"].as_str().unwrap(), "--always"]);
        assert!(said.contains("the edit is in it"), "{said}");
        assert_eq!(answer(held).1, "200");
        let line = format!("      \"{HOST}\", // its API\n      \"{NEW}:443\",\n");
        let expected = text.replace(&format!("      \"{HOST}\", // its API\n"), &line);
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        assert_eq!(get(&guest, &url).1, "200", "the daemon has read it again");
        assert_eq!(daemon.call("GET", "/v1/approvals", "").json(), json!([]));
        daemon.finish();
    });
}

/// A file system of 64 KiB, until it is dropped.
struct Small(PathBuf);

impl Small {
    fn at(path: PathBuf) -> Small {
        fs::create_dir(&path).unwrap();
        let options = Some("size=64k,mode=755");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), options).unwrap();
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_costs_the_edit_and_not_the_policy() {
    Lab::test(|lab| {
        lab.unordered();
        let small = Small::at(lab.directory().join("small"));
        let file = small.0.join("policy.jsonc");
        let document = |comment: &str| {
            format!(
                "{{\n  // {comment}\n  \"ask\": {{}},\n  \"network\": {{ \"allow\": [\"{HOST}\"], \
                 \"deny\": [\"*\"] }}\n}}\n"
            )
        };
        // It fills its page, so that the edit needs another one.
        let text = document(&"x".repeat(4090 - document("").len()));
        fs::write(&file, &text).unwrap();
        lab.permits(&json!({ "network": { "allow": [HOST, NEW] } }).to_string());
        let daemon =
            lab.daemon().at_origin(HOST).at_origin(NEW).option("--policy").option(&file).start();
        let cgroup = Cgroup::new();
        let body = json!({ "cgroup": cgroup.path() }).to_string();
        let made = daemon.call("POST", "/v1/sandboxes", &body).json();
        let guest = daemon.guest_of(cgroup, &made);
        let filler = small.0.join("filler");
        let full = fs::write(&filler, vec![1; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let url = format!("https://{NEW}/x");
        let held = curl(&guest, &[&url]);
        let asked = questions(&daemon, 1);
        let said = ctl(&daemon, &["approve", asked[0]["id"].as_str().unwrap(), "--always"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(!said.status.success() && error.contains("was not written"), "{said:?}");
        assert_eq!(answer(held).1, "200");
        fs::remove_file(&filler).unwrap();
        let held = curl(&guest, &[&url]);
        let asked = questions(&daemon, 1);
        let said = out(&daemon, &["approve", asked[0]["id"].as_str().unwrap(), "--always"]);
        assert!(said.contains("the edit is in it"), "{said}");
        assert_eq!(answer(held).1, "200");
        let written = fs::read_to_string(&file).unwrap();
        assert_eq!(
            written,
            text.replace(&format!("\"{HOST}\""), &format!("\"{HOST}\", \"{NEW}:443\""))
        );
        daemon.finish();
    });
}

#[test]
fn no_sandbox_answers_its_own_question() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let held = curl(&guest, &[&format!("https://{NEW}/x")]);
        let asked = questions(&daemon, 1);
        let id = asked[0]["id"].as_str().unwrap();
        let control = daemon.control().display().to_string();
        let path = format!("http://localhost/v1/approvals/{id}");
        let body = r#"{"decision":"allow"}"#;
        let output = guest.run("curl", &["-sS", "--unix-socket", &control, "-d", body, &path]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("a sandbox cannot control its own policy"), "{output:?}");
        let binary = binary("interceptor").display().to_string();
        for arguments in [
            vec!["ctl", "--control", &control, "approve", id],
            vec!["ctl", "--control", &control, "lease", &guest.id, "--allow", "*", "--for", "1h"],
        ] {
            let output = guest.run(&binary, &arguments);
            assert!(!output.status.success(), "{output:?}");
        }
        assert_eq!(questions(&daemon, 1).len(), 1, "it still waits");
        assert!(daemon.records().iter().all(|record| record.by.is_none()));
        out(&daemon, &["refuse", id]);
        assert_eq!(answer(held).1, "403");
        assert!(until(|| daemon.records().iter().any(|record| record.by.is_some())));
        daemon.finish();
    });
}
