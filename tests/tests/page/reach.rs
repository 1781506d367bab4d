//! No sandbox reaches a page: neither its own interceptor's nor another's, by any name of the host.
//! And the session outlives a takeover.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use interceptor_tests::cage::PYTHON;
use interceptor_tests::daemon::{Cgroup, Daemon, until};
use interceptor_tests::lab::Lab;
use interceptor_tests::visitor::{Visitor, invitation, parts};
use serde_json::{Value, json};

use super::{HOST, PAGE, daemon, policy};

/// Tries every way to the page, with a token and with a session, and prints what came of each:
/// `page` for anything of the page's own.
const WAYS: &str = r#"
import socket, sys
port, token, cookie = int(sys.argv[1]), sys.argv[2], sys.argv[3]
names = ['127.0.0.1', 'localhost', '0.0.0.0', '::1', '::ffff:127.0.0.1', '127.0.0.2', '::',
         'host.interceptor.internal', 'host.docker.internal', 'host.containers.internal']
head = (f'GET {token} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncookie: {cookie}\r\n'
        'connection: close\r\n\r\n')
raw = b'\0' + head.encode()
for name in names:
    for words in head.encode(), head.replace(token, '/').encode(), raw:
        said = b''
        try:
            with socket.create_connection((name, port), 30) as s:
                s.sendall(words)
                while part := s.recv(65536): said += part
        except OSError as error:
            pass
        ours = b'content-security-policy' in said.lower()
        print('page' if ours else 'refused', name, said[:60], flush=True)
"#;

/// Rules that name the page by every name.
fn permitting(address: SocketAddr) -> Value {
    let port = address.port();
    let mut allow: Vec<String> = ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]"]
        .iter()
        .flat_map(|name| [format!("{name}:{port}"), format!("tcp://{name}:{port}")])
        .collect();
    for name in ["interceptor", "docker", "containers"] {
        allow.push(format!("host.{name}.internal:{port}"));
    }
    allow.extend(["127.0.0.0/8".to_owned(), "*".to_owned()]);
    json!({ "network": { "allow": allow } })
}

/// Checks what the sandbox printed, and that the token was not used.
#[track_caller]
fn assert_refused(printed: &str, token: &str, visitor: &Visitor) {
    assert_eq!(printed.lines().count(), 30, "{printed}");
    assert!(printed.lines().all(|line| line.starts_with("refused ")), "{printed}");
    let stranger = Visitor::stranger(visitor.address);
    assert_eq!(stranger.get(token).status, 200, "nobody has used it");
}

#[test]
fn p9_no_sandbox_of_the_daemon_reaches_its_page() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let visitor = Visitor::of(&daemon);
        let guest = daemon.guest(&permitting(visitor.address));
        let (address, token) = parts(&invitation(&daemon));
        let (port, cookie) = (address.port().to_string(), visitor.cookie.clone().unwrap());
        let output = guest.run(PYTHON, &["-c", WAYS, &port, &token, &cookie]);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_refused(&printed, &token, &visitor);
        assert!(printed.contains("403 Forbidden") || printed.contains("HTTP/1.1 403"), "{printed}");
        let curl = guest.run("curl", &["-sS", &format!("http://127.0.0.1:{port}/")]);
        let said = String::from_utf8_lossy(&curl.stdout);
        assert!(said.contains("is the page of an interceptor"), "{curl:?}");
        daemon.finish();
    });
}

#[test]
fn p9_no_sandbox_of_another_interceptor_reaches_it() {
    for is_shared in [true, false] {
        Lab::test(|lab| {
            let daemon = daemon(lab);
            let visitor = Visitor::of(&daemon);
            let (address, token) = parts(&invitation(&daemon));
            let (port, cookie) = (address.port().to_string(), visitor.cookie.clone().unwrap());
            let sandbox = lab.sandbox(&permitting(address)).quiet_log();
            let sandbox = if is_shared { sandbox.host_net() } else { sandbox };
            let outcome = sandbox.run(&[PYTHON, "-c", WAYS, &port, &token, &cookie]);
            assert_refused(&outcome.success().out(), &token, &visitor);
            daemon.finish();
        });
    }
}

/// Connects before there is a sandbox, asks, and asks again when it is told to.
const BEFORE: &str = r#"
import socket, sys
port, cookie = int(sys.argv[1]), sys.argv[2]
s = socket.create_connection(('127.0.0.1', port), 60); s.settimeout(60)
def ask():
    try:
        s.sendall(f'HEAD / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncookie: {cookie}\r\n\r\n'.encode())
        said = s.recv(65536)
        print(said.split(b' ')[1].decode() if said else 'closed', flush=True)
    except OSError as error: print('closed', flush=True)
ask()
sys.stdin.readline()
ask()
"#;

