//! Moving, filtering, pausing, stories, sandboxes and policies, at eighty by twenty-four and other
//! sizes.

use interceptor_tests::lab::Lab;
use serde_json::json;

use super::{HOST, curl, daemon, follow, status};

#[test]
fn requests_are_filtered_paused_and_their_stories_told() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let policy = json!({ "network": { "allow": [HOST], "deny": ["*"] } });
        let guest = daemon.guest(&policy);
        let mut terminal = follow(lab, &daemon);
        for number in 0..30 {
            assert_eq!(status(curl(&guest, &[&format!("https://{HOST}/v1/{number}")])), "200");
        }
        assert_eq!(status(curl(&guest, &["http://other.example.test/"])), "403");
        terminal.wait_for("Requests: 32");
        terminal.wait_for("30 allowed  1 refused");
        // The end of the list, and its beginning.
        terminal.press("\u{1b}[F");
        terminal.wait_for(&format!("{HOST}/v1/0"));
        terminal.press("\u{1b}[H\u{1b}[B");
        terminal.press("/other\r");
        terminal.wait_for("Requests: 2 of 32  with \"other\"");
        terminal.press("\u{1b}");
        terminal.wait_for("Requests: 32");
        terminal.press("d");
        terminal.wait_for("refused only");
        terminal.press("\r");
        terminal.wait_for("To permit   add \"other.example.test");
        terminal.wait_for("refused by the network rules");
        // The policy, at the line of the rule.
        terminal.press("l");
        terminal.wait_for(&format!("The policy of {}", guest.id));
        terminal.wait_for("\"allow\": [");
        terminal.press("\u{1b}");
        terminal.wait_for("refused only");
        // What would permit it, does.
        lab.permits(&json!({ "network": { "allow": ["other.example.test"] } }).to_string());
        terminal.press("\r");
        terminal.wait_for("(h: for 1 hour)");
        terminal.press("h");
        terminal.wait_for("permitted until");
        terminal.press("\u{1b}");
        terminal.wait_for("refused only");
        terminal.press("\u{1b}");
        terminal.wait("all requests", |terminal| !terminal.text().contains("refused only"));
        terminal.press("p");
        terminal.wait_for("PAUSED");
        assert_eq!(status(curl(&guest, &[&format!("https://{HOST}/v1/more")])), "200");
        terminal.wait_for("PAUSED, 1 new");
        terminal.press("p\u{1b}[H");
        terminal.wait_for(&format!("{HOST}/v1/more"));
        terminal.press("s");
        terminal.wait_for(&format!("of {}", guest.id));
        terminal.press("2");
        terminal.wait_for("SANDBOX");
        terminal.wait_for("most/10 s");
        terminal.press("\r");
        terminal.wait_for("given without a file");
        terminal.press("\u{3}");
        assert_eq!(terminal.end().code(), Some(0));
        daemon.finish();
    });
}

#[test]
fn a_terminal_of_another_size_is_drawn_anew() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let mut terminal = follow(lab, &daemon);
        terminal.resize(12, 50);
        terminal.wait("a narrow one", |terminal| {
            let rows = terminal.rows();
            rows.len() == 12 && rows[0].contains("interceptor") && rows[11].contains("1 2 3 views")
        });
        terminal.resize(5, 20);
        terminal.wait_for("at least 40 x 10");
        terminal.resize(40, 132);
        terminal.wait("a wide one", |terminal| {
            let rows = terminal.rows();
            rows.len() == 40 && rows[39].contains("q quit") && rows[0].contains("0 refused")
        });
        terminal.press("q");
        assert_eq!(terminal.end().code(), Some(0));
        daemon.finish();
    });
}
