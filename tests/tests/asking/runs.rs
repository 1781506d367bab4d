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

/// A run that asks about what its policy does not permit, and its user at another terminal.
struct Asking<'a> {
    account: &'a Account,
    run: Conversing,
}

const BEFORE: &str = "unset XDG_RUNTIME_DIR";

impl<'a> Asking<'a> {
    fn start(lab: &Lab, account: &'a Account, options: &[&str]) -> Asking<'a> {
        let options = [&["--name", account.name()], options].concat();
        let run = Conversing::start(account, BEFORE, &options, &lab.directory().join("said"));
        Asking { account, run }
    }

    /// What the user's command says, and its status.
    fn ctl(&self, words: &[&str]) -> (Option<i32>, String) {
        typed(self.account, BEFORE, &[&["ctl"], words].concat())
    }

    /// Lets the command ask for a host; the question's id.
    fn ask(&mut self, host: &str) -> String {
        self.run.inside(&format!("curl -s -m 100 -o /dev/null http://{host}/ & asked=$!"));
        let asked = || -> Vec<Value> {
            serde_json::from_str(&self.ctl(&["approvals", "--json"]).1).unwrap_or_default()
        };
        assert!(until(|| asked().len() == 1), "{:?}", asked());
        asked()[0]["id"].as_str().unwrap().to_owned()
    }

    /// Ends the question, however it was answered.
    fn answered(&mut self) {
        self.run.inside("wait $asked");
    }
}

#[test]
fn p2_a_key_that_somebody_swapped_in_the_file_never_comes_into_force_by_an_answer() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let document = |key: &str| {
            json!({
                "ask": {}, "network": { "allow": ["own.test"] },
                "credentials_v2": { "own": { "key": key, "hosts": ["own.test"], "env": "OWN" } },
            })
            .to_string()
        };
        let (own, swapped) = (document("sk-CANARY-own"), document("sk-CANARY-swapped"));
        let policy = account.file("policy.json", &own);
        let mut asking = Asking::start(lab, &account, &["--policy", policy.to_str().unwrap()]);
        // In place, as whatever the sandbox runs may have done by another way to the file.
        std::fs::write(&policy, &swapped).unwrap();
        asking.run.wait_for("the old one stays in force");
        let id = asking.ask("other.test");
        let (status, said) = asking.ctl(&["approve", &id, "--always"]);
        assert!(status != Some(0) && said.contains("no longer the policy in force"), "{said}");
        assert_eq!(std::fs::read_to_string(&policy).unwrap(), swapped, "nothing is written");
        let (_, listed) = asking.ctl(&["approvals"]);
        assert!(listed.contains(&id), "nothing is decided: {listed}");
        // The file is as it was when it was loaded.
        std::fs::write(&policy, &own).unwrap();
        let (status, said) = asking.ctl(&["approve", &id, "--always"]);
        assert!(status == Some(0) && said.contains("policy.json: the edit is in it"), "{said}");
        asking.answered();
        let written = std::fs::read_to_string(&policy).unwrap();
        assert!(written.contains("other.test:80") && written.contains("CANARY-own"), "{written}");
        assert_ne!(asking.run.verdict("other.test"), "host_denied");
        let said = asking.run.end();
        assert!(said.contains("changed (the key of own changed), and the old one"), "{said}");
        assert!(!said.contains("CANARY"), "{said}");
    });
}

#[test]
fn an_answer_for_good_is_written_whatever_the_options_add_and_is_no_news() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let document = json!({ "ask": {}, "network": { "allow": ["own.test"] } }).to_string();
        let policy = account.file("policy.json", &document);
        let file = policy.to_str().unwrap();
        for watching in [&["--allow", "more.test"][..], &["--no-watch"]] {
            std::fs::write(&policy, &document).unwrap();
            let options = [&["--policy", file], watching].concat();
            let mut asking = Asking::start(lab, &account, &options);
            // One after the other: the policy keeps its file, and is known by what is in it now.
            for host in ["one.test", "two.test"] {
                let id = asking.ask(host);
                let (status, said) = asking.ctl(&["approve", &id, "--always"]);
                let is_written = said.contains(&format!("{file}: the edit is in it"));
                assert!(status == Some(0) && is_written, "{watching:?}: {said}");
                asking.answered();
                assert_ne!(asking.run.verdict(host), "host_denied");
            }
            let written = std::fs::read_to_string(&policy).unwrap();
            let added = r#""allow":["own.test", "one.test:80", "two.test:80"]"#;
            assert!(written.contains(added) && !written.contains("more.test"), "{written}");
            let (_, listed) = typed(&account, BEFORE, &["ps"]);
            assert!(listed.contains(file), "{listed}");
            let (_, shown) = asking.ctl(&["policy", "get", account.name()]);
            let has_options = shown.contains("more.test");
            assert_eq!(has_options, watching.contains(&"more.test"), "{shown}");
            // A later change by somebody else is one of what is in the file now.
            let is_watched = !watching.contains(&"--no-watch");
            if is_watched {
                std::fs::write(&policy, written.replace("two.test", "third.test")).unwrap();
                asking.run.wait_for("changed (allow +third.test:80 -two.test:80)");
            }
            let said = asking.run.end();
            let waits = said.matches("the old one stays in force, because").count();
            assert_eq!(waits, usize::from(is_watched), "{said}");
        }
    });
}
