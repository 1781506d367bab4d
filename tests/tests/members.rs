//! `interceptor run` without sudo: what a member of the daemon's group types, and sees.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use interceptor_tests::daemon::Daemon;
use interceptor_tests::host::on_a_host;
use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, Operators, out, text};
use interceptor_tests::sandbox::binary;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

/// What a command sees of who it is, where, and what it may use.
const SEEN: &str = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; echo; umask; pwd; \
                    stat -c %a .; printenv PATH HOME USER LOGNAME SHELL LANG LC_TIME TERM MY_OWN; \
                    command -v own-tool; ulimit -a; ulimit -Ha; nice; grep SigIgn \
                    /proc/self/status | grep -o '.......$'";

/// `interceptor run --daemon SOCKET` with these words, typed by the user in its home.
fn run(account: &Account, daemon: &Daemon<'_>, words: &[&str]) -> Output {
    shell(account, daemon, "", words)
}

/// The same after a piece of a script.
fn shell(account: &Account, daemon: &Daemon<'_>, before: &str, words: &[&str]) -> Output {
    let (program, socket) = (binary("interceptor"), daemon.members());
    let start = [program.to_str().unwrap(), "run", "--daemon", socket.to_str().unwrap()];
    account.run(&format!("{before} \"$@\"; exit $?"), &[&start[..], words].concat())
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}{}", text(&output.stdout));
    assert!(said.contains(why), "{why:?} is not in: {said}");
}

/// A daemon with this access for the account's group.
fn daemon<'lab>(lab: &'lab Lab, account: &Account, access: &Value) -> Daemon<'lab> {
    let config = json!({ "group": account.group(), "access": access });
    let config = lab.secret_file("daemon-access.json", &config.to_string());
    lab.daemon().at_origin(HOST).quiet_log().option("--config").option(config).start()
}

#[test]
fn a_command_sees_what_it_sees_when_typed_alone() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon =
            daemon(lab, &account, &json!([{ "group": account.group(), "own_policies": true }]));
        let tool = account.file("tools/own-tool", "#!/bin/sh\necho the own tool\n");
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        account.directory(Path::new("project/deep"));
        let before = "umask 007; cd project/deep; ulimit -Sn 77; ulimit -Hn 99; ulimit -c 0; \
                      ulimit -p 3000; ulimit -t 1000; trap '' USR1 HUP; \
                      renice -n 19 $$ >/dev/null; \
                      PATH=$HOME/tools:$PATH; export PATH LC_TIME=C MY_OWN='a b=c';";
        let alone = account.run(&format!("{before} \"$@\"; exit $?"), &["sh", "-c", SEEN]);
        let alone = out(&alone);
        let there = ["tools/own-tool", "a b=c", "\n19\n", "77", "99"];
        assert!(there.iter().all(|part| alone.contains(part)), "{alone}");
        let words = ["--profile", "unrestricted", "--", "sh", "-c", SEEN];
        let through = shell(&account, &daemon, before, &words);
        assert_eq!(out(&through), alone, "{}", text(&through.stderr));
        assert_eq!(text(&through.stderr), "");
        // Groups that the user has put down stay down.
        let script = "exec setpriv --reuid=$1 --regid=$1 --groups=$2 \"$3\" run --daemon \"$4\" \
                      --profile unrestricted -- id -G";
        let group = fs::metadata(daemon.members()).unwrap().gid();
        let (uid, group) = (account.uid().to_string(), group.to_string());
        let mut root = Command::new("sh");
        root.args(["-c", script, "sh", &uid, &group]);
        let root = root.arg(binary("interceptor")).arg(daemon.members()).current_dir("/");
        let groups = out(&root.env("PATH", "/usr/bin:/bin").output().unwrap());
        assert_eq!(groups.trim(), format!("{uid} {group}"));
        daemon.finish();
    });
}

