//! Named policies and keys, as people type them: one name for every command, in the person's
//! directory or the operator's, and keys that sudo drops.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use interceptor_tests::daemon::Cgroup;
use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, text};
use interceptor_tests::sandbox::binary;
use serde_json::Value;

const OWN: &str = r#"{ "network": { "allow": ["own.test"] } }"#;

#[test]
fn a_name_means_the_same_policy_to_every_command() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.file(".config/interceptor/policies/own.jsonc", OWN);
        account.file("elsewhere/interceptor/policies/moved.json", OWN);
        account.file("audit.jsonl", "");
        for (variables, name) in
            [("", "own"), ("export XDG_CONFIG_HOME=$HOME/elsewhere; ", "moved")]
        {
            for (command, status) in [
                (format!("$I check {name}"), 0),
                (format!("$I explain --policy {name} GET https://own.test/"), 0),
                (format!("$I explain --policy {name} GET https://other.test/"), 1),
                (format!("$I replay --policy {name} --audit audit.jsonl"), 0),
                (format!("sudo $I run --policy {name} -- true"), 0),
                (format!("sudo $I check {name}"), 0),
                (format!("$I explain --policy {name}s GET https://own.test/"), 2),
            ] {
                let (seen, out, said) = account.typed(&format!("{variables}{command}"));
                assert_eq!(seen, Some(status), "{variables}{command}: {out}{said}");
                let wrong = command.contains(&format!("{name}s"));
                assert_eq!(said.contains(&format!("did you mean `{name}`?")), wrong, "{said}");
            }
        }
        // A file of that name is checked if there is no such policy.
        account.file("plain", "{ \"netwrok\": {} }");
        let (status, out, said) = account.typed("$I check plain");
        assert_eq!(status, Some(1), "{said}");
        assert!(out.contains("plain:1: error: unknown field `netwrok`"), "{out}");
    });
}

#[test]
fn a_name_that_the_person_has_no_policy_for_is_the_operators() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.file(".config/interceptor/policies/both.json", OWN);
        // The operator's directory, which only root can enter, in a mount namespace of its own.
        let files = lab.directory().join("policies");
        fs::create_dir(&files).unwrap();
        for name in ["both", "theirs"] {
            fs::write(files.join(format!("{name}.json")), "{ \"network\": { \"deny\": [\"*\"] } }")
                .unwrap();
        }
        let seen = |line: &str| {
            let script = "set -e; mount -t tmpfs tmpfs /mnt; mkdir /mnt/upper /mnt/work; \
                          mount -t overlay overlay \
                            -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc; \
                          mkdir -p /etc/interceptor; rm -rf /etc/interceptor/policies; \
                          cp -r \"$3\" /etc/interceptor/policies; \
                          chmod 700 /etc/interceptor/policies; cd \"$2\"; \
                          exec setpriv --reuid=\"$1\" --regid=\"$1\" --init-groups \
                            env -i HOME=\"$2\" PATH=/usr/bin:/bin I=\"$4\" sh -c \"$5; exit \\$?\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
            command.arg(account.uid().to_string()).arg(account.home()).arg(&files);
            let output = command.arg(binary("interceptor")).arg(line).output().unwrap();
            (output.status.code(), text(&output.stdout) + &text(&output.stderr))
        };
        for (line, expected) in [
            ("sudo $I run --policy theirs -- true", 0),
            ("sudo $I explain --policy theirs GET https://own.test/", 1),
            // The person's own comes first.
            ("sudo $I explain --policy both GET https://own.test/", 0),
            // Without root the operator's policies are out of reach.
            ("$I explain --policy theirs GET https://own.test/", 2),
        ] {
            let (status, said) = seen(line);
            assert_eq!(status, Some(expected), "{line}: {said}");
        }
        let (_, said) = seen("sudo $I run --policy their -- true");
        assert!(said.contains("did you mean `theirs`?"), "{said}");
    });
}

