//! WebSocket clients: the handshake carries the placeholder and reaches the origin with the key;
//! messages of every kind pass.

use std::ffi::OsString;

use interceptor_tests::clients::{self, NODE, PYTHON, conversation};
use interceptor_tests::{Lab, command};

#[track_caller]
fn hold(interpreter: &str, script: &str) {
    Lab::test(|lab| {
        let script = clients::script(lab, script);
        clients::link_node_packages(lab);
        let command: [OsString; 3] =
            command![interpreter, script, format!("wss://{}", conversation::HOST)];
        let sandbox = lab.sandbox(&conversation::policy(lab)).at_origin(conversation::HOST);
        let outcome = sandbox.with_python_packages().run(&command);
        outcome.success();
        let out = outcome.out();
        let lines: Vec<&str> = out.lines().skip(1).collect();
        let expected = [
            "echo message 0",
            "echo message 1",
            "echo message 2",
            "long 300000",
            "binary 00ff",
            "pong",
        ];
        assert_eq!(lines[..6], expected, "{out}\n{}", outcome.tail());
        assert!(
            lines[6].starts_with("refused 403 ") && lines[6].contains("endpoint_denied"),
            "{out}"
        );
        conversation::assert_real_key(lab, &["/v1/lab/ws"]);
        assert_eq!(outcome.requests("allow")[0].protocol.as_deref(), Some("ws"));
        outcome.one_denied("endpoint_denied");
    });
}

#[test]
fn python_websockets() {
    hold(PYTHON, "python/websocket_client.py");
}

#[test]
fn node_ws() {
    hold(NODE, "node/websocket_client.mjs");
}