#[test]
fn records_history_placeholders_and_files_are_the_users() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon =
            daemon(lab, &account, &json!([{ "group": account.group(), "own_policies": true }]));
        let key = lab.another_key();
        let policy = json!({ "network": { "allow": [HOST] }, "credentials_v2": { "own": {
            "key": { "file": "own.key" }, "hosts": [HOST], "env": "OWN_API_KEY",
            "endpoints": [{ "methods": ["GET"], "paths": ["/x"] }] } } });
        lab.permits(&policy.to_string());
        account.file("own.key", &format!("{key}\n"));
        account.file("interceptor.json", &policy.to_string());
        let program = binary("interceptor");
        let interceptor =
            |words: &str| account.run(&format!("{} {words}; exit $?", program.display()), &[]);
        refused(&run(&account, &daemon, &["--", "true"]), "is not trusted yet");
        out(&interceptor("trust"));
        let script = format!(
            "curl -sS -o /dev/null -o /dev/null -w '%{{http_code}} ' \
             -H \"authorization: Bearer $OWN_API_KEY\" https://{HOST}/x https://{HOST}/y; \
             echo $OWN_API_KEY; cat own.key interceptor.json a 2>&1; true"
        );
        let words = ["--audit", "a", "--name", "mine", "--summary", "always", "--", "sh", "-c"];
        let output = run(&account, &daemon, &[&words[..], &[&script]].concat());
        let seen = out(&output);
        assert!(seen.starts_with("200 403 proxy-managed-"), "{seen}{}", text(&output.stderr));
        assert!(!seen.contains(&key) && seen.contains("own.key: Permission denied"), "{seen}");
        let said = text(&output.stderr);
        assert!(said.contains("sandbox mine, user ") && said.contains("1 refused"), "{said}");
        let why = out(&interceptor("why"));
        assert!(why.contains(&format!("GET {HOST}/y")) && why.contains("to permit"), "{why}");
        let again = run(&account, &daemon, &["--", "sh", "-c", "echo $OWN_API_KEY"]);
        assert!(seen.contains(out(&again).trim()), "{seen}");
        let listed = account.run("find .local a -printf '%u %m %y %p\\n'", &[]);
        for line in out(&listed).lines() {
            assert!(line.starts_with(&format!("{} ", account.name())), "{line}");
            assert!(
                line.contains(" 600 f ") || line.contains(" 700 d ") || line.contains(" 755 d")
            );
        }
        lab.ran(seen.into_bytes(), &account.home().join("a"));
        daemon.finish();
    });
}

#[test]
fn a_policy_is_learnt_and_a_chain_is_sealed_without_sudo() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon =
            daemon(lab, &account, &json!([{ "group": account.group(), "own_policies": true }]));
        let key = account.file("chain.key", &"k".repeat(32));
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
        lab.permits(&json!({ "network": { "allow": [HOST] } }).to_string());
        let script = format!("curl -sS -o /dev/null https://{HOST}/x");
        let words =
            ["--audit", "sealed", "--audit-chain", "chain.key", "--learn", "--", "sh", "-c"];
        let learnt = run(&account, &daemon, &[&words[..], &[&script]].concat());
        out(&learnt);
        let policy = fs::read_to_string(account.home().join("interceptor.jsonc")).unwrap();
        assert!(policy.contains(HOST), "{policy}");
        let verify = format!(
            "{} audit verify --key chain.key sealed; exit $?",
            binary("interceptor").display()
        );
        let verified = account.run(&verify, &[]);
        assert!(verified.status.success(), "{}{}", text(&verified.stdout), text(&verified.stderr));
        lab.ran(learnt.stderr, &account.home().join("sealed"));
        daemon.finish();
    });
}

#[test]
fn p8_the_operators_policies_are_used_and_never_read() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let name = |what: &str| format!("lab{}{what}", std::process::id());
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/x"] }]));
        let policy = json!({ "limits": { "audit_backlog": 4321 }, "network": policy["network"],
            "credentials_v2": policy["credentials_v2"] });
        let _agent = Operators::new(&name("agent"), &policy.to_string());
        let _other = Operators::new(&name("other"), &policy.to_string());
        let broken = json!({ "credentials": { "openai": lab.key() }, "secret-field": 1 });
        let _broken = Operators::new(&name("broken"), &broken.to_string());
        let access =
            json!([{ "group": account.group(), "policies": [name("agent"), name("broken")] }]);
        let daemon = daemon(lab, &account, &access);
        let script = format!(
            "curl -sS -o /dev/null -o /dev/null -w '%{{http_code}} ' \
             -H \"authorization: Bearer $LAB_API_KEY\" https://{HOST}/x https://{HOST}/y; \
             cat /etc/interceptor/policies/* {} 2>/dev/null; \
             echo $LAB_API_KEY",
            lab.directory().join("key").display()
        );
        let agent = name("agent");
        let words = ["--policy", &agent, "-vvv", "--audit", "a", "--", "sh", "-c", &script];
        let output = shell(&account, &daemon, "export RUST_LOG=trace;", &words);
        let seen = out(&output);
        assert!(seen.starts_with("200 403 proxy-managed-"), "{seen}{}", text(&output.stderr));
        for part in ["4321", "TRACE", "secret-field", "\"endpoints\""] {
            let said = text(&output.stderr);
            assert!(!seen.contains(part) && !said.contains(part), "{part}: {seen}{said}");
        }
        let kept = account.run("cat .local/state/interceptor/run-policies/*", &[]);
        assert_eq!(out(&kept), json!({ "name": agent, "document": null }).to_string());
        lab.ran([seen.into_bytes(), output.stderr].concat(), &account.home().join("a"));

        let policy = |words: &[&str]| {
            run(&account, &daemon, &[&["--policy", &agent][..], words, &["--", "true"]].concat())
        };
        refused(&policy(&["--allow", "evil.test"]), "nothing can be added to the operator's");
        refused(&policy(&["--key", "openai=env:HOME"]), "nothing can be added to the operator's");
        let elsewhere = format!("{HOST}:{}", lab.origin());
        refused(&policy(&["--resolve", &elsewhere]), "cannot be used with the operator's policy");
        let ca = lab.directory().join("upstream-ca.pem");
        let ca = ["--upstream-ca", ca.to_str().unwrap()];
        refused(&policy(&ca), "cannot be used with the operator's policy");
        let other = name("other");
        refused(&run(&account, &daemon, &["--policy", &other, "--", "true"]), "that you may use");
        refused(
            &run(&account, &daemon, &["--profile", "openai", "--", "true"]),
            "operator's policies only",
        );
        let broken = run(&account, &daemon, &["--policy", &name("broken"), "--", "true"]);
        refused(&broken, "cannot be used; the daemon's log says why");
        let said = text(&broken.stderr);
        assert!(!said.contains("secret-field") && !said.contains(lab.key()), "{said}");
        let log = daemon.finish().err();
        assert!(log.contains("secret-field") && !log.contains(lab.key()), "{log}");
    });
}

