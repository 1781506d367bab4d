//! The screen as a whole: what it shows at which size, and what keys do to it. What a real terminal
//! makes of it is tested with the product (`tests/tests/top`).

use std::time::{Duration, Instant};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::draw::{self, Setting};
use super::heard::{Ask, Heard, Told};
use super::keys;
use super::screen::{Asks, Screen};
use super::text::Plain;
use super::theme::Theme;

/// A screen, at its terminal and time.
struct Shown {
    screen: Screen,
    terminal: Terminal<TestBackend>,
    now: Instant,
}

impl Shown {
    fn new(width: u16, height: u16) -> Shown {
        let terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut shown = Shown { screen: Screen::default(), terminal, now: Instant::now() };
        shown.screen.store.add(0, Plain::of("the daemon"), false);
        shown.hear("hello", json!({}));
        shown
    }

    fn hear(&mut self, name: &str, data: Value) {
        let heard = Heard::read(name, &data.to_string()).unwrap();
        self.screen.hear(0, heard, self.now);
    }

    fn ask(&mut self, sandbox: &str, id: &str, path: &str) {
        let patch =
            |path: &str| json!([{ "op": "add", "path": "/network/allow/-", "value": path }]);
        let question = json!({
            "id": id, "sandbox": sandbox, "asked_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-01T00:05:00Z", "host": "new.test", "port": 443,
            "method": "GET", "path": path, "type": "host_denied", "waiting": 1,
            "message": "no rule permits new.test",
            "patches": [{ "patch": patch("new.test:443"), "wider": false },
                        { "patch": patch("*.test:443"), "wider": true }],
        });
        self.hear("question", json!({ "event": "asked", "question": question }));
    }

    fn records(&mut self, count: usize) {
        let of = |number: usize| {
            json!({ "ts": "2026-01-01T00:00:00Z", "id": format!("r{number}"), "kind": "request",
                    "decision": if number.is_multiple_of(5) { "deny" } else { "allow" },
                    "sandbox": "web", "host": format!("h{number}.test"), "port": 443,
                    "method": "GET", "path": "/v1/models", "status": 200 })
        };
        self.hear("records", (0..count).map(of).collect::<Vec<_>>().into());
    }

    /// Draws, and returns the rows.
    fn rows(&mut self) -> Vec<String> {
        let time: Timestamp = "2026-01-01T00:00:30Z".parse().unwrap();
        let setting = Setting { theme: Theme { colours: true }, now: self.now, time };
        self.terminal.draw(|frame| draw::draw(frame, &mut self.screen, setting)).unwrap();
        let buffer = self.terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
        cells.chunks(width).map(|row| row.concat()).collect()
    }

    fn text(&mut self) -> String {
        self.rows().join("\n")
    }

    fn press(&mut self, code: KeyCode) -> Asks {
        keys::press(&mut self.screen, KeyEvent::new(code, KeyModifiers::NONE), self.now)
    }

