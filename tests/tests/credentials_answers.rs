//! Answers of origins: no part of an answer contains a key, and the proxy follows no redirect.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const OTHER: &str = "other.example.test";
const EVIL: &str = "evil.example.test";

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["network"]["allow"] = json!([HOST, OTHER]);
    policy
}

/// Answers of an origin with the key (`KEY`) in every part that HTTP/1.1 has, and whether a
/// placeholder must replace it (otherwise the part is dropped).
const REFLECTIONS: [(&str, bool); 18] = [
    ("HTTP/1.1 200 OK\r\ncontent-length: LEN\r\n\r\nyou sent KEY", true),
    ("HTTP/1.1 200 OK\r\n\r\nyou sent KEY until the end", true),
    (
        "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */1000\r\n\
         content-length: LEN\r\n\r\nyou sent KEY",
        true,
    ),
    (
        "HTTP/1.1 302 Found\r\nlocation: https://api.example.test/next?key=KEY&a=1\r\n\
         content-length: 0\r\n\r\n",
        true,
    ),
    (
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"KEY\"\r\n\
         content-length: LEN\r\n\r\ninvalid key: KEY",
        true,
    ),
    ("HTTP/1.1 200 OK\r\naccess-control-allow-headers: KEY\r\ncontent-length: 0\r\n\r\n", true),
    ("HTTP/1.1 200 OK\r\nx-session: a=KEY; Path=/\r\ncontent-length: 0\r\n\r\n", true),
    (
        "HTTP/1.1 200 OK\r\nx-request-id: KEYKEY\r\nx-again: KEY\r\nx-again: KEY\r\n\
         content-length: 0\r\n\r\n",
        true,
    ),
    ("HTTP/1.1 200 OK\r\nKEY: a name\r\ncontent-length: 2\r\n\r\nok", false),
    ("HTTP/1.1 200 KEY\r\ncontent-length: 2\r\n\r\nok", false),
    (
        "HTTP/1.1 103 Early Hints\r\nlink: </KEY>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        false,
    ),
    (
        "HTTP/1.1 100 Continue\r\nx-a: KEY\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        false,
    ),
    (
        "HTTP/1.1 102 Processing KEY\r\nx-a: KEY\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: LEN\r\n\r\nKEY",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
         CHUNKS",
        true,
    ),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=KEY\r\nok\r\n0\r\n\r\n", false),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-key\r\n\r\n\
         2\r\nok\r\n0\r\nx-key: KEY\r\n\r\n",
        true,
    ),
    (
        "HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/html\r\n\
         content-length: LEN\r\n\r\n<b>Authorization: Bearer KEY</b>",
        true,
    ),
    (
        "HTTP/1.1 502 Bad Gateway\r\ncontent-encoding: identity\r\ncontent-length: LEN\r\n\r\n\
         KEY KEY KEY",
        true,
    ),
];

#[test]
fn c3_no_part_of_an_answer_holds_the_key() {
    // The host that gets the key, and one that learned it in another way.
    for (host, (answer, replaced)) in
        [HOST, OTHER].into_iter().flat_map(|host| REFLECTIONS.map(|reflection| (host, reflection)))
    {
        Lab::test(|lab| {
            let body = answer.rsplit_once("\r\n\r\n").unwrap().1.replace("KEY", lab.key());
            // Every chunk holds one byte, so that every boundary within the key occurs.
            let event = format!("data: {}\n\n", lab.key());
            let chunks: String = event.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect();
            let answer = answer
                .replace("KEY", lab.key())
                .replace("LEN", &body.len().to_string())
                .replace("CHUNKS", &format!("{chunks}0\r\n\r\n"));
            let origin = lab.scripted(Box::leak(answer.clone().into_bytes().into_boxed_slice()));
            let program = "import os, socket, ssl\ns = \
                 ssl.create_default_context().wrap_socket(socket.create_connection(('HOST', \
                 443)), server_hostname='HOST')\ns.settimeout(20)\ns.sendall(b'GET /v1/x \
                 HTTP/1.1\\r\\nhost: HOST\\r\\nte: trailers\\r\\nconnection: \
                 close\\r\\n\\r\\n')\ntext = b''\nwhile part := s.recv(65536): text += \
                 part\nprint(text.decode().replace(os.environ['LAB_API_KEY'], 'PLACEHOLDER'))\n";
            let outcome = lab
                .sandbox(&policy(lab))
                .resolve(host, origin.address())
                .python(&program.replace("HOST", host));
            let text = outcome.success().out();
            let shown = answer.replace(lab.key(), "KEY");
            assert!(text.starts_with("HTTP/1.1 "), "{shown}: {text}");
            // Chunks may arrive as sent, so join them before looking for the placeholder.
            let whole = text.contains("PLACEHOLDER") || event_in_chunks(&text);
            assert_eq!(whole, replaced, "{shown}: {text}");
            assert!(!text.contains("CANARY"), "{host} {shown}");
            // The proxy never sees parts that hyper drops (a reason phrase, an interim answer).
            let record = outcome.requests("allow")[0];
            let dropped = !replaced && !shown.contains("\r\nKEY:") && !shown.contains("x-key: KEY");
            assert_eq!(record.key_echoed.is_some(), !dropped, "{shown}: {record:?}");
            assert_eq!(
                record.reason.as_deref(),
                record.key_echoed.map(|_| "key_echoed"),
                "{shown}"
            );
        });
    }
}

