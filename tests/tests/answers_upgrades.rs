//! Upgraded connections: a WebSocket is searched message by message, an unknown protocol is carried
//! only to hosts that get no key, and nothing is dropped silently.

use interceptor_tests::origin::listen::Listener;
use interceptor_tests::origin::websocket::accept;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HOST: &str = "api.example.test";
const OTHER: &str = "other.example.test";

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["network"]["allow"] = json!([HOST, OTHER]);
    policy
}

/// An origin that switches to any protocol, sends `says`, and then echoes.
fn switcher(lab: &Lab, says: Vec<u8>, extra: &'static str) -> Listener {
    lab.talking(move |head, mut stream| {
        let says = says.clone();
        async move {
            let field =
                |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let Some(protocol) = field("upgrade:") else {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
                return stream.shutdown().await;
            };
            let accept = field("sec-websocket-key:").map(accept).unwrap_or_default();
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: \
                 {protocol}\r\nsec-websocket-accept: {accept}\r\n{extra}\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&says).await?;
            let mut buffer = [0; 4096];
            while let read @ 1.. = stream.read(&mut buffer).await? {
                stream.write_all(&buffer[..read]).await?;
            }
            stream.shutdown().await
        }
    })
}

/// Asks `host` to switch, sends `send` if it does, and prints the head and all output until `until`
/// arrives or the connection ends.
fn converse(
    lab: &Lab,
    policy: &Value,
    host: &str,
    origin: &Listener,
    protocol: &str,
    until: usize,
) -> Outcome {
    let method = if protocol == "websocket" { "GET" } else { "POST" };
    let program = format!(
        "import socket, ssl, sys\ns = \
         ssl.create_default_context().wrap_socket(socket.create_connection(('{host}', 443)), \
         server_hostname='{host}')\ns.settimeout(20)\ns.sendall(b'{method} /v1/x \
         HTTP/1.1\\r\\nhost: {host}\\r\\nconnection: Upgrade\\r\\nupgrade: \
         {protocol}\\r\\n'\n\x20   b'sec-websocket-key: \
         dGhlIHNhbXBsZSBub25jZQ==\\r\\nsec-websocket-version: 13\\r\\n'\n\x20   \
         b'sec-websocket-extensions: permessage-deflate\\r\\ncontent-length: 0\\r\\n\\r\\n')\nt = \
         b''\nwhile b'\\r\\n\\r\\n' not in t: t += s.recv(65536)\nhead, rest = \
         t.split(b'\\r\\n\\r\\n', 1)\nswitched = b' 101 ' in head\nif switched: \
         s.sendall(b'hello')\ntry:\n\x20   while not switched or len(rest) < {until}:\n\x20       \
         d = s.recv(65536)\n\x20       if not d: break\n\x20       rest += d\nexcept \
         (ConnectionError, ssl.SSLError) as e: pass\nprint(head.decode()); print(); \
         print(rest.decode('latin1'))\n"
    );
    lab.sandbox(policy).resolve(host, origin.address()).python(&program)
}

#[test]
fn another_protocol_is_carried_where_no_key_goes() {
    for protocol in ["SPDY/3.1", "tcp"] {
        Lab::test(|lab| {
            let origin = switcher(lab, b"welcome".to_vec(), "");
            for policy in [policy(lab), json!({ "network": { "allow": [OTHER] } })] {
                // "welcome" or "hello" could be the beginning of a key.
                let outcome = converse(lab, &policy, OTHER, &origin, protocol, 12);
                let text = outcome.success().out();
                assert!(
                    text.starts_with("HTTP/1.1 101 ") && text.contains("welcomehello"),
                    "{text}"
                );
                assert!(
                    text.to_lowercase().contains(&format!("upgrade: {}", protocol.to_lowercase())),
                    "{text}"
                );
                assert_eq!(outcome.requests("allow")[0].protocol.as_deref(), Some("tcp"));
            }
        });
    }
}

