//! With whose rights programs that print keys are run, and which are not run at all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use interceptor_tests::Lab;
use interceptor_tests::conversing::{Conversing, typed};
use interceptor_tests::people::{Account, Operators, text};
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

const HOST: &str = "two.test";
const NEW: &str = "is not run, because it is new here";
const IN_FORCE: &str = "changed and is in force: ";

/// A program of root's that everybody may run: it tells how it was run, and prints a key.
fn program(lab: &Lab, name: &str) -> PathBuf {
    let directory = lab.directory().join("programs");
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.join(name);
    let script = format!(
        "#!/bin/sh\nexec 3>> \"$HOME/{name}.told\"\n{{ id -u; id -g; id -G; pwd; ulimit -c; umask; \
         ps -o tty= -p $$; env; }} >&3\necho {}\n",
        lab.another_key()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn policy(allow: &[&str], argv: &Value) -> String {
    json!({ "network": { "allow": allow },
            "credentials_v2": { "lab": { "key": { "exec": argv }, "hosts": [HOST],
                                         "env": "LAB_API_KEY" } } })
    .to_string()
}

fn told(account: &Account, name: &str) -> String {
    fs::read_to_string(account.home().join(format!("{name}.told"))).unwrap_or_default()
}

#[test]
fn a_program_is_run_as_the_person_who_called_sudo_and_without_a_terminal() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let path = program(lab, "token");
        account.file("p.json", &policy(&[HOST], &json!([path])));
        account.directory(Path::new("bin"));
        let line = "export PATH=$HOME/bin:$PATH MY_OWN=1 PYTHONPATH=$HOME LD_LIBRARY_PATH=$HOME; \
                    sudo $I run --policy ./p.json -- true";
        // A sandbox of the account's could have written it.
        let (status, _, said) = account.typed(line);
        assert_eq!(status, Some(125), "{said}");
        assert!(said.contains("p.json is not trusted yet. It would permit"), "{said}");
        assert!(said.contains("  runs outside, as you, for lab: ["), "{said}");
        assert_eq!(told(&account, "token"), "");
        let remedy = said.lines().find(|line| line.trim().starts_with("interceptor trust "));
        let remedy = remedy.expect("a remedy").replace("interceptor trust", "$I trust");
        let (status, out, said) = account.typed(&remedy);
        assert_eq!(status, Some(0), "{out}{said}");
        let (status, _, said) = account.typed(line);
        assert_eq!(status, Some(0), "{said}");
        let told = told(&account, "token");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[..2], [account.uid().to_string(), account.gid().to_string()], "{told}");
        let mut groups: Vec<u32> =
            lines[2].split_whitespace().map(|group| group.parse().unwrap()).collect();
        groups.sort_unstable();
        assert_eq!((groups, lines[3], lines[6]), (account.groups(), "/", "?"), "{told}");
        let home = format!("HOME={}", account.home().display());
        let user = format!("USER={}", account.name());
        for line in
            [home.as_str(), &user, "MY_OWN=1", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/games"]
        {
            assert!(lines.contains(&line), "{line}: {told}");
        }
        for name in ["PYTHONPATH=", "LD_", "SUDO_"] {
            assert!(!lines.iter().any(|line| line.starts_with(name)), "{name}: {told}");
        }
    });
}

#[test]
fn nothing_is_run_that_the_sandboxs_user_could_have_changed() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let roots = program(lab, "token");
        let script = fs::read_to_string(&roots).unwrap();
        let own = account.file("bin/own-token", &script);
        let shadow = account.file("bin/id", &script);
        for file in [&own, &shadow] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let link = account.home().join("bin/link");
        std::os::unix::fs::symlink(&roots, &link).unwrap();
        let changeable = "is not run, because the sandbox's user can change";
        for (argv, said) in [
            (json!([own]), changeable),
            (json!(["/bin/sh", own]), changeable),
            // What it leads to is root's, and where is not.
            (json!([link]), changeable),
            (json!(["own-token"]), "was not found in PATH"),
        ] {
            account.file("p.json", &policy(&[HOST], &argv));
            assert_eq!(account.typed("$I trust ./p.json").0, Some(0));
            let line = "export PATH=$HOME/bin:$PATH; sudo $I run --policy ./p.json -- true";
            let (status, _, err) = account.typed(line);
            assert_eq!(status, Some(125), "{argv}: {err}");
            assert!(err.contains(said), "{argv}: {err}");
            let (status, out, err) =
                account.typed("export PATH=$HOME/bin:$PATH; $I check ./p.json");
            assert_eq!(status, Some(1), "{argv}: {err}");
            assert!(out.contains(said), "{argv}: {out}");
        }
        assert_eq!((told(&account, "token"), told(&account, "id")), Default::default());
        // Another user inside cannot.
        account.file("p.json", &policy(&[HOST], &json!([own])));
        let line = "$I trust ./p.json; sudo $I run --policy ./p.json --user nobody -- true";
        let (status, _, err) = account.typed(line);
        assert_eq!(status, Some(0), "{err}");
        assert!(!told(&account, "token").is_empty());
    });
}

