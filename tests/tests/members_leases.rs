//! What a member of the daemon's group can permit by a lease or an answer while a run lasts:
//! nothing beside an operator's policy, and of the own one what its start would have permitted.

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use interceptor_tests::daemon::Daemon;
use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, Operators, out, text};
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const OTHER: &str = "evil.example.test";

/// A daemon with this access for the account's group.
fn daemon<'lab>(lab: &'lab Lab, account: &Account, access: &Value) -> Daemon<'lab> {
    let config = json!({ "group": account.group(), "access": access });
    let config = lab.secret_file("daemon-access.json", &config.to_string());
    let daemon = lab.daemon().at_origin(HOST).at_origin(OTHER).quiet_log();
    daemon.option("--config").option(config).start()
}

/// A run of the user's, which waits for a line before it goes on.
struct Waits<'a> {
    account: &'a Account,
    child: Child,
}

impl<'a> Waits<'a> {
    #[track_caller]
    fn begin(account: &'a Account, daemon: &Daemon<'_>, options: &[&str], then: &str) -> Self {
        let (program, socket) = (binary("interceptor"), daemon.members());
        let script = format!("echo ready; read line; {then}");
        let mut child = account.shell("exec \"$@\"", &[]);
        child.arg(program).args(["run", "--daemon"]).arg(socket).args(["--name", "mine"]);
        child.args(options).args(["--", "sh", "-c", &script]);
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut ready = [0; 6];
        if child.stdout.as_mut().unwrap().read_exact(&mut ready).is_err() {
            panic!("{}", text(&child.wait_with_output().unwrap().stderr));
        }
        Waits { account, child }
    }

    /// Posts to the run's control socket, as its user; the answer's status and body.
    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> (u64, String) {
        let script = "curl -sS --unix-socket ~/.local/state/interceptor/control/mine* \
                      -w '\n%{http_code}' -d \"$1\" http://localhost\"$2\"";
        let answer = out(&self.account.run(script, &[&body.to_string(), path]));
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    #[track_caller]
    fn lease(&self, patch: &Value) -> (u64, String) {
        self.post("/v1/sandboxes/mine/leases", &json!({ "patch": patch, "seconds": 600 }))
    }

    /// What `ctl` says.
    fn ctl(&self, words: &str) -> String {
        let script = format!("{} ctl {words} 2>&1", binary("interceptor").display());
        text(&self.account.run(&script, &[]).stdout)
    }

    /// Lets it go on, and returns what it said.
    #[track_caller]
    fn goes_on(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        out(&self.child.wait_with_output().unwrap())
    }
}

#[test]
fn p8_no_lease_and_no_answer_widens_a_policy_of_the_operators() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let name = format!("lab{}asks", std::process::id());
        let rules = json!([
            { "methods": ["GET"], "paths": ["/x"] },
            { "methods": ["DELETE"], "paths": ["/asks"], "ask": true },
        ]);
        let mut policy = lab.governed(HOST, rules);
        policy["ask"] = json!({ "timeout_seconds": 3600 });
        policy["network"]["deny"] = json!(["*"]);
        let _policy = Operators::new(&name, &policy.to_string());
        let access = json!([{ "group": account.group(), "policies": [name] }]);
        let daemon = daemon(lab, &account, &access);
        // What would be asked is refused at once: nobody could answer.
        let get = "curl -sS --max-time 100 -o /dev/null -w '%{http_code} '";
        let key = "-H \"authorization: Bearer $LAB_API_KEY\"";
        let then = format!(
            "{get} {key} https://{HOST}/x; {get} {key} https://{HOST}/y; \
             {get} -X DELETE {key} https://{HOST}/asks; {get} {key} https://{OTHER}/; \
             {get} https://{OTHER}/"
        );
        let run = Waits::begin(&account, &daemon, &["--policy", &name, "--audit", "a"], &then);
        let network =
            |host: &str| json!({ "op": "add", "path": "/network/allow/-", "value": host });
        let endpoint = json!({ "op": "add", "path": "/credentials_v2/lab/endpoints/-",
            "value": { "methods": [], "paths": ["/"] } });
        let probe = json!({ "op": "test", "path": "/network/allow/0", "value": "guessed.test" });
        for patch in [
            json!([network(OTHER)]),
            json!([network("169.254.169.254")]),
            json!([endpoint]),
            json!([probe]),
            json!([{ "op": "copy", "from": "/credentials_v2", "path": "/network/x" }]),
            json!([]),
        ] {
            let (status, said) = run.lease(&patch);
            assert_eq!(status, 403, "{patch}: {said}");
            assert!(said.contains("problem:settled\"") && !said.contains(HOST), "{patch}: {said}");
        }
        let said = run.ctl(&format!("lease mine --allow {OTHER} --for 15m"));
        assert!(said.contains("holds as it is"), "{said}");
        assert!(!run.ctl("leases").contains("mine"), "there is a lease");
        assert_eq!(run.goes_on().trim(), "200 403 403 403 403");
        let records = interceptor_tests::audit::read(&account.home().join("a")).unwrap();
        assert!(records.iter().all(|record| record.kind != "approval"), "{records:?}");
        lab.ran(Vec::new(), &account.home().join("a"));
        daemon.finish();
    });
}

#[test]
fn p8_a_lease_over_an_own_policy_reaches_what_the_policy_might() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let access = |own: Value| json!([{ "group": account.group(), "own_policies": own }]);
        account
            .file("own.json", r#"{ "network": { "allow": ["api.example.test"], "deny": ["*"] } }"#);
        let allow =
            |rule: &str| json!([{ "op": "add", "path": "/network/allow/-", "value": rule }]);
        let special = ["169.254.169.254", "10.0.0.0/8", "host.interceptor.internal:8080"];
        lab.permits(r#"{ "network": { "allow": ["api.example.test", "evil.example.test"] } }"#);
        for (own, expected, file) in [(json!(true), 422, "a"), (json!("any-address"), 201, "b")] {
            let options = ["--policy", "./own.json", "--audit", file];
            let daemon = daemon(lab, &account, &access(own));
            let then = format!("curl -sS -o /dev/null -w '%{{http_code}}' https://{OTHER}/");
            let run = Waits::begin(&account, &daemon, &options, &then);
            for rule in special {
                let (status, said) = run.lease(&allow(rule));
                assert_eq!(status, expected, "{rule}: {said}");
                assert_eq!(said.contains("own_policies"), expected == 422, "{rule}: {said}");
            }
            // Public addresses are the member's to reach, now as at the start.
            let (status, said) = run.lease(&allow(OTHER));
            assert_eq!(status, 201, "{said}");
            assert_eq!(run.goes_on(), "200");
            lab.ran(Vec::new(), &account.home().join(file));
            daemon.finish();
        }
    });
}
