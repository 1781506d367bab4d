//! `interceptor top` at a real terminal: a pseudoterminal, with an emulator that shows what is
//! written to it.

mod answers;
mod hostile;
mod lists;
mod lives;

use std::process::{Child, Command, Output};

use interceptor_tests::daemon::{Daemon, Guest};
use interceptor_tests::lab::Lab;
use interceptor_tests::sandbox::binary;
use interceptor_tests::terminal::Terminal;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const NEW: &str = "new.example.test";

/// `HOST` is permitted; everything else is asked about.
fn policy(lab: &Lab) -> Value {
    lab.permits(&json!({ "network": { "allow": [NEW] } }).to_string());
    json!({ "ask": {}, "network": { "allow": [HOST], "deny": ["*"] } })
}

fn daemon(lab: &Lab) -> Daemon<'_> {
    lab.unordered();
    lab.daemon().at_origin(HOST).at_origin(NEW).quiet_log().start()
}

/// The command, with a terminal's environment.
fn top(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("interceptor"));
    command.arg("top").args(arguments).current_dir(lab.work()).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", lab.work()).env("TERM", "xterm-256color");
    command.env("XDG_STATE_HOME", lab.directory().join("state"));
    command
}

/// A screen that follows a daemon, once it does.
#[track_caller]
fn follow(lab: &Lab, daemon: &Daemon<'_>) -> Terminal {
    let control = daemon.control().to_str().expect("a path of the test's own");
    let terminal = Terminal::start(&top(lab, &["--control", control]), 24, 80);
    terminal.wait_for("Nothing yet.");
    terminal
}

/// Starts curl, which prints the body and then the status.
fn curl(guest: &Guest<'_>, arguments: &[&str]) -> Child {
    guest
        .command("curl")
        .args(["-sS", "--max-time", "120", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(arguments)
        .spawn()
        .expect("curl")
}

/// The status that curl printed.
#[track_caller]
fn status(child: Child) -> String {
    let Output { stdout, stderr, .. } = child.wait_with_output().expect("curl");
    assert!(!stdout.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// Presses a key that answers the question on the screen, as soon as it does.
#[track_caller]
fn answer(terminal: &mut Terminal, key: &str, said: &str) {
    terminal.wait("a question that can be answered", |terminal| {
        terminal.is_bold("a approve  h for 1 hour")
    });
    terminal.press(key);
    terminal.wait(said, |terminal| terminal.rows().last().is_some_and(|last| last.contains(said)));
}

/// The questions that wait.
fn waiting(daemon: &Daemon<'_>) -> usize {
    daemon.call("GET", "/v1/approvals", "").json().as_array().map_or(0, Vec::len)
}

/// The leases of a sandbox.
fn leases(daemon: &Daemon<'_>, guest: &Guest<'_>) -> Value {
    daemon.call("GET", &format!("/v1/sandboxes/{}/leases", guest.id), "").json()
}
