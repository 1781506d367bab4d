//! Refusals as users see them, through the messages of their own clients.

use interceptor_tests::clients::PYTHON;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "packages.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/allowed"] }]))
}

/// Runs a script in a sandbox in which nothing but `/allowed` is permitted.
fn shell(lab: &Lab, script: &str) -> Outcome {
    lab.sandbox(&policy(lab)).quiet_log().at_origin(HOST).shell(script)
}

/// The output on both streams.
fn said(outcome: &Outcome) -> String {
    format!("{}\n{}", outcome.out(), outcome.err())
}

#[test]
fn the_reason_phrase_says_why_over_http_1() {
    Lab::test(|lab| {
        let script = format!(
            "for host in {HOST} evil.test; do for scheme in http https; do \
               curl -s --http1.1 -D - -o /dev/null $scheme://$host/denied | head -1; done; done; \
             curl -s --http2 -D - -o /dev/null https://evil.test/ | head -1"
        );
        let outcome = shell(lab, &script);
        let lines: Vec<String> =
            outcome.out().lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines.len(), 5, "{lines:?}");
        for (line, what) in
            lines.iter().zip(["TLS", "/denied", "evil.test port 80", "evil.test port 443"])
        {
            assert!(line.starts_with("HTTP/1.1 403 Refused: ") && line.contains(what), "{line}");
        }
        assert_eq!(lines[4], "HTTP/2 403");
    });
}

#[test]
fn what_the_sandbox_chose_cannot_break_the_status_line() {
    Lab::test(|lab| {
        let program = format!(
            "import socket, ssl\nfor target in (b'/\\xc3\\xa9' * 400, b'/' + b'x' * 9000, \
             b'/%0d%0aset-cookie:a=b', b'/\\x7f', b'/%e2%80%ae'):\n\x20   s = \
             ssl.create_default_context().wrap_socket(socket.create_connection(('{HOST}', 443)), \
             server_hostname='{HOST}')\n\x20   s.sendall(b'GET ' + target + b' \
             HTTP/1.1\\r\\nhost: {HOST}\\r\\nconnection: close\\r\\n\\r\\n')\n\x20   data = \
             b''\n\x20   while piece := s.recv(65536): data += piece\n\x20   line = \
             data.split(b'\\r\\n')[0]\n\x20   assert line[:9] == b'HTTP/1.1 ' and b' Refused: ' \
             in line and len(line) < 300, line\n\x20   assert all(32 <= byte < 127 for byte in \
             line), line\n\x20   assert b'set-cookie' not in \
             data.split(b'\\r\\n\\r\\n')[0].lower().split(b'\\r\\n', 1)[1], data\n"
        );
        let sandbox = lab.sandbox(&policy(lab)).quiet_log().at_origin(HOST);
        sandbox.run(&["/usr/bin/python3", "-c", &program]).success();
    });
}

#[test]
fn wget_pip_and_npm_print_why() {
    Lab::test(|lab| {
        lab.unordered();
        let wget = shell(lab, &format!("wget -O /dev/null https://{HOST}/denied"));
        assert!(
            said(&wget)
                .contains("ERROR 403: Refused: GET /denied was refused by the endpoint rules")
        );
        let pip = shell(
            lab,
            &format!(
                "{PYTHON} -m pip download --no-input --no-cache-dir --disable-pip-version-check \
                   --retries 0 https://{HOST}/files/lab_demo-1.0-py3-none-any.whl"
            ),
        );
        assert!(
            said(&pip).contains("Refused: GET /files/lab_demo-1.0-py3-none-any.whl"),
            "{}",
            said(&pip)
        );
        let npm = shell(
            lab,
            &format!(
                "npm install --no-audit --no-fund --no-update-notifier --registry https://{HOST}/ \
                 lab-demo"
            ),
        );
        assert!(
            said(&npm).contains("GET /lab-demo was refused by the endpoint rules"),
            "{}",
            said(&npm)
        );
        assert!(!said(&npm).contains("[object Object]"), "{}", said(&npm));
    });
}

