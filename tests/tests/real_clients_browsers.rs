//! Browsers, which have their own trust stores: a page of an allowed host appears in each, with no
//! switch about certificates.

use std::time::Duration;

use interceptor_tests::clients::conversation;
use interceptor_tests::{Lab, Outcome};
use serde_json::json;

const HOST: &str = "www.example.test";

/// Runs a browser by a script that is given the page's address.
fn browse(lab: &Lab, script: &str) -> Outcome {
    let page = "<!DOCTYPE html><title>page</title><p>marker</p>".as_bytes().to_vec();
    let mut files = lab.shared().files.lock().expect("no test thread panicked");
    files.insert("/page".into(), ("text/html", page));
    drop(files);
    // Ignore other requests of a browser (an icon).
    lab.unordered();
    let sandbox =
        lab.sandbox(&json!({ "network": { "allow": [HOST] } })).at_origin(HOST).quiet_log();
    let url = format!("https://{HOST}/page");
    sandbox.limit(Duration::from_secs(180)).run(&["sh", "-c", script, "sh", &url])
}

#[track_caller]
fn assert_seen(lab: &Lab, outcome: &Outcome) {
    let seen: Vec<String> = lab.seen().iter().map(|request| request.line()).collect();
    assert!(
        seen.contains(&format!("GET {HOST}/page")),
        "{seen:?}\n{}\n{}",
        outcome.out(),
        outcome.tail()
    );
    lab.seen().iter().for_each(conversation::assert_no_placeholder);
}

#[test]
fn chromium_shows_a_page() {
    Lab::test(|lab| {
        // Its own sandbox needs namespaces, which ours does not allow.
        let script = "chromium --version; chromium --headless=new --no-sandbox --disable-gpu \
                      --user-data-dir=$HOME/chromium --dump-dom \"$1\"";
        let outcome = browse(lab, script);
        assert!(outcome.out().contains("<p>marker</p>"), "{}\n{}", outcome.out(), outcome.tail());
        assert_seen(lab, &outcome);
    });
}

#[test]
fn chromium_shows_a_page_in_a_home_of_its_own() {
    Lab::test(|lab| {
        let script = "HOME=$(mktemp -d) && export HOME && trap 'rm -rf $HOME' EXIT && chromium \
                      --headless=new --no-sandbox --disable-gpu --user-data-dir=$HOME/u \
                      --dump-dom \"$1\"";
        let outcome = browse(lab, script);
        assert!(outcome.out().contains("<p>marker</p>"), "{}\n{}", outcome.out(), outcome.tail());
        assert_seen(lab, &outcome);
    });
}

#[test]
fn firefox_shows_a_page() {
    Lab::test(|lab| {
        let script = "firefox-esr --version; mkdir $HOME/firefox; firefox-esr --headless \
                      --no-remote --profile $HOME/firefox --screenshot $HOME/page.png \"$1\"; \
                      head -c 8 $HOME/page.png | tail -c 7";
        let outcome = browse(lab, script);
        assert!(outcome.out().contains("PNG"), "{}\n{}", outcome.out(), outcome.tail());
        assert_seen(lab, &outcome);
    });
}

#[test]
fn the_database_of_a_home_is_read_by_nss() {
    Lab::test(|lab| {
        let outcome = browse(lab, "certutil -L -d sql:$HOME/.pki/nssdb; ls -l $HOME/.pki/nssdb");
        let text = outcome.success().out();
        assert!(
            text.lines()
                .any(|line| line.starts_with("interceptor sandbox") && line.contains("C,,")),
            "{text}"
        );
    });
}