    fn type_in(&mut self, text: &str) -> Asks {
        text.chars().flat_map(|one| self.press(KeyCode::Char(one))).collect()
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    /// Draws, and lets what is drawn stand.
    fn settle(&mut self) {
        self.rows();
        self.wait(800);
        self.rows();
    }
}

#[track_caller]
fn decided(asks: &Asks) -> (&str, &Value) {
    match asks.as_slice() {
        [(0, Ask::Decide { question, body })] => (question, body),
        other => panic!("{other:?}"),
    }
}

#[test]
fn eighty_by_twenty_four_holds_what_waits_and_what_happens() {
    let mut shown = Shown::new(80, 24);
    shown.hear("sandboxes", json!({ "sandboxes": [{ "id": "web", "allowed": 5, "denied": 1 }] }));
    shown.records(100);
    shown.ask("web", "q", "/simple/a-package/");
    let rows = shown.rows();
    assert_eq!(rows.len(), 24);
    assert!(rows[0].contains("1 sandbox  1 waiting  5 allowed  1 refused"), "{rows:#?}");
    assert!(rows[1].contains("Waiting for you: 1 question"), "{rows:#?}");
    let all = rows.join("\n");
    for part in [
        "> web  4:30    1 waits GET     new.test/simple/a-package/",
        "  GET new.test/simple/a-package/",
        "no rule permits new.test",
        "To permit these alone (1 of 2, w): add \"new.test:443\" to /network/allow",
        "a approve  h for 1 hour  t time  u uses  A always  w wider  r refuse",
        "Requests: 100",
        "allowed web  200 GET     h99.test/v1/models",
    ] {
        assert!(all.contains(part), "{part}: {rows:#?}");
    }
    assert!(rows[23].contains("q quit"), "{rows:#?}");
    let listed = rows.iter().filter(|row| row.contains(".test/v1/models")).count();
    assert!(listed >= 10, "{rows:#?}");
    // Forty columns and ten rows still do.
    let mut small = Shown::new(40, 10);
    small.ask("web", "q", "/x");
    assert!(small.text().contains("Waiting for you"), "{:#?}", small.rows());
    assert!(Shown::new(39, 10).text().contains("at least 40 x 10"));
}

#[test]
fn each_answer_is_for_what_was_shown() {
    let decide = |keys: &str, enter: bool| {
        let mut shown = Shown::new(80, 24);
        shown.hear("sandboxes", json!({ "sandboxes": [{ "id": "web", "policy_file": "/p" }] }));
        shown.ask("web", "q", "/x");
        shown.settle();
        let mut asks = Vec::new();
        for one in keys.chars() {
            asks = shown.press(KeyCode::Char(one));
            shown.settle();
        }
        if enter { shown.press(KeyCode::Enter) } else { asks }
    };
    let body = |value: &str, more: Value| {
        let mut body = json!({ "decision": "allow", "patch": [
            { "op": "add", "path": "/network/allow/-", "value": value }] });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    assert_eq!(decided(&decide("a", false)).1, &body("new.test:443", json!({ "uses": 1 })));
    assert_eq!(decided(&decide("h", false)).1, &body("new.test:443", json!({ "seconds": 3600 })));
    assert_eq!(decided(&decide("wa", false)).1, &body("*.test:443", json!({ "uses": 1 })));
    assert_eq!(decided(&decide("t15m", true)).1, &body("new.test:443", json!({ "seconds": 900 })));
    assert_eq!(decided(&decide("wu20", true)).1, &body("*.test:443", json!({ "uses": 20 })));
    assert_eq!(decided(&decide("oa", false)).1, &body("new.test:443", json!({ "uses": 1 })));
    assert_eq!(decided(&decide("r", false)), ("q", &json!({ "decision": "deny" })));
    let always = decide("A", false);
    assert!(matches!(always.as_slice(), [(0, Ask::Always { sandbox, .. })] if sandbox == "web"));
    for (wrong, enter) in [("t", true), ("txy", true), ("u0", true), ("x", false), ("ww", false)] {
        assert!(decide(wrong, enter).is_empty(), "{wrong}");
    }
}

#[test]
fn p9_keys_typed_ahead_answer_nothing() {
    let mut shown = Shown::new(80, 24);
    // Before anything is drawn, and right after.
    shown.ask("web", "q", "/x");
    assert!(shown.type_in("aAhrtu").is_empty());
    shown.rows();
    assert!(shown.type_in("aAhr").is_empty());
    shown.wait(799);
    assert!(shown.press(KeyCode::Char('a')).is_empty());
    assert!(shown.text().contains("not answered"), "{:#?}", shown.rows());
    shown.wait(1);
    assert_eq!(decided(&shown.press(KeyCode::Char('a'))).0, "q");
    // What takes its place has to stand there first, and one answer at a time is under way.
    shown.ask("web", "next", "/y");
    shown.screen.told(Told::Done(Plain::of("approved")));
    assert!(shown.press(KeyCode::Char('a')).is_empty());
    shown.settle();
    assert_eq!(decided(&shown.press(KeyCode::Char('a'))).0, "next");
    assert!(shown.press(KeyCode::Char('a')).is_empty());
    // A question that was out of sight, too.
    shown.screen.told(Told::Failed(Plain::of("no")));
    shown.press(KeyCode::Char('2'));
    shown.rows();
    shown.press(KeyCode::Char('1'));
    assert!(shown.press(KeyCode::Char('a')).is_empty());
    // What is pasted is no key.
    shown.settle();
    keys::paste(&mut shown.screen, "aaa\n");
    assert!(shown.screen.deciding.is_none());
}

#[test]
fn p9_what_is_not_seen_whole_is_not_approved() {
    let mut shown = Shown::new(80, 24);
    shown.ask("web", "q", &format!("/{}/the-end", "x".repeat(3000)));
    shown.settle();
    assert!(shown.text().contains("Not all of it fits here: press o"), "{:#?}", shown.rows());
    for key in ['a', 'h', 'A', 'r'] {
        assert!(shown.press(KeyCode::Char(key)).is_empty());
    }
    shown.press(KeyCode::Char('o'));
    shown.settle();
    shown.press(KeyCode::PageDown);
    shown.press(KeyCode::PageDown);
    shown.rows();
    assert!(shown.text().contains("/the-end"), "{:#?}", shown.rows());
    assert_eq!(decided(&shown.press(KeyCode::Char('a'))).0, "q");
}

#[test]
fn o2_nothing_that_a_sandbox_chose_moves_or_hides_a_row() {
    let hostile = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{202e}\u{200b}\u{301}日\u{1f600}\u{9b}31m";
    let mut shown = Shown::new(80, 24);
    shown.hear("sandboxes", json!({ "sandboxes": [{ "id": hostile, "command": hostile }] }));
    shown.ask(hostile, "q", hostile);
    shown.hear(
        "leases",
        json!([{ "sandbox": hostile, "id": "l", "by": hostile, "patch": [
        { "op": "add", "path": hostile, "value": hostile }] }]),
    );
    let record = json!({ "ts": hostile, "kind": "request", "decision": "deny", "id": "r",
        "sandbox": hostile, "host": hostile, "method": hostile, "path": hostile, "rule": hostile,
        hostile: hostile });
    shown.hear("records", json!([record]));
    let check = |shown: &mut Shown| {
        for row in shown.rows() {
            assert_eq!(row.len(), 80, "{row}");
            assert!(row.chars().all(|one| (' '..='~').contains(&one)), "{row}");
        }
    };
    check(&mut shown);
    shown.press(KeyCode::Char('o'));
    check(&mut shown);
    shown.press(KeyCode::Esc);
    let asks = shown.press(KeyCode::Enter);
    assert!(matches!(asks.as_slice(), [(0, Ask::Story { .. })]));
    check(&mut shown);
    let story = json!({ "decision": "deny", "message": hostile, "edit": hostile, "patches": [] });
    shown.screen.told(Told::Story { record: 0, story });
    check(&mut shown);
    let details = json!({ "policy": { hostile: [hostile] }, "policy_file": hostile });
    shown.screen.told(Told::Policy { sandbox: hostile.to_owned(), marked: None, details });
    check(&mut shown);
    shown.press(KeyCode::Esc);
    for view in ['2', '3'] {
        shown.press(KeyCode::Char(view));
        check(&mut shown);
    }
    shown.screen.told(Told::Failed(Plain::of(hostile)));
    check(&mut shown);
    shown.screen.hear(0, Heard::Broken(Plain::of(hostile)), shown.now);
    check(&mut shown);
}

#[test]
fn p9_a_flood_of_questions_hides_no_other_sandboxs() {
    let mut shown = Shown::new(80, 24);
    for number in 0..64 {
        shown.ask("flood", &format!("f{number:02}"), &format!("/{number}"));
    }
    shown.ask("real", "r", "/the-real-one");
    let text = shown.text();
    assert!(text.contains("/the-real-one"), "{:#?}", shown.rows());
    assert!(text.contains("58 more of the same sandboxes"), "{:#?}", shown.rows());
}

#[test]
fn ten_thousand_rows_are_drawn_as_quickly_as_a_screen_is() {
    let mut shown = Shown::new(80, 24);
    shown.records(10_000);
    assert!(shown.text().contains("Requests: 10,000"));
    shown.press(KeyCode::End);
    assert!(shown.text().contains("h0.test"), "{:#?}", shown.rows());
    shown.type_in("/h123");
    shown.press(KeyCode::Enter);
    assert!(shown.text().contains("Requests: 11 of 10,000  with \"h123\""), "{:#?}", shown.rows());
    shown.press(KeyCode::Esc);
    shown.press(KeyCode::Char('d'));
    assert!(shown.text().contains("Requests: 2,000 of 10,000  refused only"));
    shown.press(KeyCode::Char('p'));
    shown.hear("records", json!([{ "kind": "request", "decision": "deny", "sandbox": "new" }]));
    assert!(shown.text().contains("PAUSED, 1 new"), "{:#?}", shown.rows());
    shown.press(KeyCode::Char('p'));
    shown.press(KeyCode::Home);
    shown.press(KeyCode::Char('s'));
    assert!(shown.text().contains("refused only  of new"), "{:#?}", shown.rows());
}

#[test]
fn a_story_tells_what_would_permit_and_permits_it() {
    let mut shown = Shown::new(80, 24);
    let record = json!({ "ts": "2026-01-01T00:00:00Z", "id": "r", "kind": "request",
        "decision": "deny", "type": "host_denied", "sandbox": "web", "host": "new.test",
        "port": 443, "method": "GET", "path": "/x", "filter": "network", "rule": "*" });
    shown.hear("records", json!([record]));
    shown.press(KeyCode::Enter);
    assert!(shown.press(KeyCode::Char('h')).is_empty(), "nothing is known of it yet");
    let patch = json!([{ "op": "add", "path": "/network/allow/-", "value": "new.test:443" }]);
    let story = json!({ "decision": "deny", "message": "no rule permits new.test",
        "rule": { "text": "*", "pointer": "/network/deny/0" }, "edit": "add",
        "patches": [{ "patch": patch, "wider": false }],
        "policy": { "network": { "deny": ["*"] } } });
    shown.screen.told(Told::Story { record: 0, story });
    let text = shown.text();
    for part in [
        "To permit   add \"new.test:443\" to /network/allow   (h: for 1 hour)",
        "refused by the network rules, by the rule * (host_denied), line 4",
        "Sent        nothing left the sandbox",
        "The whole record",
    ] {
        assert!(text.contains(part), "{part}: {:#?}", shown.rows());
    }
    let asks = shown.press(KeyCode::Char('l'));
    assert!(matches!(asks.as_slice(), [(0, Ask::Policy { marked: Some(_), .. })]));
    let asks = shown.press(KeyCode::Char('h'));
    let [(0, Ask::Lease { sandbox, body })] = asks.as_slice() else { panic!("{asks:?}") };
    assert_eq!((sandbox.as_str(), body), ("web", &json!({ "patch": patch, "seconds": 3600 })));
}

#[test]
fn leases_and_sandboxes_are_shown_and_revoked() {
    let mut shown = Shown::new(80, 24);
    shown.hear(
        "sandboxes",
        json!({ "sandboxes": [
        { "id": "web", "user": "me", "command": "my-agent", "policy_name": "p.json" }] }),
    );
    shown.hear("counts", json!([["web", 12, 3]]));
    shown.hear(
        "leases",
        json!([{ "sandbox": "web", "id": "l1", "by": "uid:0", "uses": 4,
        "until": "2026-01-01T00:10:00Z", "patch": [
            { "op": "add", "path": "/network/allow/-", "value": "new.test" }] }]),
    );
    shown.press(KeyCode::Char('2'));
    let text = shown.text();
    assert!(text.contains("12        3 0        me: my-agent  p.json"), "{:#?}", shown.rows());
    let asks = shown.press(KeyCode::Enter);
    assert!(matches!(asks.as_slice(), [(0, Ask::Policy { sandbox, .. })] if sandbox == "web"));
    shown.press(KeyCode::Char('3'));
    let text = shown.text();
    assert!(text.contains("9:30       4 left     uid:0      add \"new.test\""), "{text}");
    let asks = shown.press(KeyCode::Char('x'));
    assert!(matches!(asks.as_slice(), [(0, Ask::Revoke { lease, .. })] if lease == "l1"));
}

#[test]
fn who_does_not_answer_is_said_and_the_keys_are_told() {
    let mut shown = Shown::new(80, 24);
    shown.screen.hear(0, Heard::Broken(Plain::of("gone")), shown.now);
    assert!(shown.text().contains("the daemon does not answer, trying again: gone"));
    shown.hear("hello", json!({}));
    assert!(!shown.text().contains("does not answer"));
    shown.screen.store.add(1, Plain::of("the run web"), true);
    shown.screen.hear(1, Heard::Ended, shown.now);
    assert!(shown.text().contains("the run web has ended"));
    shown.press(KeyCode::Char('?'));
    assert!(shown.text().contains("approve: the requests that wait go on"));
    shown.press(KeyCode::Esc);
    assert!(shown.text().contains("Nothing yet."));
    shown.press(KeyCode::Char('q'));
    assert!(shown.screen.is_over);
}