#[test]
fn p9_a_connection_from_before_its_sandbox_is_of_the_sandbox() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let visitor = Visitor::of(&daemon);
        let cgroup = Cgroup::new();
        let mut command = cgroup.command(PYTHON);
        let cookie = visitor.cookie.clone().unwrap();
        command.args(["-u", "-c", BEFORE, &visitor.address.port().to_string(), &cookie]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut told, said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(said));
        let mut line = || lines.next().unwrap().unwrap();
        assert_eq!(line(), "200", "it is in no sandbox yet");
        let mut body = policy(lab);
        body["cgroup"] = json!(cgroup.path());
        let made = daemon.call("POST", "/v1/sandboxes", &body.to_string());
        assert_eq!(made.status, 201, "{made:?}");
        told.write_all(b"go on\n").unwrap();
        let second = line();
        assert!(["403", "closed"].contains(&second.as_str()), "{second}");
        child.wait().unwrap();
        assert_eq!(visitor.get("/").status, 200, "others go on");
        daemon.finish();
    });
}

/// Another daemon on the same socket, with this option.
fn successor<'lab>(lab: &'lab Lab, daemon: &Daemon<'_>, page: &str) -> Daemon<'lab> {
    let next = lab.daemon().at_origin(HOST).quiet_log().control(daemon.control().to_owned());
    next.option("--takeover").option(page).start()
}

#[test]
fn p9_the_session_outlives_a_takeover_and_an_unused_address_does_not() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let visitor = Visitor::of(&daemon);
        let (address, unused) = parts(&invitation(&daemon));
        let events = visitor.follow();
        events.wait_for("event: questions");
        let next = successor(lab, &daemon, &format!("--page={address}"));
        events.wait_for_end();
        daemon.finish();
        let page = visitor.get(&format!("/v1/sandboxes/{}/policy", guest.id));
        assert_eq!(page.status, 200, "{page:?}");
        let again = visitor.follow();
        again.wait_for(&guest.id);
        let stranger = Visitor::stranger(address);
        assert_eq!(stranger.get("/").status, 401);
        assert_eq!(stranger.get(&unused).status, 403, "it was the other daemon's");
        assert_eq!(Visitor::of(&next).get("/").status, 200);
        // Without the option there is no page any more, and with another address it is another.
        let third = successor(lab, &next, PAGE);
        next.finish();
        assert!(until(|| stranger.connect().is_err()), "somebody listens still");
        let elsewhere = Visitor::of(&third);
        assert_ne!(elsewhere.address, address);
        assert_eq!(elsewhere.get("/").status, 200);
        let elsewhere_as = Visitor { address: elsewhere.address, cookie: visitor.cookie };
        assert_eq!(elsewhere_as.get("/").status, 401);
        third.finish();
    });
}

#[test]
fn p9_a_page_that_cannot_be_taken_over_leaves_everything_as_it_was() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let visitor = Visitor::of(&daemon);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let page = format!("--page={}", taken.local_addr().unwrap());
        let next = lab.daemon().quiet_log().control(daemon.control().to_owned());
        let outcome = next.option("--takeover").option(page).fail();
        assert!(outcome.err().contains("cannot listen"), "{}", outcome.err());
        assert_eq!(visitor.get("/").status, 200);
        daemon.finish();
    });
}

#[test]
fn what_lets_a_browser_in_is_printed_and_opened_and_in_no_argument() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let directory = lab.directory().join("opener");
        std::fs::create_dir(&directory).unwrap();
        // It does what a browser does with such a file.
        let script = "#!/bin/sh\necho \"$@\" > \"$(dirname \"$0\")/arguments\"\n\
                      url=$(sed -n 's/.*url=\\([^\"]*\\)\".*/\\1/p' \"$1\")\n\
                      curl -s -o /dev/null -D \"$(dirname \"$0\")/head\" \"$url\"\n";
        let program = directory.join("xdg-open");
        std::fs::write(&program, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let ctl = |arguments: &[&str]| {
            let mut command = Command::new(interceptor_tests::sandbox::binary("interceptor"));
            command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", directory.display()));
            command.args(["ctl", "--control"]).arg(daemon.control()).args(arguments);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let printed = ctl(&["page"]);
        assert_eq!(Visitor::enters(&printed).get("/").status, 200);
        let json: Value = serde_json::from_str(&ctl(&["page", "--json"])).unwrap();
        assert_eq!(Visitor::enters(json["url"].as_str().unwrap()).get("/").status, 200);
        assert_eq!(ctl(&["page", "--open"]), "");
        let head = std::fs::read_to_string(directory.join("head")).unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("set-cookie"), "{head}");
        let arguments = std::fs::read_to_string(directory.join("arguments")).unwrap();
        assert!(!arguments.contains("token") && arguments.contains(".html"), "{arguments}");
        assert!(!std::path::Path::new(arguments.trim()).exists(), "it is removed");
        daemon.finish();
    });
}
