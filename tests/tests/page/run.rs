//! The page of a `run`, which its user opens: with sudo and without.

use interceptor_tests::Lab;
use interceptor_tests::conversing::{Conversing, typed};
use interceptor_tests::daemon::until;
use interceptor_tests::people::Account;
use interceptor_tests::visitor::{Visitor, parts};
use serde_json::{Value, json};

use super::whose::told;

const BEFORE: &str = "unset XDG_RUNTIME_DIR";

/// Opens the page of a run, decides a question by it, and ends the run.
fn decides(account: &Account, mut run: Conversing, said: &std::path::Path) {
    let printed = || std::fs::read_to_string(said).unwrap();
    assert!(printed().contains("page at http://127.0.0.1:"), "{}", printed());
    assert!(!printed().contains("token"), "a file may be read inside: {}", printed());
    let (status, url) = typed(account, BEFORE, &["ctl", "page", account.name()]);
    assert_eq!(status, Some(0), "{url}");
    let (address, target) = parts(&url);
    let stranger = Visitor::stranger(address);
    let refused = told(account.uid() + 1, &stranger, &target);
    assert!(refused.status == 403 && refused.body.contains("not_yours"), "{refused:?}");
    let entered = told(account.uid(), &stranger, &target);
    assert_eq!(entered.status, 200, "nobody has used it: {entered:?}");
    let (status, url) = typed(account, BEFORE, &["ctl", "page", account.name()]);
    assert_eq!(status, Some(0), "{url}");
    let visitor = Visitor::enters(&url);
    assert!(printed().contains(&format!("page at http://{}/", visitor.address)), "{}", printed());
    let events = visitor.follow();
    events.wait_for(account.name());
    let asked = || {
        let told = events.data("question");
        told.into_iter().find(|event| event["event"] == "asked").map(|one| one["question"].clone())
    };
    let reason = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let script = "curl -s -m 100 -o /dev/null -D - http://other.test/ | grep -i decision";
            run.inside(script)
        });
        assert!(until(|| asked().is_some()), "{}", events.text());
        let question: Value = asked().unwrap();
        assert_eq!(question["host"], "other.test");
        let path = format!("/v1/approvals/{}", question["id"].as_str().unwrap());
        let refused = visitor.post(&path, &json!({ "decision": "deny" }));
        assert_eq!(refused.status, 200, "{refused:?}");
        waits.join().expect("a verdict")
    });
    assert!(reason.ends_with("reason=approval_refused"), "{reason}");
    // From inside, nobody is there: the loopback is the sandbox's own.
    let own = run.inside(&format!("curl -s -m 20 http://{}/ || echo nobody", visitor.address));
    assert!(!own.contains("interceptor ctl page") && !own.contains("<title>"), "{own}");
    run.end();
    events.wait_for_end();
    assert!(until(|| visitor.connect().is_err()), "the page ends with its run");
}

#[test]
fn the_page_of_a_run_is_its_users_and_ends_with_it() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let document = json!({ "ask": {}, "network": { "allow": ["own.test"] } });
        let policy = account.file("policy.json", &document.to_string());
        let options = ["--name", account.name(), "--page", "--policy", policy.to_str().unwrap()];
        let said = lab.directory().join("said");
        let run = Conversing::start(&account, BEFORE, &options, &said);
        decides(&account, run, &said);
    });
}

#[test]
fn the_page_of_a_run_without_sudo_is_its_users_too() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = lab.daemon_for(&account);
        let document = json!({ "ask": {}, "network": { "allow": ["own.test"] } });
        let policy = account.file("policy.json", &document.to_string());
        let options = ["--name", account.name(), "--page", "--policy", policy.to_str().unwrap()];
        let said = lab.directory().join("said");
        let run = Conversing::start_by(&account, &daemon.members(), BEFORE, &options, &said);
        decides(&account, run, &said);
        daemon.finish();
    });
}
