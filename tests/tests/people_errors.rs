//! What is printed when something does not work: no root, something already taken, a mistyped word,
//! and a umask that cannot be read.

use std::process::{Command, Stdio};

use interceptor_tests::daemon::Cgroup;
use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, text};
use interceptor_tests::sandbox::binary;
use serde_json::json;

#[test]
fn a_shell_that_executes_sudo_in_its_place_keeps_its_umask_from_widening() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let run = format!(
            "sudo {} run --profile=unrestricted -- sh -c umask",
            binary("interceptor").display()
        );
        for (inner, expected) in
            [("umask 077; exec", "0077"), ("umask 022; exec", "0022"), ("umask 002;", "0002")]
        {
            let script = format!("umask 022; sh -c '{inner} {run}; exit $?'; exit $?");
            let output = account.run(&script, &[]);
            assert_eq!(text(&output.stdout).trim(), expected, "{}", text(&output.stderr));
        }
    });
}

#[test]
fn a_doctor_without_root_names_capabilities_and_no_kernel_option() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let (status, out, said) = account.typed("$I doctor");
        assert_eq!(status, Some(1), "{out}{said}");
        assert!(out.contains("missing: CAP_SYS_ADMIN") && out.contains("CAP_BPF"), "{out}");
        assert!(out.contains("remedy: run as root: sudo interceptor"), "{out}");
        let failed = out.lines().skip_while(|line| !line.starts_with("FAIL"));
        assert!(failed.clone().next().is_some());
        let options: Vec<&str> = out
            .lines()
            .filter(|line| line.contains("remedy") && line.contains("CONFIG_"))
            .filter(|line| !line.contains("LANDLOCK"))
            .collect();
        assert!(options.is_empty(), "{options:?}");
        // With some of them, it names the others.
        let script = format!("{} doctor; exit $?", binary("interceptor").display());
        let mut some = Command::new("setpriv");
        some.args(["--bounding-set=-bpf,-perfmon,-mknod", "sh", "-c", &script]);
        let output = some.output().unwrap();
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{out}");
        assert!(out.contains("missing: CAP_BPF, CAP_MKNOD"), "{out}");
    });
}

#[test]
fn a_word_that_is_nearly_right_is_recognised() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        for (line, hint) in [
            ("$I rnu -- true", "'run'"),
            ("$I audit lst", "'last'"),
            ("$I services opnai", "`openai`"),
            ("$I profiles opnai", "`openai`"),
            ("$I agents codx", "`codex`"),
            ("$I init codx", "`codex`"),
            ("$I run --polcy x -- true", "'--policy'"),
        ] {
            let (status, _, said) = account.typed(line);
            assert!(status == Some(2) || status == Some(125), "{line}: {status:?}");
            assert!(said.contains(hint), "{line}: {said}");
        }
    });
}

#[test]
fn what_is_taken_says_how_to_take_it_over() {
    Lab::test(|lab| {
        let cgroup = Cgroup::new();
        let sandbox = json!({ "id": "first", "cgroup": cgroup.path() });
        let config = json!({ "sandboxes": [sandbox] }).to_string();
        let config = lab.secret_file("config.json", &config);
        let daemon = lab.daemon().option("--config").option(config).start();
        let tried = |arguments: &[&str]| {
            let mut command = Command::new(binary("interceptor"));
            command.args(arguments).current_dir(lab.directory()).env_remove("SUDO_UID");
            let output = command.stdin(Stdio::null()).output().unwrap();
            (output.status.code(), text(&output.stderr))
        };
        let control = daemon.control().display().to_string();
        let path = cgroup.path().display().to_string();
        for arguments in [&["serve", "--control", &control][..], &["attach", "--cgroup", &path]] {
            let (status, said) = tried(arguments);
            assert_eq!(status, Some(2), "{said}");
            assert!(said.contains("`interceptor serve --takeover`"), "{arguments:?}: {said}");
        }
        daemon.finish();
    });
}
