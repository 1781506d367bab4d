//! The webhook of the configuration: it decides with what was proposed, and nothing else it does
//! has any effect.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use aws_lc_rs::hmac;
use interceptor_tests::daemon::until;
use interceptor_tests::lab::Lab;
use serde_json::{Value, json};

use super::{HOST, NEW, allow, answer, approvals, curl, decide, policy, questions};

const SECRET: &str = "a secret of the webhook";

/// A request as the webhook got it: its head and its body.
type Told = (String, String);

/// A server that answers each connection with the next of these texts; an empty one never.
struct Server {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Server {
    fn answering(answers: Vec<String>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let theirs = Arc::clone(&told);
        thread::spawn(move || {
            let mut answers = VecDeque::from(answers);
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Some(next) = answers.pop_front() else { return };
                let request = read(&stream);
                theirs.lock().expect("no panic").push(request);
                let _ = stream.write_all(next.as_bytes());
                // Silence is no end.
                open.extend(next.is_empty().then_some(stream));
            }
        });
        Server { address, told }
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().expect("no panic").clone()
    }
}

fn read(stream: &TcpStream) -> Told {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        head.push_str(&lower);
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    (head, String::from_utf8_lossy(&body).into_owned())
}

fn http(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

#[test]
fn a_webhook_decides_within_what_was_proposed_and_else_nothing() {
    Lab::test(|lab| {
        lab.unordered();
        let allow_text = allow().to_string();
        let wider = json!({ "decision": "allow", "seconds": 3600,
            "patch": [{ "op": "add", "path": "/network/allow/-", "value": "*" }] });
        let twice = format!("{}{}", http(200, &allow_text), http(200, r#"{"decision":"deny"}"#));
        let without_decision = [
            http(202, &allow_text),
            http(500, &allow_text),
            http(302, &allow_text).replace("connection", "location: /\r\nconnection"),
            http(200, &wider.to_string()),
            http(200, &format!("{allow_text} {allow_text}")),
            http(200, &format!("{{\"decision\":\"allow\",\"x\":\"{}\"}}", "a".repeat(100_000))),
            "SSH-2.0-nonsense\r\n".to_owned(),
            String::new(),
        ];
        let mut answers = vec![twice, http(200, r#"{"decision":"deny"}"#)];
        answers.extend(without_decision.clone());
        let server = Server::answering(answers);
        let config = lab.directory().join("config.json");
        let url = format!("http://{}/ask?x=1", server.address);
        let webhook = json!({ "url": url, "secret": SECRET, "timeout_seconds": 1 });
        fs::write(&config, json!({ "approvals": { "webhook": webhook } }).to_string()).unwrap();
        let daemon = lab.daemon().at_origin(HOST).at_origin(NEW).option("--config");
        let daemon = daemon.option(&config).quiet_log().start();
        let guest = daemon.guest(&policy(lab));

        let get = |number: usize| curl(&guest, &[&format!("https://{NEW}/{number}")]);
        assert_eq!(answer(get(0)).1, "200");
        let (body, status) = answer(get(1));
        assert_eq!((status.as_str(), body.contains("approval_refused")), ("403", true), "{body}");
        let by = Some("webhook".to_owned());
        let decided = [("approved".to_owned(), by.clone()), ("refused".to_owned(), by)];
        assert!(until(|| decided.iter().all(|one| approvals(&daemon).contains(one))));

        let (head, body) = &server.told()[0];
        assert!(head.starts_with("post /ask?x=1 http/1.1"), "{head}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let tag = hmac::sign(&key, body.as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(head.contains(&format!("x-interceptor-signature: sha256={hex}\r\n")), "{head}");
        let question: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&question["host"], &question["path"]), (&json!(NEW), &json!("/0")));

        for number in 2..2 + without_decision.len() {
            let held = get(number);
            let asked = questions(&daemon, 1);
            assert!(until(|| server.told().len() == number + 1), "{number}");
            // It still waits, and a person decides.
            decide(&daemon, &asked[0], &json!({ "decision": "deny" }));
            assert_eq!(answer(held).1, "403", "{number}");
        }
        let uid = Some(format!("uid:{}", nix::unistd::geteuid()));
        let by_person = || approvals(&daemon).iter().filter(|(_, by)| *by == uid).count();
        assert!(until(|| by_person() == without_decision.len()));
        let log = daemon.finish().err();
        assert!(!log.contains(SECRET), "{log}");
    });
}

#[test]
fn the_questions_of_one_sandbox_do_not_keep_those_of_another_from_the_webhook() {
    Lab::test(|lab| {
        lab.unordered();
        let server = Server::answering(vec![String::new(); 32]);
        let config = lab.directory().join("config.json");
        let url = format!("http://{}/", server.address);
        let webhook = json!({ "url": url, "secret": SECRET, "timeout_seconds": 3600 });
        fs::write(&config, json!({ "approvals": { "webhook": webhook } }).to_string()).unwrap();
        let daemon = lab.daemon().at_origin(HOST).at_origin(NEW).option("--config");
        let daemon = daemon.option(&config).quiet_log().start();
        let [loud, quiet] = [(); 2].map(|()| daemon.guest(&policy(lab)));
        let mut held: Vec<_> =
            (0..12).map(|number| curl(&loud, &[&format!("https://{NEW}/{number}")])).collect();
        questions(&daemon, held.len());
        held.push(curl(&quiet, &[&format!("https://{NEW}/quiet")]));
        let told_of = |id: &str| {
            let told = server.told();
            told.iter().filter(|(_, body)| body.contains(&format!("\"{id}\""))).count()
        };
        let each = || (told_of(&quiet.id), told_of(&loud.id));
        assert!(until(|| each() == (1, 2)), "each has its own places: {:?}", server.told());
        for question in &questions(&daemon, held.len()) {
            decide(&daemon, question, &json!({ "decision": "deny" }));
        }
        assert!(held.into_iter().all(|child| answer(child).1 == "403"));
        daemon.finish();
    });
}

#[test]
fn a_webhook_that_could_be_forged_is_refused_at_the_start() {
    Lab::test(|lab| {
        for (webhook, why) in [
            (json!({ "url": "http://a.test/", "secret": SECRET }), "loopback"),
            (json!({ "url": "https://a.test/", "secret": "short" }), "16 bytes"),
            (json!({ "url": "https://a.test/", "secret": { "env": "NO_SUCH" } }), "NO_SUCH"),
            (json!({ "url": "https://a.test/", "secret": SECRET, "x": 1 }), "unknown field"),
        ] {
            let config = lab.directory().join("config.json");
            fs::write(&config, json!({ "approvals": { "webhook": webhook } }).to_string()).unwrap();
            let outcome = lab.daemon().option("--config").option(&config).fail();
            let said = outcome.err();
            assert!(said.contains(why) && !said.contains(SECRET), "{why}: {said}");
        }
    });
}
