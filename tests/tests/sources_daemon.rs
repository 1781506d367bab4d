//! Programs that print keys for a daemon: run as the user that its operator named, once for all
//! sandboxes, and known to the daemon that takes over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Cgroup, Daemon, Guest, until};
use interceptor_tests::people::Account;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const HOST: &str = "api.lab.test";

/// A program of root's that everybody may run: it notes how it was run, and prints a key.
struct Program {
    path: PathBuf,
    notes: PathBuf,
}

impl Program {
    fn new(lab: &Lab, name: &str, key: &str) -> Program {
        let directory = lab.directory().join("programs");
        let notes = directory.join("notes");
        fs::create_dir_all(&notes).unwrap();
        for (path, mode) in [(&directory, 0o755), (&notes, 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let (path, notes) = (directory.join(name), notes.join(name));
        let noted = notes.display();
        let script = format!(
            "#!/bin/sh\n{{ id -u; id -G; grep NoNewPrivs /proc/self/status; env; }} > {noted}.how\n\
             echo run >> {noted}\necho {key}\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Program { path, notes }
    }

    fn runs(&self) -> usize {
        fs::read_to_string(&self.notes).unwrap_or_default().lines().count()
    }

    fn policy(&self) -> Value {
        let key = json!({ "exec": [self.path], "ttl_seconds": 86400 });
        json!({ "network": { "allow": [HOST] },
                "credentials_v2": { "lab": { "key": key, "hosts": [HOST],
                                             "env": "LAB_API_KEY" } } })
    }
}

fn daemon<'lab>(lab: &'lab Lab, user: &str) -> Daemon<'lab> {
    let daemon = lab.daemon().at_origin(HOST).quiet_log();
    daemon.option("--programs-as").option(user).start()
}

fn ask(guest: &Guest<'_>, path: &str) -> u16 {
    let plan = Plan::https(HOST, "http/1.1").ask("GET", path);
    guest.fetch(&plan)[0].answers[0].status
}

fn keys(lab: &Lab) -> Vec<String> {
    lab.seen().iter().map(|seen| seen.values("authorization").concat()).collect()
}

#[test]
fn a_daemons_program_is_run_as_its_user_and_once_for_two_sandboxes() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let program = Program::new(lab, "token", lab.key());
        let daemon = daemon(lab, account.name());
        let (one, other) = (daemon.guest(&program.policy()), daemon.guest(&program.policy()));
        assert_eq!((ask(&one, "/one"), ask(&other, "/other")), (200, 200));
        let bearer = format!("Bearer {}", lab.key());
        assert_eq!(keys(lab), [bearer.clone(), bearer]);
        assert_eq!(program.runs(), 1);
        let how = fs::read_to_string(program.notes.with_extension("how")).unwrap();
        let lines: Vec<&str> = how.lines().collect();
        let mut groups: Vec<u32> =
            lines[1].split_whitespace().map(|group| group.parse().unwrap()).collect();
        groups.sort_unstable();
        assert_eq!((lines[0].parse(), groups), (Ok(account.uid()), account.groups()), "{how}");
        assert_eq!(lines[2].split_whitespace().last(), Some("1"), "{how}");
        let home = format!("HOME={}", account.home().display());
        assert!(lines.contains(&home.as_str()), "{how}");
        let metrics = daemon.call("GET", "/metrics", "").body;
        for series in ["fetches_total", "failures_total", "age_seconds", "expires_in_seconds"] {
            let series = format!("interceptor_credential_{series}{{credential=\"lab\"}} ");
            assert!(metrics.contains(&series), "{series}: {metrics}");
        }
        daemon.finish();
    });
}

#[test]
fn a_program_that_fails_or_is_changeable_makes_no_sandbox() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = daemon(lab, account.name());
        let refused = |policy: &Value| {
            let answer = daemon.try_guest(policy).map(|_| ()).unwrap_err();
            assert!((400..500).contains(&answer.status), "{answer:?}");
            answer.json().to_string()
        };
        let failing = Program::new(lab, "failing", &format!("{} >&2; exit 3", lab.another_key()));
        let said = refused(&failing.policy());
        assert!(said.contains("failing") && said.contains("ended with status 3"), "{said}");
        // Neither the user that it would run as nor anybody else but root may have written it.
        for mode in [0o777, 0o775] {
            let open = Program::new(lab, "open", lab.key());
            fs::set_permissions(&open.path, fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&open.path, None, Some(account.gid())).unwrap();
            let said = refused(&open.policy());
            assert!(said.contains("is not run, because the sandbox's user can change"), "{said}");
            assert_eq!(open.runs(), 0);
        }
        daemon.finish();
        // Without a user, no program is run; root is none.
        let program = Program::new(lab, "token", lab.key());
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let answer = daemon.try_guest(&program.policy()).map(|_| ()).unwrap_err();
        let said = answer.json().to_string();
        assert!(said.contains("runs no programs without `programs_as`"), "{said}");
        assert_eq!(program.runs(), 0);
        daemon.finish();
        let failed = lab.daemon().option("--programs-as").option("root").fail();
        assert!(failed.err().contains("programs are not run as root"), "{}", failed.err());
    });
}