#[test]
fn settings_that_a_sandbox_could_have_written_take_no_key() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let token = program(lab, "token");
        let key = token.with_file_name("key");
        fs::write(&key, lab.another_key()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let taken = account.home().join("taken");
        for settings in [".curlrc", ".config/curlrc"] {
            account.file(settings, &format!("output = {}\n", taken.display()));
        }
        let url = format!("file://{}", key.display());
        let line = "$I trust ./p.json && sudo $I run --policy ./p.json -- true";
        for argv in [json!(["curl", "-s", url]), json!(["env", "ITS=own", "curl", "-s", url])] {
            account.file("p.json", &policy(&[HOST], &argv));
            let (status, _, said) = account.typed(line);
            assert!(!taken.exists(), "{argv}");
            assert_eq!(status, Some(0), "{argv}: {said}");
        }
        // What names settings of the sandbox's user is replaced, and what only root can write kept.
        account.file("p.json", &policy(&[HOST], &json!([token])));
        let settings = "export WGETRC=$HOME/.wgetrc VAULT_CONFIG_PATH=/etc/passwd; ";
        let (status, _, said) = account.typed(&format!("{settings}{line}"));
        assert_eq!(status, Some(0), "{said}");
        let told = told(&account, "token");
        for line in
            ["WGETRC=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null", "VAULT_CONFIG_PATH=/etc/passwd"]
        {
            assert_eq!(told.lines().filter(|told| *told == line).count(), 1, "{line}: {told}");
        }
        assert!(!told.contains(".wgetrc"), "{told}");
    });
}

#[test]
fn a_policy_that_was_found_runs_nothing_before_it_is_trusted() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let path = program(lab, "token");
        account.file("project/interceptor.json", &policy(&[HOST], &json!([path, "an argument"])));
        let (status, out, err) = account.typed("cd project; $I check");
        assert_eq!(status, Some(1), "{err}");
        assert!(out.contains("is not trusted yet; type: interceptor trust "), "{out}");
        let (status, _, err) = account.typed("cd project; sudo $I run -- true");
        assert_eq!(status, Some(125), "{err}");
        let shown = format!("runs outside, as you, for lab: [{:?},\"an argument\"]\n", path);
        assert!(err.contains(&shown), "{err}");
        assert_eq!(told(&account, "token"), "");
        assert_eq!(account.typed("cd project; $I check --skip-keys").0, Some(0));
        assert_eq!(told(&account, "token"), "");
        let (status, out, _) = account.typed("cd project; $I trust");
        assert_eq!(status, Some(0), "{out}");
        assert!(out.contains(&shown), "{out}");
        assert_eq!(told(&account, "token"), "");
        let (status, out, _) = account.typed("cd project; $I check");
        assert_eq!(status, Some(0), "{out}");
        assert!(told(&account, "token").contains(account.name()), "{out}");
    });
}

/// What root types, who did not call sudo: the status, and what is printed.
fn typed_by_root(home: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary("interceptor"));
    command.args(words).current_dir("/").env_remove("XDG_STATE_HOME").env("HOME", home);
    for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER"] {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), text(&stdout) + &text(&stderr))
}

#[test]
fn root_runs_nothing_that_a_policy_names_before_it_is_trusted() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let path = program(lab, "token");
        let theirs = account.file("p.json", &policy(&[HOST], &json!([path])));
        // As `git clone` by root leaves it: only root could have written it, and did not.
        let cloned = lab.directory().join("programs/p.json");
        fs::copy(&theirs, &cloned).unwrap();
        std::os::unix::fs::chown(&cloned, Some(0), Some(0)).unwrap();
        let home = lab.directory().join("roots");
        fs::create_dir(&home).unwrap();
        let told = home.join("token.told");
        for file in [&theirs, &cloned] {
            let name = file.to_str().unwrap();
            for user in [account.name(), "nobody", "root"] {
                let words = ["run", "--policy", name, "--user", user, "--", "true"];
                let (status, said) = typed_by_root(&home, &words);
                assert_eq!(status, Some(125), "{name} {user}: {said}");
                assert!(said.contains("is not trusted yet. It would permit"), "{user}: {said}");
                assert!(said.contains(&format!("interceptor trust {name} --sha256 ")), "{said}");
                assert!(said.contains(&format!("runs outside, as you, for lab: [{path:?}]")));
                assert!(!told.exists(), "{name} {user}");
            }
            let (status, said) = typed_by_root(&home, &["check", name]);
            assert_eq!(status, Some(1), "{said}");
            let remedy = format!("is not trusted yet; type: interceptor trust {name} (--skip");
            assert!(said.contains(&remedy) && said.contains(path.to_str().unwrap()), "{said}");
            assert!(!told.exists(), "{name}");
        }
        let name = cloned.to_str().unwrap();
        assert_eq!(typed_by_root(&home, &["trust", name]).0, Some(0));
        assert!(!told.exists());
        for words in [&["check", name][..], &["run", "--policy", name, "--", "true"]] {
            let (status, said) = typed_by_root(&home, words);
            assert_eq!(status, Some(0), "{said}");
            assert!(told.exists(), "{words:?}");
            fs::remove_file(&told).unwrap();
        }
    });
}

