//! Keys that a sandbox gets while answers stream to it: they are searched for in what is left of
//! each answer, or the answer ends.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Child;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interceptor_tests::Lab;
use interceptor_tests::audit::Record;
use interceptor_tests::daemon::{Guest, until};
use interceptor_tests::running::Running;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const OTHER: &str = "other.example.test";

/// The answers that are open: the file that each is written to, and the command that reads it. The
/// length that one of them announces is LONG.
const OPEN: [(&str, &str); 5] = [
    ("h1", "curl -sSN --http1.1 https://OTHER/said"),
    ("h2", "curl -sSN --http2 https://HOST/said"),
    ("gzip", "curl -sSN --http1.1 'https://HOST/said?encoding=gzip'"),
    ("fixed", "curl -sSN --http2 https://OTHER/said/LONG"),
    ("socket", "/usr/bin/python3 -c \"$SOCKET\""),
];

/// Reads the messages of a WebSocket.
const SOCKET: &str = r"
import socket, ssl, sys
s = ssl.create_default_context().wrap_socket(
    socket.create_connection(('HOST', 443)), server_hostname='HOST')
s.sendall(b'GET /ws HTTP/1.1\r\nhost: HOST\r\nconnection: Upgrade\r\nupgrade: websocket\r\n'
          b'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n')
r = s.makefile('rb')
while r.readline().strip(): pass
s.sendall(b'\x81\x84\0\0\0\0said')
try:
    while frame := r.read(2):
        length = frame[1] & 127
        if length == 126: length = int.from_bytes(r.read(2), 'big')
        sys.stdout.buffer.write(r.read(length)); sys.stdout.flush()
except (ConnectionError, ssl.SSLError): pass
";

fn policy(key: &Value) -> Value {
    json!({ "network": { "allow": [HOST, OTHER] },
            "credentials_v2": { "lab": { "key": key, "hosts": [HOST], "env": "LAB_API_KEY" } } })
}

/// What the open answers say, and what of it the sandbox sees.
struct Said {
    second: String,
    half: usize,
}

impl Said {
    /// Up to the middle of the key, which nobody knows yet.
    fn before(&self) -> Vec<String> {
        vec!["begun\n\n".into(), format!("then {}", &self.second[..self.half])]
    }

    /// The rest, in pieces.
    fn after(&self) -> Vec<String> {
        let mut pieces = vec![format!("{}.\n", &self.second[self.half..])];
        pieces.push(format!("Bearer {}\n", self.second));
        pieces.extend(self.second.chars().map(String::from));
        pieces.push(format!("\n{}\n\n", STANDARD.encode(format!("me:{}", self.second))));
        pieces
    }

    fn length(&self) -> usize {
        self.before().iter().chain(&self.after()).map(String::len).sum()
    }

    /// What is seen of it with this in the place of the key.
    fn seen(&self, placeholder: &str) -> String {
        let encoded = STANDARD.encode(format!("me:{placeholder}"));
        let text = ["begun\n\nthen ", ".\nBearer ", "\n", "\n"].join(placeholder);
        Said::comparable(&format!("{text}{encoded}\n\n")).to_owned()
    }

    /// All but the last characters of base64, which stand for bits of other bytes too.
    fn comparable(text: &str) -> &str {
        text.get(..text.len().saturating_sub("AAA=\n\n".len())).unwrap_or_default()
    }
}

/// A sandbox with open answers, which asks for what each line of its standard input names.
struct Client<'lab> {
    lab: &'lab Lab,
    running: Running<'lab>,
    asked: usize,
}

