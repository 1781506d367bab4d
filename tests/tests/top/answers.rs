//! Every answer, by its key.

use std::fs;
use std::thread;
use std::time::Duration;

use interceptor_tests::lab::Lab;
use serde_json::json;

use super::{HOST, NEW, answer, curl, daemon, follow, leases, policy, status, waiting};

#[test]
fn what_waits_is_shown_and_answered_by_keys() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let mut terminal = follow(lab, &daemon);
        terminal.wait_for("1 sandbox  0 waiting");
        let ask = |path: &str| curl(&guest, &[&format!("https://{NEW}{path}")]);

        let held = ask("/simple/a-package/");
        terminal.wait_for("Waiting for you: 1 question");
        terminal.wait_for(&format!("GET {NEW}/simple/a-package/"));
        terminal.wait_for("To permit: add \"new.example.test:443\" to /network/allow");
        answer(&mut terminal, "a", "approved");
        assert_eq!(status(held), "200");
        terminal.wait_for(&format!("200 GET     {NEW}/simple/a-pac.."));
        assert_eq!(leases(&daemon, &guest), json!([]), "for the request that waited alone");

        let held = ask("/refuse");
        answer(&mut terminal, "r", "refused");
        assert_eq!(status(held), "403");

        let held = ask("/uses");
        answer(&mut terminal, "u", "Approve how many requests:");
        terminal.press("3\r");
        terminal.wait_for("approved, and 2 more");
        assert_eq!(status(held), "200");
        assert_eq!([(); 2].map(|()| status(ask("/uses"))), ["200", "200"]);
        let held = ask("/uses");
        answer(&mut terminal, "r", "refused");
        assert_eq!(status(held), "403");

        let held = ask("/time");
        answer(&mut terminal, "t", "Approve for how long");
        terminal.press("15m\r");
        terminal.wait_for("approved until");
        assert_eq!(status(held), "200");
        assert_eq!(status(ask("/time/too")), "200");
        // The lease is listed, and revoked at once.
        terminal.press("3");
        terminal.wait_for("PERMITS");
        terminal.wait_for("14:5");
        terminal.press("x");
        terminal.wait_for("revoked");
        terminal.wait_for("Nothing is permitted beside the policies.");
        terminal.press("1");
        let held = ask("/hour");
        answer(&mut terminal, "h", "approved until");
        assert_eq!(status(held), "200");
        let given = leases(&daemon, &guest);
        assert_eq!((given.as_array().unwrap().len(), given[0]["uses"].is_null()), (1, true));
        terminal.press("q");
        assert_eq!(terminal.end().code(), Some(0));
        assert!(terminal.is_as_before(), "{:?}", terminal.written());
        let by: Vec<String> = daemon.records().into_iter().filter_map(|record| record.by).collect();
        assert!(by.len() >= 5 && by.iter().all(|by| by.starts_with("uid:")), "{by:?}");
        drop(guest);
        daemon.finish();
    });
}

#[test]
fn always_writes_the_edit_into_the_policys_file() {
    Lab::test(|lab| {
        lab.unordered();
        lab.permits(&json!({ "network": { "allow": [NEW] } }).to_string());
        let file = lab.directory().join("policy.jsonc");
        let text =
            format!("// ours\n{{ \"ask\": {{}}, \"network\": {{ \"allow\": [\"{HOST}\"] }} }}\n");
        fs::write(&file, text).unwrap();
        let start = lab.daemon().at_origin(HOST).at_origin(NEW).quiet_log();
        let daemon = start.option("--policy").option(file.as_os_str()).start();
        let guest = daemon.guest(&json!({}));
        let mut terminal = follow(lab, &daemon);
        let held = curl(&guest, &[&format!("https://{NEW}/x")]);
        answer(&mut terminal, "A", "approved, and the edit is in");
        assert_eq!(status(held), "200");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("// ours") && text.contains("new.example.test:443"), "{text}");
        assert_eq!(status(curl(&guest, &[&format!("https://{NEW}/y")])), "200");
        // A policy that was given has none.
        let other = daemon.guest(&policy(lab));
        let held = curl(&other, &[&format!("https://{NEW}/z")]);
        answer(&mut terminal, "A", "its policy has no file to write to");
        answer(&mut terminal, "r", "refused");
        assert_eq!(status(held), "403");
        terminal.press("q");
        terminal.end();
        daemon.finish();
    });
}

#[test]
fn p9_keys_that_were_typed_before_a_question_appeared_do_not_answer_it() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let mut terminal = follow(lab, &daemon);
        // Somebody leans on the keys for as long as the question comes up.
        let held = curl(&guest, &[&format!("https://{NEW}/x")]);
        while !terminal.text().contains("Waiting for you") {
            terminal.press("a");
            thread::sleep(Duration::from_millis(20));
        }
        terminal.press("ah");
        terminal.wait_for("not answered: it has only just appeared");
        assert_eq!(waiting(&daemon), 1);
        // A paste is no key, whenever it comes.
        terminal.wait("it settles", |terminal| terminal.is_bold("a approve  h for 1 hour"));
        terminal.press("\u{1b}[200~aaa\u{1b}[201~");
        terminal.press("?");
        terminal.wait_for("approve: the requests that wait go on");
        assert_eq!(waiting(&daemon), 1);
        terminal.press("\u{1b}");
        answer(&mut terminal, "a", "approved");
        assert_eq!(status(held), "200");
        terminal.press("q");
        terminal.end();
        daemon.finish();
    });
}
