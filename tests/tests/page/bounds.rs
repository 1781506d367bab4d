//! What a visitor can cost: connections, heads, bodies, streams, each has its bound. And what the
//! page is, where it cannot be.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use interceptor_tests::cage::PYTHON;
use interceptor_tests::daemon::until;
use interceptor_tests::lab::Lab;
use interceptor_tests::sandbox::binary;
use interceptor_tests::visitor::{Visitor, invitation, parts};

use super::whose::told;
use super::{daemon, policy};

#[test]
fn p9_what_is_too_large_is_refused() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let visitor = Visitor::of(&daemon);
        let large = "a".repeat(100_000);
        for target in ["/v1/approvals/x", &format!("/v1/sandboxes/{}/story", guest.id)] {
            let said = visitor.ask("POST", target, &["x-interceptor-request: 1"], &large);
            assert_eq!(said.status, 413, "{target}: {said:?}");
        }
        let chunked = format!(
            "POST /v1/approvals/x HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\nconnection: close\r\n\
             x-interceptor-request: 1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\
             \r\n",
            visitor.address,
            visitor.cookie.as_deref().unwrap(),
            large.len()
        );
        assert_eq!(visitor.sends(chunked.as_bytes()).status, 413);
        let said = visitor.ask("GET", "/", &[&format!("x: {large}")], "");
        assert!([0, 431].contains(&said.status), "{said:?}");
        assert!(visitor.get("/").status == 200, "it goes on");
        daemon.finish();
    });
}

#[test]
fn p9_those_who_send_nothing_or_read_nothing_take_no_place_for_long() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let visitor = Visitor::of(&daemon);
        let stranger = Visitor::stranger(visitor.address);
        // More than there are places, each with a head that does not end.
        let mut idle = Vec::new();
        for number in 0..80 {
            let Ok(mut stream) = stranger.connect() else { continue };
            let head = if number % 2 == 0 { "GET / HTTP/1.1\r\nhost: x\r\n" } else { "" };
            let _ = stream.write_all(head.as_bytes());
            idle.push(stream);
        }
        assert!(until(|| visitor.get("/").status == 200), "the places are free again");
        for mut stream in idle {
            // Each was closed: with an answer (408), or without.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        }
        daemon.finish();
    });
}

/// Holds as many connections as it can, and opens each again that is closed. It says so once all
/// were made, and ends with its input.
const HOLDS: &str = r#"
import socket, sys, threading, time
address = ('127.0.0.1', int(sys.argv[1]))
threading.Thread(target=lambda: (sys.stdin.read(), __import__('os')._exit(0)), daemon=True).start()
held, said = [], False
while True:
    while len(held) < 80:
        s = socket.create_connection(address, 60)
        s.setblocking(False)
        held.append(s)
    if not said: print('held', flush=True)
    said = True
    time.sleep(0.5)
    for s in list(held):
        try:
            if s.recv(4096) == b'': held.remove(s)
        except BlockingIOError: pass
        except OSError: held.remove(s)
"#;

#[test]
fn p9_a_user_who_holds_every_place_of_strangers_keeps_nobody_out() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let visitor = Visitor::of(&daemon);
        let (_, token) = parts(&invitation(&daemon));
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups", PYTHON, "-c", HOLDS]);
        command.arg(visitor.address.port().to_string()).env_clear().current_dir("/");
        let mut holding =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv");
        let mut line = String::new();
        let said = holding.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        for number in 0..20 {
            let said = visitor.get("/");
            assert_eq!(said.status, 200, "{number}: {said:?}");
        }
        // Nor is another one kept out who comes for the first time.
        let said = told(54_322, &Visitor::stranger(visitor.address), &token);
        assert_eq!(said.status, 200, "{said:?}");
        drop(holding.stdin.take());
        holding.wait().unwrap();
        daemon.finish();
    });
}

#[test]
fn p9_so_many_pages_are_open_at_once_and_the_next_is_told() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let visitor = Visitor::of(&daemon);
        let open: Vec<_> = (0..16).map(|_| visitor.follow()).collect();
        open.iter().for_each(|stream| stream.wait_for("event: questions"));
        let next = visitor.get("/v1/events");
        assert_eq!(next.status, 503, "{next:?}");
        drop(open);
        let is_free = || {
            let again = visitor.follow();
            until(|| again.text().contains("\r\n\r\n"));
            again.text().starts_with("HTTP/1.1 200")
        };
        assert!(until(is_free), "a place is free again");
        daemon.finish();
    });
}

#[test]
fn the_page_is_for_this_host_alone_and_has_an_address_of_its_own() {
    Lab::test(|lab| {
        for (wrong, why) in [
            ("--page=0.0.0.0:7878", "not a loopback address"),
            ("--page=192.0.2.1:7878", "not a loopback address"),
            ("--page=nowhere", "invalid"),
        ] {
            let outcome = lab.daemon().option(wrong).quiet_log().fail();
            assert!(outcome.err().contains(why), "{wrong}: {}", outcome.err());
        }
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let outcome = lab.daemon().option(format!("--page={address}")).quiet_log().fail();
        assert!(outcome.err().contains("cannot listen"), "{}", outcome.err());
        // Without a page, there is none to let in to.
        let daemon = lab.daemon().quiet_log().start();
        daemon.call("GET", "/v1/page", "").problem(404);
        let mut ctl = Command::new(binary("interceptor"));
        ctl.env_clear().args(["ctl", "--control"]).arg(daemon.control()).arg("page");
        let said = ctl.output().unwrap();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains("--page"), "{said:?}");
        daemon.finish();
    });
}
