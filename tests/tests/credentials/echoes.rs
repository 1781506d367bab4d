//! What an origin sends back, and requests that become something else on their way.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::{Answer, Plan};
use serde_json::json;

use super::{HOST, OTHER, PROTOCOLS, curl, policy};

#[test]
fn c3_what_the_origin_echoes_holds_the_placeholder_instead() {
    let queries = [
        "",
        "?in=header",
        "?in=location",
        "?in=trailer",
        "?in=bytes",
        "?encoding=gzip",
        "?encoding=br",
        "?encoding=deflate",
        "?encoding=zstd",
        "?encoding=gzip&in=bytes",
        "?encoding=br&in=bytes",
    ];
    for protocol in ["--http1.1", "--http2"] {
        Lab::test(|lab| {
            let mut script = String::from("echo \"placeholder $LAB_API_KEY\"\n");
            for query in queries {
                script.push_str(&format!(
                    "echo '== {query}'; curl -sSi {protocol} --compressed \
                     -H 'accept-encoding: gzip, br, deflate, zstd' \
                     -d 'a body' 'https://{HOST}/echo{query}' || exit\n"
                ));
            }
            let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
            let text = outcome.success().out();
            let placeholder = text.lines().next().unwrap().strip_prefix("placeholder ").unwrap();
            for part in text.split("== ").skip(1) {
                let (query, answer) = part.split_once('\n').unwrap();
                // curl 7.88 shows no trailers over HTTP/2; the canary oracle judges those.
                if query != "?in=trailer" {
                    assert!(answer.contains(placeholder), "{query}: {answer}");
                }
                assert!(!answer.contains("CANARY"), "{query}: {answer}");
            }
            assert_eq!(lab.seen().len(), queries.len());
        });
    }
}

#[test]
fn c3_a_websocket_echo_of_the_handshake_does_not_show_the_key() {
    Lab::test(|lab| {
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&websocket("head"));
        assert!(outcome.success().out().contains("101"), "{}", outcome.out());
    });
}

#[test]
fn c3_a_reason_phrase_does_not_carry_the_key() {
    for status in [101, 200] {
        Lab::test(|lab| {
            let head = "content-length: 0\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
            let answer = format!("HTTP/1.1 {status} {}\r\n{head}", lab.key());
            let origin = lab.scripted(Box::leak(answer.into_bytes().into_boxed_slice()));
            let program = "import socket, ssl\ns = \
                           ssl.create_default_context().wrap_socket(socket.create_connection(('\
                           HOST', 443)), \
                           server_hostname='HOST')\ns.settimeout(10)\ns.sendall(b'GET /ws \
                           HTTP/1.1\\r\\nhost: HOST\\r\\nconnection: Upgrade\\r\\nupgrade: \
                           websocket\\r\\n\\r\\n')\nprint(s.recv(4096).decode())\n";
            let outcome = lab
                .sandbox(&policy(lab))
                .resolve(HOST, origin.address())
                .python(&program.replace("HOST", HOST));
            assert!(
                outcome.success().out().starts_with(&format!("HTTP/1.1 {status} ")),
                "{}",
                outcome.out()
            );
        });
    }
}

#[test]
fn h10_a_request_for_an_upgrade_has_no_body() {
    Lab::test(|lab| {
        let bytes = format!(
            "GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: \
             websocket\r\ncontent-length: 5\r\n\r\nhello"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).send(
            &format!("{HOST}:443"),
            Some(HOST),
            bytes.as_bytes(),
        );
        assert!(outcome.out().starts_with("HTTP/1.1 400 "), "{}", outcome.out());
        assert_eq!(lab.seen().len(), 0);
    });
}

#[test]
fn h10_a_websocket_is_forwarded_where_a_rule_allows_its_handshake() {
    Lab::test(|lab| {
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&websocket("over and out"));
        assert!(outcome.success().out().contains("over and out"), "{}", outcome.out());
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);
        let record = outcome.requests("allow")[0];
        assert_eq!(
            (record.protocol.as_deref(), record.status),
            (Some("ws"), Some(101)),
            "{record:?}"
        );
    });
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["endpoints"] =
            json!([{ "methods": [], "paths": ["/v1/"] }]);
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&websocket("x"));
        assert!(outcome.out().contains("403"), "{}\n{}", outcome.out(), outcome.tail());
        assert_eq!(lab.seen().len(), 0);
    });
}

/// A WebSocket client of thirty lines: sends one text message and prints what comes back.
fn websocket(message: &str) -> String {
    format!(
        r#"
import base64, os, socket, ssl, struct
s = socket.create_connection(('{HOST}', 443))
s = ssl.create_default_context().wrap_socket(s, server_hostname='{HOST}')
s.settimeout(10)
key = base64.b64encode(os.urandom(16)).decode()
s.sendall(f'GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n'
          f'sec-websocket-version: 13\r\nsec-websocket-key: {{key}}\r\n\r\n'.encode())
head = b''
while b'\r\n\r\n' not in head:
    part = s.recv(4096)
    if not part: break
    head += part
print(head.decode())
if b' 101 ' in head.split(b'\r\n')[0]:
    payload, mask = b'{message}', os.urandom(4)
    masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    s.sendall(bytes([0x81, 0x80 | len(payload)]) + mask + masked)
    print(s.recv(65536))
    s.sendall(bytes([0x88, 0x80]) + mask)
    print(s.recv(65536))
"#
    )
}

#[test]
fn c5_a_redirect_to_another_host_is_a_new_request() {
    Lab::test(|lab| {
        let location = format!("https%3A%2F%2F{OTHER}%2Fnext");
        let arguments = format!(
            "-L --location-trusted -H \"authorization: Bearer $LAB_API_KEY\" \
             'https://{HOST}/set?location={location}'"
        );
        // curl sees the origin's 302 only if the proxy does not follow it.
        let outcome = curl(lab, &policy(lab), &arguments);
        outcome.success();
        assert_eq!(lab.seen().len(), 1, "the proxy follows nothing: {:#?}", lab.seen());
    });
}

#[test]
fn h16_alt_svc_is_dropped() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let plan = Plan::https(HOST, protocol)
                .ask("GET", "/set?alt-svc=h3%3D%22%3A443%22&x-kept=1&set-cookie=a%3Db");
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
            let answer: &Answer = &reports[0].answers[0];
            assert_eq!(
                (answer.status, answer.header("alt-svc"), answer.header("x-kept")),
                (200, None, Some("1"))
            );
            assert_eq!(answer.header("set-cookie"), None);
        });
    }
}
