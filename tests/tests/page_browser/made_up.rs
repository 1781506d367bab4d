//! What no sandbox of a test sends in reasonable time, or at all, reaches the page as its stream of
//! events would bring it: ten thousand rows, and texts that are markup. The page, its way in and
//! every other answer are the daemon's own.

use interceptor_tests::browser::Browser;
use serde_json::{Value, json};

/// A stream: each event with its data. It ends, and the browser asks again after so many
/// milliseconds.
pub(super) fn stream(events: &[(&str, Value)], again: u64) -> String {
    let mut text = format!("retry: {again}\n\n");
    for (name, data) in events {
        text.push_str(&format!("event: {name}\ndata: {data}\n\n"));
    }
    text
}

/// The events that a stream begins with.
pub(super) fn beginning(questions: &[Value]) -> Vec<(&'static str, Value)> {
    let sandbox = json!({
        "id": "agent-7", "cgroup": "/sys/fs/cgroup/agent-7", "created": "2030-01-31T12:00:00Z",
        "policy_changed": "2030-01-31T12:00:00Z", "policy_file": "/etc/p.json",
        "allowed": 9000, "denied": 1000,
    });
    vec![
        ("hello", json!({ "version": "0", "now": "2030-01-31T12:05:00.000Z" })),
        ("sandboxes", json!({ "sandboxes": [sandbox], "more": 0 })),
        ("leases", json!([])),
        ("questions", json!(questions)),
    ]
}

/// A record of a request.
pub(super) fn record(number: usize) -> Value {
    let is_refused = number.is_multiple_of(10);
    json!({
        "ts": format!("2030-01-31T12:0{}:{:02}.{:06}Z", number / 2500, number / 42 % 60, number),
        "sandbox": "agent-7", "id": format!("r{number}"), "kind": "request",
        "decision": if is_refused { "deny" } else { "allow" },
        "host": "api.example.test", "port": 443, "method": "GET",
        "path": format!("/items/{number}"), "status": if is_refused { 403 } else { 200 },
        "duration_ms": 12.5,
    })
}

/// Has the browser get the first stream, and the others one after the other once a step calls
/// `globalThis.goOn()`; the last again and again.
#[track_caller]
pub(super) fn streams(browser: &mut Browser, streams: &[String]) {
    let step = "
        let next = 0;
        const going = new Promise((goOn) => { globalThis.goOn = goOn; });
        await page.route('**/v1/events', async (route) => {
          if (next > 0) await going;
          const body = args[Math.min(next, args.length - 1)];
          next += 1;
          return route.fulfill({ status: 200, contentType: 'text/event-stream', body });
        });";
    browser.does(step, json!(streams));
}