#[test]
fn the_operators_policies_need_no_trust_while_only_root_can_write_them() {
    Lab::test(|lab| {
        let path = program(lab, "token");
        let name = format!("lab-programs-{}", std::process::id());
        let kept = Operators::new(&name, &policy(&[HOST], &json!([path])));
        let file = format!("/etc/interceptor/policies/{name}.json");
        let home = lab.directory().join("roots");
        fs::create_dir(&home).unwrap();
        let told = home.join("token.told");
        for words in [
            &["check", &name][..],
            &["check", &file],
            &["run", "--policy", &name, "--", "true"],
            &["run", "--policy", &file, "--", "true"],
        ] {
            let (status, said) = typed_by_root(&home, words);
            assert_eq!(status, Some(0), "{words:?}: {said}");
            assert!(told.exists(), "{words:?}");
            fs::remove_file(&told).unwrap();
        }
        let around = format!("/etc/interceptor/policies/../policies/{name}.json");
        assert_eq!(typed_by_root(&home, &["check", &around]).0, Some(1));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o602)).unwrap();
        for (words, expected) in
            [(&["check", &name][..], 1), (&["run", "--policy", &name, "--", "true"], 125)]
        {
            let (status, said) = typed_by_root(&home, words);
            assert_eq!(status, Some(expected), "{words:?}: {said}");
            assert!(said.contains("is not trusted yet"), "{said}");
        }
        assert!(!told.exists());
        drop(kept);
    });
}