#[test]
fn no_cookie_is_set_by_a_trailer_where_none_is_set_by_a_header() {
    for (protocol, host, cookies, passes) in [
        ("h2", HOST, false, false),
        ("h2", HOST, true, true),
        ("h2", OTHER, false, true),
        ("http/1.1", HOST, false, false),
        ("http/1.1", OTHER, false, true),
    ] {
        Lab::test(|lab| {
            let origin = lab.scripted(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
                  trailer: set-cookie, set-cookie2, x-kept\r\n\r\n\
                  2\r\nok\r\n0\r\nset-cookie: a=b\r\nset-cookie2: c=d\r\nx-kept: yes\r\n\r\n",
            );
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["cookies"] = json!(cookies);
            let plan =
                Plan::https(host, protocol).ask_with("GET", "/v1/x", &[("te", "trailers")], "");
            let reports = lab.sandbox(&policy).resolve(host, origin.address()).fetch(&plan);
            let answer = &reports[0].answers[0];
            let has = |name: &str| answer.trailers.iter().any(|(field, _)| field == name);
            assert!(has("x-kept"), "{answer:?}");
            assert_eq!(has("set-cookie2"), passes, "{answer:?}");
            // hyper itself writes no such trailer over HTTP/1.1.
            assert_eq!(has("set-cookie"), passes && protocol == "h2", "{answer:?}");
        });
    }
}

/// Whether the joined chunks contain an event with a placeholder.
fn event_in_chunks(text: &str) -> bool {
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let data: String = body.split("\r\n").skip(1).step_by(2).collect();
    data.contains("proxy-managed")
}

#[test]
fn c5_no_redirect_is_followed_and_none_carries_the_key_elsewhere() {
    for code in [301, 302, 303, 307, 308] {
        for target in [
            format!("https://{OTHER}/next"),
            format!("http://{OTHER}/next"),
            format!("https://{EVIL}/next"),
            format!("https://{HOST}:8443/next"),
            format!("http://{HOST}/next"),
        ] {
            Lab::test(|lab| {
                let encoded: String = target.bytes().map(|byte| format!("%{byte:02X}")).collect();
                // curl sends its credential to every redirect target: a placeholder, which is
                // refused there.
                let script = format!(
                    "curl -sS -L --max-redirs 3 --location-trusted \
                     -w ' %{{http_code}} %{{num_redirects}}' \
                     -H \"authorization: Bearer $LAB_API_KEY\" \
                     'https://{HOST}/redirect/{code}?to={encoded}'; true"
                );
                let outcome = lab
                    .sandbox(&policy(lab))
                    .at_origin(HOST)
                    .at_origin(OTHER)
                    .at_forbidden(EVIL)
                    .resolve(&format!("{HOST}:8443"), lab.origin())
                    .shell(&script);
                let row = format!("{code} {target}: {}", outcome.success().out());
                assert!(row.ends_with(" 403 1"), "{row}");
                let seen = lab.seen();
                assert_eq!(
                    seen.len(),
                    1,
                    "the proxy follows nothing, and the second is refused: {row}"
                );
                assert_eq!(seen[0].values("authorization"), [format!("Bearer {}", lab.key())]);
                let reason = match &target {
                    target if target.starts_with(&format!("http://{HOST}")) => "plaintext_denied",
                    _ => "credential_misuse",
                };
                outcome.one_denied(reason);
            });
        }
    }
}

#[test]
fn c5_a_chain_of_redirects_is_judged_step_by_step() {
    Lab::test(|lab| {
        let encode =
            |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let last = format!("https://{OTHER}/end");
        let second = format!("https://{HOST}/redirect/308?to={}", encode(&last));
        let first = format!("https://{HOST}/redirect/307?to={}", encode(&second));
        let script = format!(
            "curl -sS -L --location-trusted -d body -H \"authorization: Bearer $LAB_API_KEY\" \
             '{first}'; true"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).at_origin(OTHER).shell(&script);
        assert!(outcome.out().contains("credential_misuse"), "{}", outcome.out());
        let seen: Vec<_> = lab.seen().iter().map(|seen| seen.line()).collect();
        assert_eq!(
            seen,
            [format!("POST {HOST}/redirect/307"), format!("POST {HOST}/redirect/308")]
        );
    });
}
