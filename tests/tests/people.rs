//! Who a command runs as, and with which surroundings, when people type `sudo interceptor run`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, out, text};
use interceptor_tests::sandbox::binary;

/// What a command sees of who it is and where.
const SEEN: &str = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; echo; umask; pwd; \
                    stat -c %a .; printenv PATH HOME USER LOGNAME SHELL LANG LC_TIME TERM MY_OWN; \
                    command -v own-tool; ulimit -n";

/// The policy that permits any public host.
const OPEN: &str = "--profile=unrestricted";

/// `interceptor run` with these words, typed by root without sudo.
fn by_root(directory: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(binary("interceptor"));
    command.args(["run", OPEN]).args(words).current_dir(directory).env_remove("SUDO_UID");
    command.env_remove("SUDO_GID").env_remove("RUST_LOG").env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn a_command_sees_what_it_sees_when_typed_alone() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let tool = account.file("tools/own-tool", "#!/bin/sh\necho the own tool\n");
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        account.directory(Path::new("project/deep"));
        let script = "umask 007; cd project/deep; PATH=$HOME/tools:$PATH; \
                      export PATH LC_TIME=C MY_OWN='a b=c' ; \"$@\"; exit $?";
        let alone = out(&account.run(script, &["sh", "-c", SEEN]));
        assert!(alone.contains("tools/own-tool") && alone.contains("a b=c"), "{alone}");
        let interceptor = binary("interceptor");
        let interceptor = interceptor.to_str().unwrap();
        let typed = ["sudo", interceptor, "run", OPEN, "--", "sh", "-c", SEEN];
        let through = account.run(script, &typed);
        assert_eq!(out(&through), alone, "{}", text(&through.stderr));
        assert_eq!(text(&through.stderr), "");
        // What sudo was told to set is there; the PATH is the user's also to find the command.
        let typed = ["sudo", "MY_OWN=by-sudo", interceptor, "run", OPEN, "--", "own-tool"];
        assert_eq!(out(&account.run(script, &typed)), "the own tool\n");
        let typed =
            ["sudo", "MY_OWN=by-sudo", interceptor, "run", OPEN, "--", "printenv", "MY_OWN"];
        assert_eq!(out(&account.run(script, &typed)), "by-sudo\n");
        // Groups that the user has put down stay down.
        let down = format!(
            "exec setpriv --reuid={0} --regid={0} --clear-groups sh -c 'sudo {interceptor} run \
             {OPEN} -- \
             id -G; exit $?'",
            account.uid()
        );
        let mut root = Command::new("sh");
        root.args(["-c", &down]).current_dir(account.home()).env("PATH", "/usr/bin:/bin");
        let groups = out(&root.output().unwrap());
        assert_eq!(groups.trim(), account.uid().to_string());
    });
}

#[test]
fn a_key_that_sudo_drops_is_found_where_sudo_was_called_and_a_missing_one_is_explained() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let policy = account.file(
            "policy.json",
            r#"{ "credentials_v2": { "own": { "key": { "env": "OWN_API_KEY" },
                "hosts": ["own.test"], "env": "OWN_API_KEY" } } }"#,
        );
        let interceptor = binary("interceptor");
        let run = [interceptor.to_str().unwrap(), "run", "--policy", policy.to_str().unwrap()];
        let show = ["--", "printenv", "OWN_API_KEY"];
        let key = lab.another_key();
        let export = format!("export OWN_API_KEY={key}; \"$@\"; exit $?");
        let sudo = [&["sudo"], &run[..], &show].concat();
        let found = account.run(&export, &sudo);
        assert!(out(&found).starts_with("proxy-managed-"), "{}", text(&found.stdout));
        let missing = account.run("\"$@\"; exit $?", &sudo);
        let said = text(&missing.stderr);
        assert_eq!(missing.status.code(), Some(125), "{said}");
        assert!(
            said.contains("neither sudo nor the shell that called it has OWN_API_KEY: export it"),
            "{said}"
        );
    });
}