#[test]
fn p8_policies_of_a_member_reach_public_addresses_only_unless_the_operator_says_so() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let access = |own: Value| json!([{ "group": account.group(), "own_policies": own }]);
        let public = daemon(lab, &account, &access(json!(true)));
        let ca = lab.directory().join("upstream-ca.pem");
        let ca = ca.to_str().unwrap();
        let plain = format!("plain.test:80:{}", lab.plain());
        let special = [
            vec!["--allow", "127.0.0.1"],
            vec!["--allow", "10.0.0.0/8"],
            vec!["--allow", "0.0.0.0/0"],
            vec!["--allow", "tcp://192.168.1.1:22"],
            vec!["--allow", "[fd00::1]:443"],
            vec!["--allow", "::ffff:169.254.169.254"],
            vec!["--allow", "host.interceptor.internal:8080"],
            vec!["--allow", "plain.test", "--resolve", &plain],
            vec!["--allow", "plain.test", "--upstream-ca", ca],
            vec!["--allow", "plain.test", "--upstream-proxy", "http://127.0.0.1:1"],
        ];
        for words in &special {
            let output = run(&account, &public, &[&words[..], &["--", "true"]].concat());
            refused(&output, "own_policies");
        }
        for words in [["--allow", "8.8.8.0/24"], ["--allow", "*"], ["--allow", "localhost"]] {
            out(&run(&account, &public, &[&words[..], &["--", "true"]].concat()));
        }
        // A name that leads to such an address is refused when it is looked up.
        let script = "curl -sS --max-time 5 -o /dev/null -w '%{http_code}' http://localhost.test/";
        let output = run(&account, &public, &["--allow", "*", "--", "sh", "-c", script]);
        assert_ne!(text(&output.stdout), "200");
        public.finish();
        let any = daemon(lab, &account, &access(json!("any-address")));
        for words in &special {
            out(&run(&account, &any, &[&words[..], &["--", "true"]].concat()));
        }
        any.finish();
        let none = daemon(lab, &account, &json!([]));
        refused(
            &run(&account, &none, &["--allow", "a.test", "--", "true"]),
            "operator's policies only",
        );
        none.finish();
    });
}