/// The processes of a user.
fn processes_of(uid: u32) -> Vec<Pid> {
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_theirs = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let own = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        own == Some(uid) && !status.contains("\nState:\tZ")
    };
    all.filter_map(|name| name.parse().ok()).filter(is_theirs).map(Pid::from_raw).collect()
}

#[test]
fn the_end_of_the_process_that_runs_programs_is_told() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let program = Program::new(lab, "token", lab.key());
        let daemon = daemon(lab, account.name());
        let guest = daemon.guest(&program.policy());
        let health = || daemon.call("GET", "/healthz", "").json();
        assert_eq!((health()["status"].clone(), health().get("problems")), (json!("ok"), None));
        let keeper = processes_of(account.uid());
        assert_eq!(keeper.len(), 1, "{keeper:?}");
        kill(keeper[0], Signal::SIGKILL).unwrap();
        assert!(until(|| health()["status"] == "degraded"), "{}", health());
        let problem = health()["problems"][0].as_str().unwrap().to_owned();
        assert!(problem.starts_with("no program is run for keys any more"), "{problem}");
        // The keys that there are serve on, and no other program is run.
        assert_eq!(ask(&guest, "/still"), 200);
        let other = Program::new(lab, "other", &lab.another_key());
        let refused = daemon.try_guest(&other.policy()).map(|_| ()).unwrap_err();
        let why = "could not be started: the process that runs programs has ended";
        assert!(refused.json().to_string().contains(why), "{refused:?}");
        assert_eq!(other.runs(), 0);
        let err = daemon.finish().err();
        let told = err.matches("has ended, and no program is run any more").count();
        assert_eq!(told, 1, "{err}");
    });
}

#[test]
fn a_default_policy_that_somebody_else_could_have_written_runs_nothing() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let program = Program::new(lab, "token", lab.key());
        let file = account.file("p.json", &json!({ "network": { "allow": [HOST] } }).to_string());
        let daemon = lab.daemon().at_origin(HOST).quiet_log();
        let daemon = daemon.option("--programs-as").option(account.name());
        let daemon = daemon.option("--policy").option(&file).start();
        let cgroup = Cgroup::new();
        let body = json!({ "cgroup": cgroup.path() }).to_string();
        account.file("p.json", &program.policy().to_string());
        let answer = daemon.call("POST", "/v1/sandboxes", &body);
        assert!((400..500).contains(&answer.status), "{answer:?}");
        let said = "is not run: somebody else than root can change the policy's file";
        assert!(answer.body.contains(said), "{answer:?}");
        assert_eq!(program.runs(), 0);
        // The file of root's alone may gain one.
        for path in [&file, &account.home().to_owned()] {
            std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
        }
        let answer = daemon.call("POST", "/v1/sandboxes", &body);
        assert_eq!((answer.status, program.runs()), (201, 1), "{answer:?}");
        daemon.finish();
    });
}

#[test]
fn a_file_that_is_read_again_gains_no_program_and_the_next_daemon_runs_what_there_is() {
    Lab::test(|lab| {
        lab.unordered();
        let account = Account::new(lab.directory());
        let (known, new) =
            (Program::new(lab, "known", lab.key()), Program::new(lab, "new", &lab.another_key()));
        let file = lab.secret_file("own.json", &known.policy().to_string());
        lab.permits(&known.policy().to_string());
        let cgroup = Cgroup::new();
        let config = json!({ "programs_as": account.name(), "sandboxes": [
            { "id": "own", "cgroup": cgroup.path(), "policy": file } ] });
        let config = lab.secret_file("config.json", &config.to_string());
        let daemon = lab.daemon().at_origin(HOST).option("--config").option(config).start();
        let guest = daemon.guest_of(cgroup, &daemon.call("GET", "/v1/sandboxes/own", "").json());
        assert_eq!((ask(&guest, "/one"), known.runs()), (200, 1));
        lab.secret_file("own.json", &new.policy().to_string());
        let again = daemon.call("POST", "/v1/sandboxes/own/reload", "");
        assert!((400..500).contains(&again.status), "{again:?}");
        assert!(again.body.contains("is not run, because it is new here"), "{again:?}");
        assert_eq!((ask(&guest, "/two"), new.runs()), (200, 0));
        // Another daemon has the key and its life; without a user for it, it takes nothing over.
        let next = || lab.daemon().at_origin(HOST).control(daemon.control().to_owned());
        let refused = next().option("--takeover").fail();
        assert!(refused.err().contains("runs no programs without"), "{}", refused.err());
        let runs = known.runs();
        let next = next().option("--takeover").option("--programs-as").option(account.name());
        let next = next.start();
        assert!(until(|| ask(&guest, "/three") == 200));
        assert_eq!(known.runs(), runs);
        // Through the API, root may give another.
        let answer = next.replace(&guest, &new.policy(), false);
        assert_eq!((answer.status, new.runs()), (200, 1), "{answer:?}");
        daemon.finish();
        next.finish();
    });
}
