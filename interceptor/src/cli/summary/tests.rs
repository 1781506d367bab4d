use std::sync::{Arc, Mutex};

use interceptor_policy::{Catalogue, Edit, Reason, Recorded};
use serde_json::json;

use super::tally::{Tally, Watcher};
use super::{edit_for, summary, wrapped};
use crate::audit::{Audit, Kind, Record, RequestId, Verdict, steers_or_hides};

fn record(kind: Kind, verdict: Verdict) -> Record {
    Record::new(&"s1".into(), RequestId::new(), kind, verdict).port(443)
}

fn denied(method: &str, host: &str, path: &str) -> Record {
    record(Kind::Request, Verdict::Deny)
        .reason(Reason::EndpointDenied)
        .credential("own")
        .host(host)
        .method(method)
        .path(path)
}

fn tallied(records: Vec<Record>) -> Arc<Mutex<Tally>> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let audit = Audit::discard().unwrap();
    audit.observe(Box::new(Watcher(Arc::clone(&tally))));
    records.into_iter().for_each(|record| audit.emit(record));
    drop(audit);
    tally
}

fn text(records: Vec<Record>, colour: bool) -> String {
    let document = json!({
        "network": { "allow": ["api.test"], "deny": ["*"] },
        "credentials_v2": { "own": { "key": { "env": "K" }, "hosts": ["api.test"],
            "endpoints": [{ "methods": ["GET"], "paths": ["/v1/models"] }] } },
    });
    let edit =
        |record: &Recorded| -> Option<Edit> { edit_for(&document, &Catalogue::builtin(), record) };
    let tally = tallied(records);
    summary(&tally.lock().unwrap(), edit, colour, true)
}

#[test]
fn each_refusal_stands_once_with_its_count_and_the_edit_that_permits_it() {
    let mut records: Vec<Record> = (0..12).map(|_| record(Kind::Request, Verdict::Allow)).collect();
    records.extend((0..2).map(|_| denied("POST", "api.test", "/v1/models")));
    let dns = |host: &str| record(Kind::Dns, Verdict::Deny).reason(Reason::HostDenied).host(host);
    records.push(dns("evil.test"));
    let mut refused = denied("GET", "evil.test", "/x").reason(Reason::HostDenied);
    refused.port = Some(8443);
    refused.credential = None;
    records.push(refused);
    records.push(dns("other.test"));
    records.push(denied("TRACE", "api.test", "/v1/models").reason(Reason::MethodRefused));
    let shown = text(records, false);
    let (head, last) = shown.split_once("    1x TRACE api.test/v1/models\n").unwrap();
    assert_eq!(
        head,
        "interceptor: 12 requests allowed, 5 refused\n    \
         2x POST api.test/v1/models\n       \
         to permit: add \"POST\" to /credentials_v2/own/endpoints/0/methods\n    \
         1x GET evil.test:8443/x\n       \
         to permit: add \"evil.test\" to /network/allow\n    \
         1x look-up of other.test\n       \
         host_denied: interceptor why "
            .to_owned()
            + head.rsplit_once("why ").unwrap().1
    );
    assert!(last.starts_with("       method_refused: interceptor why "), "{last}");
    assert!(last.ends_with("more: interceptor why, interceptor audit last --decision deny\n"));
}

#[test]
fn nothing_refused_is_one_line() {
    let allowed = || record(Kind::Request, Verdict::Allow);
    assert_eq!(text(vec![allowed()], false), "interceptor: 1 request allowed, 0 refused\n");
    assert_eq!(
        text(vec![allowed()], true),
        "interceptor: \u{1b}[32m1 request allowed\u{1b}[0m, 0 refused\n"
    );
}

#[test]
fn o2_nothing_that_a_sandbox_chose_steers_the_terminal_or_fills_it() {
    let hostile = "\u{1b}[2J\nfake\r\u{9b}31m\u{202e}x\u{2028}\u{7f}\u{200b}";
    let long = format!("/{}", "x".repeat(5000));
    let mut records = vec![denied(hostile, hostile, hostile), denied("GET", "api.test", &long)];
    records.extend((0..2000).map(|number| denied("GET", "api.test", &format!("/{number}"))));
    let shown = text(records, false);
    assert!(!shown.chars().any(|c| c != '\n' && steers_or_hides(c)), "{shown:?}");
    assert!(shown.lines().count() < 60, "{shown}");
    for line in shown.lines().filter(|line| line.contains("x GET")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(shown.contains("and 1982 refusals more\n"), "{shown}");
}

#[test]
fn a_paragraph_keeps_to_eighty_columns_and_breaks_no_word() {
    let word = "w".repeat(90);
    let text = wrapped(&format!("{} {word} end", "word ".repeat(30).trim_end()), 2, 4);
    for line in text.lines() {
        assert!(line.chars().count() <= 80 || line.trim() == word, "{line}");
    }
    assert!(text.starts_with("  word word") && text.contains("\n    word"), "{text}");
}