#[test]
fn a_run_ends_with_the_daemon_and_what_the_daemon_is_for_is_said() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let outsider = Account::new(lab.directory());
        let daemon =
            daemon(lab, &account, &json!([{ "group": account.group(), "own_policies": true }]));
        let words = ["--profile", "unrestricted", "--", "true"];
        let group = format!("sudo usermod -aG {}", account.group());
        refused(&run(&outsider, &daemon, &words), &group);
        out(&run(&account, &daemon, &words));
        // Default limits are the most, and the user is the member.
        let option = |option: &[&str]| run(&account, &daemon, &[option, &words[..]].concat());
        refused(&option(&["--user", outsider.name()]), "the command runs as you");
        refused(&option(&["--user", "root"]), "the command runs as you");
        out(&option(&["--user", account.name()]));

        let (program, socket) = (binary("interceptor"), daemon.members());
        let mut running = account.shell("exec \"$@\"", &[]);
        running.arg(&program).args(["run", "--daemon"]).arg(&socket);
        running.args(["--profile", "unrestricted", "--", "sh", "-c"]);
        running.arg("trap '' TERM; echo ready; while :; do sleep 1; done");
        let mut running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut ready).unwrap();
        daemon.running().signal(Signal::SIGTERM);
        let ended = running.wait_with_output().unwrap();
        refused(&ended, "the daemon has ended the sandbox");
        let path = daemon.members();
        daemon.finish();
        assert!(!path.exists());
        let start = [program.to_str().unwrap(), "run", "--profile", "unrestricted", "--", "true"];
        let without = account.run("\"$@\"; exit $?", &start);
        refused(&without, "sudo interceptor install daemon");
    });
}

#[test]
fn install_sets_a_host_up_shows_what_to_type_and_is_undone() {
    let script = "
set -e
rm -rf /etc/interceptor
sudo install -m 755 target/release/interceptor /usr/local/bin/
! getent group interceptor
echo '-- dry'; interceptor install daemon --dry-run
! getent group interceptor; [ ! -e /etc/interceptor/config.json ]
echo '-- install'; SUDO_USER=reader interceptor install daemon
useradd -M reader; usermod -aG interceptor reader
stat -c '%a %U %n' /etc/interceptor/policies /etc/interceptor/config.json
echo '-- again'; interceptor install daemon
/usr/local/bin/interceptor serve --config /etc/interceptor/config.json >/tmp/said-$$ & daemon=$!
trap 'kill $daemon 2>/dev/null || true' EXIT
while kill -0 $daemon && ! grep -q listening /tmp/said-$$; do sleep 0.05; done; rm /tmp/said-$$
stat -c '%a %U %G %n' /run/interceptor /run/interceptor/run.sock /run/interceptor/control.sock
echo '-- run'; setpriv --reuid=reader --regid=reader --init-groups env HOME=/ \\
    interceptor run -q --profile unrestricted -- id -un
kill $daemon; wait $daemon
echo '-- uninstall'; interceptor install daemon --uninstall
! getent group interceptor; [ ! -e /etc/interceptor/config.json ]
echo '-- end'
";
    let alone = interceptor_tests::people::database();
    let (success, said) = on_a_host(script);
    drop(alone);
    assert!(success, "{said}");
    let after = |mark: &str| interceptor_tests::host::after(&said, mark).to_owned();
    assert!(after("dry").contains("would make the group interceptor"), "{said}");
    let shown = after("install");
    for part in [
        "make the group interceptor",
        "write /etc/interceptor/config.json",
        "sudo usermod -aG interceptor reader",
        "serve --config /etc/interceptor/config.json   (systemd does not run here",
        "700 root /etc/interceptor/policies",
        "600 root /etc/interceptor/config.json",
    ] {
        assert!(shown.contains(part), "{part}: {said}");
    }
    let again = after("again");
    assert!(again.contains("config.json is there"), "{said}");
    assert!(again.contains("710 root interceptor /run/interceptor\n"), "{said}");
    assert!(again.contains("660 root interceptor /run/interceptor/run.sock"), "{said}");
    assert!(again.contains("600 root root /run/interceptor/control.sock"), "{said}");
    assert_eq!(after("run"), "reader");
    assert!(after("uninstall").contains("removed the group interceptor"), "{said}");
}

#[test]
fn a_members_sandbox_goes_on_over_a_takeover_and_new_ones_are_the_next_daemons() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let access = json!([{ "group": account.group(), "own_policies": true }]);
        let first = daemon(lab, &account, &access);
        let mut running = account.shell("exec \"$@\"", &[]);
        running.arg(binary("interceptor")).args(["run", "--daemon"]).arg(first.members());
        running.args(["--profile", "unrestricted", "--", "sh", "-c", "echo ready; read x; exit 7"]);
        running.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = running.spawn().unwrap();
        std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
        let config = lab.directory().join("daemon-access.json");
        let second = lab.daemon().quiet_log().control(first.control().to_owned());
        let second = second.option("--takeover").option("--config").option(config).start();
        let words = ["--profile", "unrestricted", "--", "true"];
        out(&run(&account, &second, &words));
        assert!(running.try_wait().unwrap().is_none(), "it goes on");
        drop(running.stdin.take());
        assert_eq!(running.wait().unwrap().code(), Some(7));
        first.finish();
        out(&run(&account, &second, &words));
        second.finish();
    });
}