#[test]
fn what_is_trusted_and_kept_is_where_xdg_state_home_says() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.file("interceptor.json", OWN);
        let state = "export XDG_STATE_HOME=$HOME/kept; ";
        let (status, _, said) = account.typed(&format!("{state}$I trust"));
        assert_eq!(status, Some(0), "{said}");
        let (status, _, said) = account.typed(&format!("{state}sudo $I run -- true"));
        assert_eq!(status, Some(0), "{said}");
        let (status, out, said) = account.typed(&format!("{state}$I audit last"));
        assert_eq!(status, Some(0), "{out}{said}");
        let kept = account.home().join("kept/interceptor");
        assert!(kept.join("trusted").is_file() && kept.join("runs").is_dir());
        assert!(!account.home().join(".local/state/interceptor/runs").exists());
        // Elsewhere nothing is trusted, and no run is known.
        let (status, ..) = account.typed("sudo $I run -- true");
        assert_eq!(status, Some(125));
        let (status, _, said) = account.typed("$I audit last");
        assert_eq!(status, Some(2), "{said}");
    });
}

#[test]
fn run_says_of_keys_what_check_says_and_all_of_it() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.file("two-lines", "sk-CANARY0123456789\nand more\n");
        account.file(
            "p.json",
            r#"{
  "credentials_v2": {
    "openai": { "key": { "env": "NO_SUCH_KEY" }, "endpoints": [] },
    "anthropic": { "key": { "file": "no-such-file" }, "endpoints": [] },
    "github": { "key": { "file": "two-lines" }, "endpoints": [] }
  }
}"#,
        );
        let errors = |text: &str| -> Vec<String> {
            let plain = |line: &str| line.replace(" (--skip-keys leaves this check out)", "");
            text.lines().filter(|line| line.contains(" error: ")).map(plain).collect()
        };
        let (status, checked, said) = account.typed("$I check p.json");
        assert_eq!(status, Some(1), "{said}");
        let (status, _, said) = account.typed("sudo $I run --policy p.json -- true");
        assert_eq!(status, Some(125), "{said}");
        assert_eq!(errors(&said), errors(&checked), "{said}");
        assert_eq!(errors(&said).len(), 3, "{said}");
        assert!(said.contains("p.json:3: error: the variable `NO_SUCH_KEY` is not set"), "{said}");
        assert!(said.contains("    at /credentials_v2/openai/key"), "{said}");
        assert!(said.contains("p.json: 3 errors") && !said.contains("CANARY"), "{said}");
        assert!(said.contains("has NO_SUCH_KEY: export it first"), "{said}");
        // A key that an option names is not in the file.
        let line = "sudo $I run --policy p.json --key openai=file:missing -- true";
        let (status, _, said) = account.typed(line);
        assert_eq!(status, Some(125), "{said}");
        let own = "p.json: error: --key openai: the file missing does not exist";
        assert!(said.contains(own) && !said.contains("NO_SUCH_KEY"), "{said}");
    });
}

#[test]
fn attach_finds_the_key_that_sudo_drops_and_a_policy_by_name() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let policy = r#"{ "credentials_v2": { "own": { "key": { "env": "OWN_API_KEY" },
            "hosts": ["own.test"], "env": "OWN_API_KEY" } } }"#;
        account.file(".config/interceptor/policies/own.json", policy);
        let cgroup = Cgroup::new();
        let attach = format!(
            "sudo {} attach --json --policy own --cgroup {}",
            binary("interceptor").display(),
            cgroup.path().display()
        );
        let missing = account.run(&format!("{attach}; exit $?"), &[]);
        let said = text(&missing.stderr);
        assert_eq!(missing.status.code(), Some(2), "{said}");
        assert!(
            said.contains("own.json:1: error: the variable `OWN_API_KEY` is not set"),
            "{said}"
        );
        assert!(said.contains("has OWN_API_KEY: export it first"), "{said}");

        let key = lab.another_key();
        let script = format!("export OWN_API_KEY={key}; {attach}; exit $?");
        let mut command = account.shell(&script, &[]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let placeholder = said["env"]["OWN_API_KEY"].as_str().unwrap_or_default().to_owned();
        // sudo passes the signal on; the attach ends in order.
        let end = format!("pkill -TERM -P $(pgrep -P {})", child.id());
        let ended = Command::new("sh").args(["-c", &end]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(placeholder.starts_with("proxy-managed-"), "{line}{}", text(&output.stderr));
        assert!(ended.success() && output.status.success(), "{}", text(&output.stderr));
        // Without root it says so, and what to type.
        let line = format!("$I attach --cgroup {}", cgroup.path().display());
        let (status, _, said) = account.typed(&line);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("attach needs root") && said.contains("CAP_BPF"), "{said}");
    });
}