#[test]
fn check_runs_no_program_before_the_policy_is_trusted() {
    Lab::test(|lab| {
        let (account, other) = (Account::new(lab.directory()), Account::new(lab.directory()));
        let path = program(lab, "token");
        let own = account.file("own.json", &policy(&[HOST], &json!([path])));
        let foreign = other.file("p.json", &policy(&[HOST, "one.test"], &json!([path])));
        for directory in [foreign.parent().unwrap(), &foreign] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // What `sudo git clone` leaves, and a policy that is kept from everybody but root.
        let (cloned, closed) = (account.home().join("c.json"), account.home().join("closed.json"));
        for (file, mode) in [(&cloned, 0o644), (&closed, 0o600)] {
            fs::copy(&own, file).unwrap();
            std::os::unix::fs::chown(file, Some(0), Some(0)).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        for (check, file, trust) in [
            ("$I check", "./own.json", "interceptor trust ./own.json"),
            ("$I check", foreign.to_str().unwrap(), "interceptor trust "),
            ("$I check", "./c.json", "interceptor trust ./c.json"),
            ("sudo $I check", "./c.json", "type: interceptor trust ./c.json"),
            ("sudo $I check", "./closed.json", "type: sudo interceptor trust ./closed.json"),
            ("cat own.json | $I check", "-", "save it in a file, and trust that: "),
        ] {
            let (status, out, said) = account.typed(&format!("{check} {file}"));
            assert_eq!(status, Some(1), "{out}{said}");
            assert!(out.contains(trust) && out.contains("(--skip-keys leaves"), "{out}");
            assert!(out.contains(path.to_str().unwrap()), "{out}");
            assert_eq!(account.typed(&format!("{check} --skip-keys {file}")).0, Some(0));
            assert_eq!(told(&account, "token"), "", "{check} {file}");
        }
        // With another user inside, what the account alone could have written is not trusted yet.
        for file in ["./own.json", "./c.json", "./closed.json"] {
            let line = format!("sudo $I run --user nobody --policy {file} -- true");
            let (status, _, said) = account.typed(&line);
            assert_eq!(status, Some(125), "{said}");
            assert!(said.contains("is not trusted yet. It would permit"), "{said}");
        }
        assert_eq!(told(&account, "token"), "");
        for line in [
            format!("$I trust {} && $I check {0}", foreign.display()),
            // By its content, which is that of the others.
            "sudo $I trust ./closed.json && sudo $I check ./closed.json && $I check own.json && \
             cat own.json | $I check -"
                .to_owned(),
        ] {
            let (status, out, said) = account.typed(&line);
            assert_eq!(status, Some(0), "{out}{said}");
            assert!(told(&account, "token").contains(account.name()));
            fs::remove_file(account.home().join("token.told")).unwrap();
        }
    });
}

#[test]
fn a_policy_that_is_read_again_runs_no_program_that_it_did_not_have() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let (known, other) = (program(lab, "known"), program(lab, "other"));
        let directory = lab.directory().join("policies");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let file = directory.join("p.json");
        fs::write(&file, policy(&[HOST], &json!([known]))).unwrap();
        let trust = || {
            let (status, answer) = typed(&account, "true", &["trust", file.to_str().unwrap()]);
            assert_eq!(status, Some(0), "{answer}");
        };
        trust();
        let said = lab.directory().join("said");
        let name = account.name().to_owned();
        let options = ["--name", &name, "--policy", file.to_str().unwrap()];
        let mut run = Conversing::start(&account, "true", &options, &said);
        assert!(!told(&account, "known").is_empty());
        // Every content of a policy with a program is trusted first.
        fs::write(&file, policy(&[HOST, "one.test"], &json!([known]))).unwrap();
        run.wait_for("holds only when you trust it. If you want the change");
        trust();
        run.wait_for(&format!("{IN_FORCE}allow +one.test\n"));
        for argv in [json!([other]), json!([known, "--more"]), json!(["/bin/echo", "sk-argument"])]
        {
            let before = run.said().matches(NEW).count();
            fs::write(&file, policy(&[HOST], &argv)).unwrap();
            trust();
            let late = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while run.said().matches(NEW).count() == before {
                assert!(std::time::Instant::now() < late, "{argv}: {}", run.said());
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        assert_eq!(told(&account, "other"), "");
        assert_eq!(run.verdict("one.test"), "");
        // Who gives it through the API is known, and may run what the person may.
        account.file("next.json", &policy(&[HOST], &json!([other])));
        let (status, answer) =
            typed(&account, "true", &["ctl", "policy", "put", &name, "next.json"]);
        assert_eq!(status, Some(0), "{answer}");
        assert!(told(&account, "other").contains(account.name()));
        // The metrics tell of it by the name of its credential.
        let sockets = "$HOME/.local/state/interceptor/control/*.sock";
        let asking = format!("curl -sS --unix-socket {sockets} http://run/metrics");
        let (status, metrics, err) = account.typed(&asking);
        assert_eq!(status, Some(0), "{err}");
        for series in ["fetches_total", "failures_total", "age_seconds", "expires_in_seconds"] {
            let series = format!("interceptor_credential_{series}{{credential=\"lab\"}} ");
            assert!(metrics.contains(&series), "{series}: {metrics}");
        }
        run.end();
    });
}

#[test]
fn threads_that_outlive_a_persons_request_have_the_rights_of_the_interceptor() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let path = program(lab, "token");
        account.file("first.json", &json!({ "network": { "allow": [HOST] } }).to_string());
        account.file("next.json", &policy(&[HOST], &json!([path])));
        let (name, said) = (account.name(), lab.directory().join("said"));
        let options = ["--name", name, "--policy", "./first.json"];
        let run = Conversing::start(&account, "true", &options, &said);
        // The first program comes with the person's rights.
        let (status, answer) =
            typed(&account, "true", &["ctl", "policy", "put", name, "next.json"]);
        assert_eq!(status, Some(0), "{answer}");
        let mut found = Vec::new();
        for thread in fs::read_dir(format!("/proc/{}/task", run.pid())).unwrap() {
            let read = |file: &str| fs::read_to_string(thread.as_ref().unwrap().path().join(file));
            // One that has ended meanwhile.
            let (Ok(thread), Ok(status)) = (read("comm"), read("status")) else { continue };
            for ids in status.lines().filter(|line| ["Uid:", "Gid:"].contains(&&line[..4])) {
                assert_eq!(ids.split_whitespace().last(), Some("0"), "{thread}: {ids}");
            }
            found.push(thread.trim().to_owned());
        }
        assert!(found.iter().any(|name| name == "key-sources"), "{found:?}");
        run.end();
    });
}

#[test]
fn a_run_without_sudo_is_refused_with_one_sentence() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let path = program(lab, "token");
        account.file("p.json", &policy(&[HOST], &json!([path])));
        let daemon = lab.daemon_for(&account);
        let socket = daemon.members();
        let line = format!("$I run --daemon {} --policy ./p.json -- true", socket.display());
        let (status, _, err) = account.typed(&line);
        assert_eq!(status, Some(125), "{err}");
        let why = "is not run: keys from programs and services are not there for runs without sudo";
        assert!(err.contains(why), "{err}");
        assert_eq!(told(&account, "token"), "");
        daemon.finish();
    });
}