#[test]
fn a_json_rpc_call_and_a_graphql_query_are_refused_in_their_own_form() {
    Lab::test(|lab| {
        for version in ["--http1.1", "--http2"] {
            let call = r#"{"jsonrpc":"2.0","id":"call-7","method":"tools/call","params":{}}"#;
            let script = format!(
                "curl -s {version} -H 'content-type: application/json' -d '{call}' \
                   https://{HOST}/mcp; \
                 curl -s {version} -H 'content-type: application/json' \
                   -d '{{\"query\":\"{{a}}\"}}' https://{HOST}/graphql"
            );
            let outcome = shell(lab, &script);
            let out = outcome.out();
            let answers: Vec<Value> =
                out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!(
                (&answers[0]["id"], &answers[0]["error"]["code"]),
                (&json!("call-7"), &json!(-32_001))
            );
            assert_eq!(answers[0]["error"]["type"], "endpoint_denied");
            let message = answers[1]["errors"][0]["message"].as_str().expect("a message");
            assert!(message.contains("POST /graphql was refused"), "{message}");
            assert_eq!(answers[1]["error"]["type"], "endpoint_denied");
        }
    });
}

#[test]
fn ssh_and_psql_print_why() {
    Lab::test(|lab| {
        lab.unordered();
        let ssh = shell(lab, "ssh -F none -o BatchMode=yes -o ConnectTimeout=20 git@evil.test");
        let reason = "evil.test port 22 was refused by the network policy";
        assert!(said(&ssh).contains(reason), "{}", said(&ssh));
        let allowed =
            shell(lab, &format!("ssh -F none -o BatchMode=yes -o ConnectTimeout=20 git@{HOST}"));
        assert!(said(&allowed).contains("a credential governs this host"), "{}", said(&allowed));
        for mode in ["disable", "prefer", "require"] {
            let psql = shell(
                lab,
                &format!("psql 'host=evil.test user=u dbname=d sslmode={mode}' -c 'select 1'"),
            );
            let reason =
                "FATAL:  interceptor: evil.test port 5432 was refused by the network policy";
            assert!(said(&psql).contains(reason), "{mode}: {}", said(&psql));
        }
    });
}

#[test]
fn git_prints_why_and_curl_takes_no_refusal_of_ftp_for_a_time_out() {
    Lab::test(|lab| {
        lab.unordered();
        for (host, reason) in [("evil.test", "host_denied"), (HOST, "protocol_denied")] {
            let git = shell(lab, &format!("git clone git://{host}/x /tmp/never"));
            let why = format!(
                "remote error: interceptor: {host} port 9418 was refused by the network policy"
            );
            assert!(said(&git).contains(&why), "{}", said(&git));
            let records: Vec<_> =
                git.audit.iter().filter(|record| record.kind == "connection").collect();
            assert_eq!(records.len(), 1, "{records:?}");
            assert_eq!(
                (records[0].reason.as_deref(), records[0].protocol.as_deref()),
                (Some(reason), Some("tcp"))
            );
        }
        // 8 is "weird server reply", 28 is "operation timed out".
        let ftp = shell(lab, "curl -sv ftp://evil.test/x; echo exit $?");
        assert!(ftp.out().contains("exit 8\n"), "{}", said(&ftp));
        assert!(
            said(&ftp).contains("< 530 interceptor: evil.test port 21 was refused"),
            "{}",
            said(&ftp)
        );
    });
}

#[test]
fn other_protocols_are_told_in_one_line_and_the_rest_is_reset() {
    Lab::test(|lab| {
        let program = r"
import json, socket
def talk(port, first):
    s = socket.create_connection(('evil.test', port)); s.settimeout(30)
    s.sendall(first)
    data = b''
    try:
        while piece := s.recv(4096): data += piece
    except ConnectionResetError: return 'reset'
    return data.decode('latin-1')
print(json.dumps([talk(6379, b'*1\r\n$4\r\nPING\r\n'), talk(25, b''), talk(21, b''),
                  talk(3306, b''), talk(110, b''), talk(143, b''),
                  talk(7000, b'\x05\x01\x00')]))";
        let outcome = lab.sandbox(&policy(lab)).quiet_log().python(program);
        outcome.success();
        let said: Vec<String> = serde_json::from_value(outcome.json()).expect("strings");
        let starts = ["-ERR interceptor: ", "554 5.7.1 ", "530 ", "", "-ERR ", "* BYE "];
        for (said, start) in said.iter().zip(starts) {
            assert!(
                said.starts_with(start) && said.contains("refused by the network policy"),
                "{said}"
            );
        }
        assert_eq!(said[6], "reset");
        let denied: Vec<_> =
            outcome.audit.iter().filter(|record| record.kind == "connection").collect();
        assert_eq!(denied.len(), 7, "{denied:?}");
        assert!(denied.iter().all(|record| record.reason.as_deref() == Some("host_denied")));
    });
}
