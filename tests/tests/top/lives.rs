//! How it begins, stops, goes on and ends, and what it does while daemons and runs come and go.

use std::process::{Command, Stdio};

use interceptor_tests::conversing::Conversing;
use interceptor_tests::lab::Lab;
use interceptor_tests::people::Account;
use interceptor_tests::sandbox::binary;
use interceptor_tests::terminal::Terminal;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{HOST, NEW, answer, curl, daemon, follow, policy, status, top};

#[test]
fn without_a_terminal_it_says_what_to_type_instead() {
    Lab::test(|lab| {
        let refused = top(lab, &[]).stdin(Stdio::null()).output().expect("interceptor top");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        for part in ["needs a terminal", "interceptor ps", "ctl approvals --watch"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(refused.stdout, b"");
        let mut command = top(lab, &[]);
        command.env("TERM", "dumb");
        let mut dumb = Terminal::start(&command, 24, 80);
        assert_eq!(dumb.end().code(), Some(2));
        assert!(dumb.is_as_before());
    });
}

#[test]
fn the_terminal_is_as_before_however_it_ends() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            let mut terminal = follow(lab, &daemon);
            assert!(terminal.is_taken() && !terminal.is_as_before());
            terminal.signal(signal);
            assert_eq!(terminal.end().code(), Some(0), "{signal}");
            terminal.wait("the terminal as before", Terminal::is_as_before);
        }
        daemon.finish();
    });
}

#[test]
fn it_stops_and_goes_on_as_a_shell_has_it() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let mut shell = Command::new("sh");
        shell.arg("-i").current_dir(lab.work()).env("PATH", "/usr/bin:/bin");
        shell.env("TERM", "xterm").env("HOME", lab.work()).env("PS1", "ready> ");
        let mut terminal = Terminal::start(&shell, 24, 80);
        terminal.wait_for("ready>");
        let program = binary("interceptor");
        let line = format!("{} top --control {}", program.display(), daemon.control().display());
        terminal.press(&format!("{line}\n"));
        terminal.wait_for("Nothing yet.");
        let held = curl(&guest, &[&format!("https://{NEW}/x")]);
        terminal.wait("a question", |terminal| terminal.is_bold("a approve  h for 1 hour"));
        terminal.press("\u{1a}");
        terminal.wait("the shell", |terminal| {
            terminal.text().contains("ready>") && !terminal.is_taken()
        });
        // What the shell was told does not answer a question.
        terminal.press("fg\n");
        terminal.wait("the screen again", |terminal| {
            terminal.is_taken() && terminal.text().contains("Waiting for you: 1 question")
        });
        answer(&mut terminal, "a", "approved");
        assert_eq!(status(held), "200");
        terminal.press("q");
        let again = |terminal: &Terminal| terminal.text().matches("ready>").count() == 3;
        terminal.wait("the shell again", |terminal| !terminal.is_taken() && again(terminal));
        terminal.press("exit\n");
        terminal.end();
        daemon.finish();
    });
}

#[test]
fn it_goes_on_with_a_daemon_that_takes_over_and_with_one_that_is_started_again() {
    Lab::test(|lab| {
        let before = daemon(lab);
        let guest = before.guest(&policy(lab));
        let control = before.control().to_owned();
        let mut terminal = follow(lab, &before);
        assert_eq!(status(curl(&guest, &[&format!("https://{HOST}/before")])), "200");
        terminal.wait_for(&format!("{HOST}/before"));
        let start = || {
            let start = lab.daemon().at_origin(HOST).at_origin(NEW).quiet_log();
            start.control(control.clone())
        };
        let next = start().option("--takeover").start();
        let held = curl(&guest, &[&format!("https://{NEW}/x")]);
        terminal.wait_for("Waiting for you: 1 question");
        assert_eq!(terminal.text().matches(&format!("{HOST}/before")).count(), 1);
        answer(&mut terminal, "a", "approved");
        assert_eq!(status(held), "200");
        before.finish();
        next.finish();
        terminal.wait_for("does not answer, trying again");
        terminal.wait_for(" 0 sandboxes  0 waiting");
        let again = start().start();
        terminal.wait("it answers", |terminal| !terminal.text().contains("does not answer"));
        terminal.press("q");
        assert_eq!(terminal.end().code(), Some(0));
        again.finish();
    });
}

#[test]
fn the_users_own_runs_are_found_answered_and_gone() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let document = json!({ "ask": {}, "network": { "allow": ["own.test"] } });
        let policy = account.file("policy.json", &document.to_string());
        let options = ["-q", "--name", account.name(), "--policy", policy.to_str().unwrap()];
        let said = lab.directory().join("said");
        let before = "unset XDG_RUNTIME_DIR";
        let line = format!("{before}; TERM=xterm exec \"$1\" top");
        let program = binary("interceptor");
        let shell = account.shell(&line, &[program.to_str().expect("a path of the test's own")]);
        let mut terminal = Terminal::start(&shell, 24, 80);
        terminal.wait_for("You have no run");
        let mut run = Conversing::start(&account, before, &options, &said);
        terminal.wait_for("1 sandbox");
        std::thread::scope(|scope| {
            let ask = "curl -s -m 100 -o /dev/null -w '%{http_code}\\n' http://other.test/";
            let waiting = scope.spawn(|| run.inside(ask));
            terminal.wait_for("Waiting for you: 1 question");
            answer(&mut terminal, "r", "refused");
            assert_eq!(waiting.join().expect("an answer"), "403");
        });
        assert_eq!(run.end(), "");
        terminal.wait_for(&format!("the run {} has ended", account.name()));
        terminal.press("q");
        assert_eq!(terminal.end().code(), Some(0));
    });
}