#[test]
fn another_protocol_is_refused_in_words_where_a_key_goes() {
    Lab::test(|lab| {
        let origin = switcher(lab, vec![], "");
        let outcome = converse(lab, &policy(lab), HOST, &origin, "SPDY/3.1", 0);
        let text = outcome.success().out();
        assert!(text.starts_with("HTTP/1.1 403 ") && text.contains("SPDY/3.1"), "{text}");
        outcome.one_denied("protocol_denied");
        assert_eq!(lab.seen().len(), 0);
    });
}

#[test]
fn an_offer_of_another_http_is_not_taken_up_and_nothing_is_lost() {
    Lab::test(|lab| {
        let script = format!(
            "curl -sS -H 'connection: upgrade' -H 'upgrade: h2c' https://{HOST}/v1/x \
                  -o /dev/null -w '%{{http_code}} '; \
             curl -sS -H 'connection: upgrade' -H 'upgrade: TLS/1.2' https://{HOST}/v1/x \
                  -o /dev/null -w '%{{http_code}}'"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
        assert_eq!(outcome.success().out(), "200 200");
    });
}

#[test]
fn a_key_in_another_protocol_ends_the_connection() {
    Lab::test(|lab| {
        let origin = switcher(lab, format!("it is {} indeed", lab.key()).into_bytes(), "");
        let outcome = converse(lab, &policy(lab), OTHER, &origin, "tcp", 1000);
        let text = outcome.success().out();
        assert!(text.starts_with("HTTP/1.1 101 ") && !text.contains("indeed"), "{text}");
        let record = outcome.one_with("key_echoed");
        assert_eq!((record.decision.as_deref(), record.key_echoed), (Some("allow"), Some(1)));
    });
}

#[test]
fn an_extension_that_was_not_offered_is_refused() {
    for host in [HOST, OTHER] {
        Lab::test(|lab| {
            let origin = switcher(lab, vec![], "sec-websocket-extensions: permessage-deflate\r\n");
            let outcome = converse(lab, &policy(lab), host, &origin, "websocket", 0);
            let text = outcome.success().out();
            assert!(
                text.starts_with("HTTP/1.1 502 ") && text.contains("upstream_protocol"),
                "{text}"
            );
            outcome.one_with("upstream_protocol");
            assert!(lab.seen()[0].values("sec-websocket-extensions").is_empty());
        });
    }
}

/// Frames, the part of their text that reaches the sandbox, and the end of the connection according
/// to the record.
fn frames(lab: &Lab) -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let key = lab.key();
    let frame = |first: u8, text: &str| {
        [&[first, u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat()
    };
    let (one, two) = key.split_at(20);
    vec![
        (
            [frame(0x81, "fine"), frame(0x81, &format!("it is {key}"))].concat(),
            "fine",
            "key_echoed",
        ),
        ([frame(0x81, "fine"), frame(0x89, key)].concat(), "fine", "key_echoed"),
        (
            [frame(0x01, "fine "), frame(0x00, one), frame(0x80, two)].concat(),
            "fine ",
            "key_echoed",
        ),
        ([frame(0x82, one), frame(0x81, two)].concat(), "sk-", "key_echoed"),
        ([frame(0x81, "fine"), frame(0xc1, "x")].concat(), "fine", "upstream_protocol"),
        (
            [frame(0x81, "fine"), vec![0x81, 0x81, 0, 0, 0, 0, b'x']].concat(),
            "fine",
            "upstream_protocol",
        ),
        ([frame(0x81, "fine"), frame(0x83, "x")].concat(), "fine", "upstream_protocol"),
    ]
}

#[test]
fn a_web_socket_ends_with_a_key_or_a_frame_that_cannot_be_read() {
    for host in [HOST, OTHER] {
        for row in 0..7 {
            Lab::test(|lab| {
                let (says, reaches, ended) = frames(lab).swap_remove(row);
                let origin = switcher(lab, says, "");
                let outcome = converse(lab, &policy(lab), host, &origin, "websocket", 1000);
                let text = outcome.success().out();
                assert!(
                    text.starts_with("HTTP/1.1 101 ") && text.contains(reaches),
                    "{row}: {text}"
                );
                let record = outcome.one_with(ended);
                assert_eq!(record.decision.as_deref(), Some("allow"), "{row}");
                assert_eq!(record.key_echoed, (ended == "key_echoed").then_some(1), "{row}");
            });
        }
    }
}
