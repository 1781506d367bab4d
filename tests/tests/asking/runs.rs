//! What a `run` asks is answered by its user, at another terminal.

use interceptor_tests::Lab;
use interceptor_tests::conversing::{Conversing, typed};
use interceptor_tests::daemon::until;
use interceptor_tests::people::Account;
use serde_json::{Value, json};

/// Why a request inside is answered as it is. It is patient.
fn reason(run: &mut Conversing, host: &str) -> String {
    run.inside(&format!("curl -s -m 100 -o /dev/null -D - http://{host}/ | grep -i decision"))
}

#[test]
fn the_user_of_a_run_answers_what_it_asks() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let before = "unset XDG_RUNTIME_DIR";
        let document = json!({ "ask": {}, "network": { "allow": ["own.test"] } });
        let policy = account.file("policy.json", &document.to_string());
        let options = ["-q", "--name", account.name(), "--policy", policy.to_str().unwrap()];
        let said = lab.directory().join("said");
        let mut run = Conversing::start(&account, before, &options, &said);
        let asked = || -> Vec<Value> {
            let (_, listed) = typed(&account, before, &["ctl", "approvals", "--json"]);
            serde_json::from_str(&listed).unwrap_or_default()
        };
        let mut answered = |host: &str, answer: &[&str]| {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| reason(&mut run, host));
                assert!(until(|| asked().len() == 1), "{:?}", asked());
                let question = &asked()[0];
                assert_eq!(
                    (&question["sandbox"], &question["host"]),
                    (&json!(account.name()), &json!(host))
                );
                let id = question["id"].as_str().unwrap();
                let (status, said) = typed(&account, before, &[&["ctl"], answer, &[id]].concat());
                assert_eq!(status, Some(0), "{said}");
                waiting.join().expect("a verdict")
            })
        };
        let refused = answered("other.test", &["refuse"]);
        assert!(refused.ends_with("reason=approval_refused"), "{refused}");
        // Where the host is permitted, what is missing is the host itself.
        let permitted = |reason: &str| !reason.contains("_denied") && !reason.contains("approval");
        let reached = answered("other.test", &["approve", "--for", "1h"]);
        assert!(permitted(&reached), "{reached}");
        let (_, leases) = typed(&account, before, &["ctl", "leases"]);
        assert!(leases.contains("other.test") && leases.contains(account.name()), "{leases}");
        let again = reason(&mut run, "other.test");
        assert!(permitted(&again), "{again}");
        assert_eq!(run.end(), "");
    });
}