#[test]
fn root_without_sudo_runs_it_as_the_owner_of_the_working_directory_or_nobody_and_says_so() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let script = ["--", "sh", "-c", "id -un; id -u; echo $HOME"];
        let output = by_root(account.home(), &script).output().unwrap();
        let (name, home) = (account.name(), account.home().display());
        assert_eq!(out(&output), format!("{name}\n{}\n{home}\n", account.uid()));
        let said = text(&output.stderr);
        let line = format!("the command runs as {name}, who owns {home}");
        assert!(said.contains(&line) && said.lines().count() == 1, "{said}");

        let roots = by_root(lab.directory(), &script).output().unwrap();
        assert!(out(&roots).starts_with("nobody\n65534\n"), "{}", text(&roots.stdout));
        let said = text(&roots.stderr);
        assert!(said.contains("the command runs as nobody, since root owns"), "{said}");

        // An owner whom the system does not know.
        let other = lab.directory().join("other");
        fs::create_dir(&other).unwrap();
        chown(&other, Some(54321), Some(54322)).unwrap();
        let output = by_root(&other, &["--", "id"]).output().unwrap();
        assert!(out(&output).starts_with("uid=54321 gid=54322 groups=54322"), "{output:?}");

        let quiet = by_root(account.home(), &["-q", "--", "true"]).output().unwrap();
        assert_eq!((quiet.status.code(), text(&quiet.stderr)), (Some(0), String::new()));
    });
}

#[test]
fn a_process_that_calls_itself_sudo_is_not_believed() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        // A set-user-id copy of the user's own, and root's environment that names another user.
        let own = account.home().join("sudo");
        fs::copy("/bin/sh", &own).unwrap();
        chown(&own, Some(account.uid()), None).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o4755)).unwrap();
        let interceptor = binary("interceptor");
        let show = "--profile=unrestricted -- sh -c 'id -un; printenv PLANTED'";
        let script = format!("{} run {show}; exit $?", interceptor.display());
        let mut fake = Command::new(&own);
        fake.args(["-c", &script]).env("PLANTED", "x").env("SUDO_UID", account.uid().to_string());
        fake.env("SUDO_GID", account.uid().to_string()).current_dir(account.home());
        // The environment of this process, root, is what there is: the plant came from root.
        let output = fake.env("PATH", "/usr/bin:/bin").output().unwrap();
        assert_eq!(out(&output), format!("{}\nx\n", account.name()));
        // An outer sudo of somebody else's is not this user's.
        let other = Account::new(lab.directory());
        let inner = format!(
            "SUDO_UID={0} SUDO_GID={0} {1} run {OPEN} -- \
             sh -c 'id -un; printenv SECRET_NOTE; true'",
            account.uid(),
            interceptor.display()
        );
        let output = other.run(
            "export SECRET_NOTE=of-the-other; sudo sh -c \"$1\"; exit $?",
            &[&format!("{inner}; exit $?")],
        );
        assert_eq!(out(&output), format!("{}\n", account.name()));
    });
}

#[test]
fn what_cannot_be_started_is_explained_with_whom_and_why() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let name = account.name();
        let interceptor = binary("interceptor");
        let run = |command: &str| {
            let script = format!(
                "PATH=$HOME/bin:/usr/bin:/bin; sudo {} run {OPEN} -- {command}; exit $?",
                interceptor.display()
            );
            let output = account.run(&script, &[]);
            (output.status.code(), text(&output.stderr))
        };
        let (status, said) = run("no-such-tool");
        let path = format!(
            "no-such-tool: command not found on the PATH of {name}, {}/bin:/usr/bin:/bin",
            account.home().display()
        );
        assert!(status == Some(127) && said.contains(&path), "{said}");

        // A link on the PATH to a program in root's home.
        account.directory(Path::new("bin"));
        let private = lab.directory().join("private");
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        fs::copy("/bin/true", private.join("tool")).unwrap();
        std::os::unix::fs::symlink(private.join("tool"), account.home().join("bin/tool")).unwrap();
        let (status, said) = run("tool");
        let why = format!(
            "tool: {name} may not enter {}, which belongs to root and has mode 0700",
            private.display()
        );
        assert!(status == Some(126) && said.contains(&why), "{said}");

        let plain = account.file("bin/plain", "#!/bin/sh\n");
        let (status, said) = run("plain");
        let why = format!(
            "plain: {name} may not execute {}, which belongs to {name} and has mode 0644",
            plain.display()
        );
        assert!(status == Some(126) && said.contains(&why), "{said}");

        let unprivileged =
            account.run(&format!("{} run {OPEN} -- true", interceptor.display()), &[]);
        let said = text(&unprivileged.stderr);
        assert_eq!(unprivileged.status.code(), Some(125), "{said}");
        assert!(
            said.contains("run needs root")
                && said.contains("sudo interceptor run")
                && said.contains("CAP_BPF"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    });
}