impl<'lab> Client<'lab> {
    fn start(lab: &'lab Lab, policy: &Value, length: usize) -> Client<'lab> {
        let mut script = format!("SOCKET=\"$(cat <<'E'{SOCKET}\nE\n)\"\necho \"$LAB_API_KEY\"\n");
        for (file, command) in OPEN {
            script.push_str(&format!("{command} > {file} &\n"));
        }
        script.push_str(
            "n=0; while read line; do n=$((n+1)); curl -sS -o answer https://HOST/$line; \
             echo \"asked $n.\"; done; wait",
        );
        let script = script.replace("LONG", &length.to_string()).replace("HOST", HOST);
        let script = script.replace("OTHER", OTHER);
        let sandbox = lab.sandbox(policy).trusted().at_origin(HOST).at_origin(OTHER);
        let sandbox = sandbox.open_stdin();
        Client { lab, running: sandbox.start(&["sh", "-c", &script]), asked: 0 }
    }

    /// Asks for a path, until the request carries this key.
    #[track_caller]
    fn ask_until(&mut self, path: &str, key: &str) {
        let authorized = format!("Bearer {key}");
        let is_sent = |lab: &Lab| {
            let seen = lab.seen();
            let last = seen.iter().rfind(|seen| seen.path == format!("/{path}"));
            last.is_some_and(|last| last.values("authorization") == [&authorized[..]])
        };
        for _ in 0..600 {
            self.asked += 1;
            self.running.write(format!("{path}\n").as_bytes());
            self.running.wait_for(&format!("asked {}.\n", self.asked));
            if is_sent(self.lab) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the key does not come");
    }
}

/// Has the key replaced while answers are open that show the new one, from its middle on.
fn check(lab: &Lab, key: &Value, second: &str, rotate: impl FnOnce(&mut Client<'_>)) {
    lab.unordered();
    let said = Said { second: second.to_owned(), half: 20 };
    let mut client = Client::start(lab, &policy(key), said.length());
    said.before().into_iter().for_each(|piece| lab.say(piece));
    // All but what may be the beginning of a key, which the end of a message lets go.
    for (file, _) in OPEN {
        let shown = || fs::read_to_string(lab.work().join(file)).unwrap_or_default();
        assert!(until(|| shown().starts_with("begun\n\nthen ")), "{file}: {}", shown());
    }
    client.ask_until("v1/first", lab.key());
    rotate(&mut client);
    client.ask_until("v1/second", second);
    said.after().into_iter().for_each(|piece| lab.say(piece));
    lab.say("");
    let outcome = client.running.finish();
    let placeholder = outcome.success().out().lines().next().unwrap().to_owned();
    let fitted = format!("{placeholder:-<0$.0$}", second.len());
    for (file, _) in OPEN {
        let shown = fs::read_to_string(lab.work().join(file)).unwrap();
        match file {
            // Its message cannot be rewritten.
            "socket" => assert_eq!(shown, said.before().concat(), "{file}"),
            "fixed" => assert_eq!(Said::comparable(&shown), said.seen(&fitted), "{file}"),
            _ => assert_eq!(Said::comparable(&shown), said.seen(&placeholder), "{file}"),
        }
    }
    let echoed = |record: &&Record| {
        matches!(record.path.as_deref(), Some("/said" | "/ws"))
            || record.path.as_deref().is_some_and(|path| path.starts_with("/said/"))
    };
    let records = outcome.requests("allow");
    let records: Vec<_> = records.into_iter().filter(echoed).collect();
    assert_eq!(records.len(), OPEN.len());
    for record in records {
        let keys = if record.path.as_deref() == Some("/ws") { 1 } else { 4 };
        let found = (record.reason.as_deref(), record.key_echoed);
        assert_eq!(found, (Some("key_echoed"), Some(keys)), "{record:?}");
    }
}

/// A program of root's that prints what the file beside it holds.
fn program(lab: &Lab) -> (PathBuf, PathBuf) {
    let directory = lab.directory().join("programs");
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let (program, key) = (directory.join("token"), directory.join("key"));
    fs::write(&program, "#!/bin/sh\nexec cat \"$(dirname \"$0\")/key\"\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    put(&key, lab.key());
    (program, key)
}

/// Replaces a key file.
fn put(path: &std::path::Path, key: &str) {
    let next = path.with_extension("next");
    fs::write(&next, format!("{key}\n")).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(next, path).unwrap();
}

#[test]
fn c3_a_key_that_a_program_prints_while_answers_stream_is_searched_for_in_them() {
    for ending in ["", "-which-is-longer-than-the-one-before"] {
        Lab::test(|lab| {
            let second = lab.another_key() + ending;
            let (program, key) = program(lab);
            let source = json!({ "exec": [program], "ttl_seconds": 86_400 });
            check(lab, &source, &second, |client| {
                put(&key, &second);
                // The sandbox has it fetched.
                client.ask_until("status/401", lab.key());
            });
        });
    }
}

#[test]
fn c3_a_key_file_that_is_replaced_while_answers_stream_is_searched_for_in_them() {
    Lab::test(|lab| {
        let second = lab.another_key();
        let file = lab.key_file();
        check(lab, &json!({ "file": file }), &second, |_| put(&file, &second));
    });
}

/// A sandbox of a daemon with an open answer, which goes to a file.
fn open(guest: &Guest<'_>, lab: &Lab, file: &str, command: &str) -> Child {
    let output = File::create(lab.work().join(file)).unwrap();
    let command = command.replace("OTHER", OTHER);
    guest
        .command("sh")
        .args(["-c", &command])
        .env("SOCKET", SOCKET.replace("HOST", OTHER))
        .stdout(output)
        .spawn()
        .unwrap()
}

#[test]
fn c3_the_keys_of_a_policy_that_is_put_while_answers_stream_are_searched_for_in_them() {
    Lab::test(|lab| {
        lab.unordered();
        let (second, third) = (lab.another_key(), lab.another_key());
        let daemon = lab.daemon().at_origin(HOST).at_origin(OTHER).start();
        let guest = daemon.guest(&policy(&json!(lab.key())));
        let mut answer = open(&guest, lab, "h2", "curl -sSN --http2 https://OTHER/said");
        let shown = || fs::read_to_string(lab.work().join("h2")).unwrap_or_default();
        lab.say("begun\n\n");
        assert!(until(|| shown() == "begun\n\n"));
        // The same credential with another key, and then another credential.
        let mut other = policy(&json!(third));
        let credentials = other["credentials_v2"].as_object_mut().unwrap();
        let renamed = credentials.remove("lab").unwrap();
        credentials.insert("renamed".to_owned(), renamed);
        for next in [policy(&json!(second)), other] {
            assert_eq!(daemon.replace(&guest, &next, false).status, 200);
        }
        for key in [lab.key(), &second, &third] {
            lab.say(format!("it was {key}\n"));
        }
        lab.say("");
        assert!(answer.wait().unwrap().success());
        assert_eq!(shown().matches("it was ").count(), 3, "{}", shown());
        let text = shown();
        assert!(!text.contains("CANARY"), "{text}");
        daemon.finish();
    });
}

#[test]
fn c3_an_answer_that_began_without_any_key_ends_when_there_is_one() {
    let table = [("h1", OPEN[0].1), ("socket", OPEN[4].1)];
    for (file, command) in table {
        Lab::test(|lab| {
            lab.unordered();
            let daemon = lab.daemon().at_origin(HOST).at_origin(OTHER).start();
            let guest = daemon.guest(&json!({ "network": { "allow": [HOST, OTHER] } }));
            let mut answer = open(&guest, lab, file, command);
            let shown = || fs::read_to_string(lab.work().join(file)).unwrap_or_default();
            lab.say("begun\n\n");
            assert!(until(|| shown() == "begun\n\n"));
            let with_key = policy(&json!(lab.key()));
            assert_eq!(daemon.replace(&guest, &with_key, false).status, 200);
            lab.say(format!("it is {}\n", lab.key()));
            lab.say("");
            answer.wait().unwrap();
            assert_eq!(shown(), "begun\n\n");
            let ended = |record: &Record| record.reason.as_deref() == Some("keys_changed");
            assert!(until(|| daemon.records().iter().any(ended)));
            daemon.finish();
        });
    }
}
