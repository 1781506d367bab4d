//! The proxy searches every answer that it opens, from any host, for every key of the sandbox. An
//! answer that cannot be searched ends.

use std::sync::{Arc, Mutex};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::origin::listen::Listener;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const HOST: &str = "api.example.test";
const OTHER: &str = "other.example.test";

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["network"]["allow"] = json!([HOST, OTHER]);
    policy
}

/// An origin that shows the last credential it received, like a debug page of a server with several
/// names.
fn gossip(lab: &Lab) -> Listener {
    let last: Arc<Mutex<String>> = Arc::default();
    lab.talking(move |head, mut stream| {
        let last = last.clone();
        async move {
            let sent = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
            let shown = {
                let mut last = last.lock().unwrap();
                if let Some(sent) = sent {
                    *last = sent.to_owned();
                }
                last.clone()
            };
            let body = format!("last {shown}\n");
            let head = format!(
                "HTTP/1.1 200 OK\r\nx-last: {shown}\r\ncontent-length: {}\r\nconnection: \
                 close\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await?;
            stream.shutdown().await
        }
    })
}

#[test]
fn a_key_comes_back_from_no_host_and_no_port() {
    for option in ["--http1.1", "--http2"] {
        Lab::test(|lab| {
            let origin = gossip(lab);
            let script = format!(
                "echo \"$LAB_API_KEY\"; for url in https://{HOST}/a https://{OTHER}/b \
                 https://{HOST}:8443/c; do \
                   curl -sSi {option} \"$url\"; done"
            );
            let outcome = lab
                .sandbox(&policy(lab))
                .resolve(HOST, origin.address())
                .resolve(&format!("{HOST}:8443"), origin.address())
                .resolve(OTHER, origin.address())
                .shell(&script);
            let text = outcome.success().out();
            let placeholder = text.lines().next().unwrap();
            assert_eq!(text.matches(&format!("last {placeholder}")).count(), 3, "{text}");
            assert_eq!(text.matches(&format!("x-last: {placeholder}")).count(), 3, "{text}");
            for record in outcome.requests("allow") {
                let found = (record.reason.as_deref(), record.key_echoed);
                assert_eq!(found, (Some("key_echoed"), Some(2)), "{record:?}");
            }
        });
    }
}

#[test]
fn a_key_comes_back_from_no_host_in_the_clear() {
    Lab::test(|lab| {
        let file = ("text/plain", format!("it is {}, in the clear\n", lab.key()).into_bytes());
        lab.shared().files.lock().unwrap().insert("/note".to_owned(), file);
        let script = format!("echo \"$LAB_API_KEY\"; curl -sS http://{OTHER}/note");
        let outcome = lab.sandbox(&policy(lab)).at_origin(OTHER).shell(&script);
        let text = outcome.success().out();
        let (placeholder, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest, format!("it is {placeholder}, in the clear\n"));
    });
}

/// An answer, and whether only its body shows that it cannot be searched.
const HIDDEN: [(&[u8], bool); 7] = [
    (b"HTTP/1.1 200 OK\r\ncontent-encoding: compress\r\ncontent-length: 2\r\n\r\nxx", false),
    (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip, x-own\r\n\r\nxx", false),
    (b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-encoding: gzip\r\n\r\n", false),
    (
        b"HTTP/1.1 200 OK\r\nsec-websocket-extensions: permessage-deflate\r\n\
          content-length: 0\r\n\r\n",
        false,
    ),
    (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\nthis is no gzip", true),
    (b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\n\r\n\xff\xff\xff\xff", true),
    (b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n\r\n\x01\x00\x00\x00\x05hello", true),
];

#[test]
fn an_answer_that_hides_from_the_search_ends() {
    for host in [HOST, OTHER] {
        for (answer, begins) in HIDDEN {
            Lab::test(|lab| {
                let origin = lab.scripted(answer);
                let sandbox = lab.sandbox(&policy(lab)).resolve(host, origin.address());
                let plan = Plan::https(host, "http/1.1").ask("GET", "/v1/x");
                let (reports, outcome) = sandbox.fetch_outcome(&plan);
                let got = &reports[0].answers[0];
                let shown = String::from_utf8_lossy(answer);
                if begins {
                    assert!(got.error.is_some(), "{shown}: {got:?}");
                } else {
                    let refusal = got.refusal();
                    assert_eq!(
                        (refusal.status, refusal.reason.as_str()),
                        (502, "upstream_protocol"),
                        "{shown}"
                    );
                }
                outcome.one_with("upstream_protocol");
            });
        }
    }
}

#[test]
fn without_keys_nothing_is_searched() {
    Lab::test(|lab| {
        let origin = lab.scripted(
            b"HTTP/1.1 200 OK\r\ncontent-encoding: compress\r\naccept-ranges: bytes\r\n\
              content-length: 2\r\n\r\nxx",
        );
        let sandbox = lab
            .sandbox(&json!({ "network": { "allow": [OTHER] } }))
            .resolve(OTHER, origin.address());
        let headers = [("accept-encoding", "compress, gzip"), ("range", "bytes=0-1,5-6")];
        let plan = Plan::https(OTHER, "http/1.1").ask_with("GET", "/x", &headers, "");
        let got = &sandbox.fetch(&plan)[0].answers[0];
        assert_eq!((got.status, got.body.as_str()), (200, "xx"));
        assert_eq!(got.header("content-encoding"), Some("compress"));
        let seen = &lab.seen()[0];
        assert_eq!(seen.values("accept-encoding"), ["compress, gzip"]);
        assert_eq!(seen.values("range"), ["bytes=0-1,5-6"]);
    });
}

#[test]
fn a_thousand_answers_with_a_key_and_no_more() {
    Lab::test(|lab| {
        lab.unordered();
        let mut plan = Plan::https(HOST, "http/1.1");
        for _ in 0..51 {
            plan = plan.ask_with(
                "GET",
                "/echo?in=header",
                &[("authorization", "Bearer $LAB_API_KEY")],
                "",
            );
        }
        plan.connections = 20;
        let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST).quiet_log();
        let reports = sandbox.fetch(&plan);
        let answers: Vec<_> = reports.iter().flat_map(|report| &report.answers).collect();
        let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
        let passed =
            answers.iter().filter(|answer| answer.status == 200 && answer.error.is_none()).count();
        assert_eq!(passed, 1000);
        assert!(!refused.is_empty() && refused[0].refusal().reason == "limit_exceeded");
    });
}

#[test]
fn a_length_stays_or_is_known_again() {
    for protocol in ["http/1.1", "h2"] {
        Lab::test(|lab| {
            lab.unordered();
            let plan = Plan::https(HOST, protocol)
                .ask_with("GET", "/echo", &[("authorization", "Bearer $LAB_API_KEY")], "")
                .ask("GET", "/bytes/300000")
                .ask("GET", "/echo?encoding=gzip")
                .ask("HEAD", "/bytes/1000");
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
            let answers = &reports[0].answers;
            for answer in &answers[..3] {
                let length = answer.header("content-length").map(|length| length.parse().unwrap());
                assert_eq!(length, Some(answer.body_bytes), "{answer:?}");
                assert_eq!(answer.error, None);
            }
            assert!(answers[0].body.contains("proxy-managed"), "{answers:?}");
            assert_eq!(
                (answers[3].header("content-length"), answers[3].body_bytes),
                (Some("1000"), 0)
            );
        });
    }
}

#[test]
fn a_key_that_is_shorter_than_its_placeholder_keeps_lengths_too() {
    Lab::test(|lab| {
        // Shorter than any placeholder.
        let key = "tiny-CANARY-key";
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["key"] = json!({ "file": lab.secret_file("tiny", key) });
        let long = format!("{key}{}", "x ".repeat(40_000));
        let short = format!("it is {key}!");
        for (body, ranges, same) in
            [(&short, "", false), (&short, "accept-ranges: bytes\r\n", true), (&long, "", true)]
        {
            let answer =
                format!("HTTP/1.1 200 OK\r\n{ranges}content-length: {}\r\n\r\n{body}", body.len());
            let origin = lab.scripted(answer.into_bytes().leak());
            let sandbox = lab.sandbox(&policy).resolve(HOST, origin.address());
            let got = &sandbox.fetch(&Plan::https(HOST, "http/1.1").ask("GET", "/x"))[0].answers[0];
            assert!(got.error.is_none() && !got.body.contains("CANARY"), "{got:?}");
            assert!(got.body.contains("proxy-managed"), "{:?}", got.headers);
            let length = got.header("content-length").map(|length| length.parse().unwrap());
            assert_eq!(length, Some(got.body_bytes), "{:?}", got.headers);
            assert_eq!(
                got.body_bytes == body.len() as u64,
                same,
                "the whole placeholder where there is room"
            );
            assert_eq!(got.header("accept-ranges").is_some(), !ranges.is_empty());
        }
    });
}

#[test]
fn without_a_body_nothing_tells_how_long_it_is_encoded() {
    for (host, protocol) in [(HOST, "http/1.1"), (OTHER, "h2")] {
        for (method, status) in [("HEAD", "200 OK"), ("GET", "304 Not Modified")] {
            Lab::test(|lab| {
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-encoding: gzip\r\ncontent-length: 77\r\netag: \
                     \"4d-1\"\r\ncontent-md5: x\r\nvary: accept-encoding\r\n\r\n"
                );
                let origin = lab.scripted(answer.into_bytes().leak());
                let sandbox = lab.sandbox(&policy(lab)).resolve(host, origin.address());
                let plan = Plan::https(host, protocol).ask(method, "/f");
                let got = sandbox.fetch(&plan).remove(0).answers.remove(0);
                assert_eq!(got.status.to_string(), status[..3]);
                assert!(got.header("vary").is_some(), "{got:?}");
                for name in ["content-length", "content-encoding", "etag", "content-md5"] {
                    assert_eq!(got.header(name), None, "{method} {name}: {:?}", got.headers);
                }
            });
        }
    }
}
