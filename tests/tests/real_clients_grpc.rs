//! gRPC by grpcio, client and server: unary and streaming calls, trailers, an error of the server
//! and a refusal of the proxy.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use interceptor_tests::clients::{self, PYTHON};
use interceptor_tests::origin::record::Seen;
use interceptor_tests::{Lab, command};
use serde_json::{Value, json};

const HOST: &str = "grpc.example.test";

/// A real gRPC server, with a certificate from the lab's CA.
struct Server {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(lab: &Lab) -> Server {
        let (certificate, key) = lab.ca().certificate_pem(HOST);
        let files = [("grpc.pem", certificate), ("grpc-key.pem", key)];
        let files = files.map(|(name, content)| lab.secret_file(name, &content));
        let script = lab.directory().join("grpc_server.py");
        fs::write(&script, clients::text("python/grpc_server.py")).expect("own directory");
        let mut command = Command::new(PYTHON);
        command.arg(script).args(files).env("PYTHONPATH", clients::python_packages());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a server");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the server's port");
        let port = line.strip_prefix("port ").and_then(|port| port.trim().parse().ok());
        let port = port.unwrap_or_else(|| panic!("the gRPC server said {line:?}"));
        Server { child, output, address: (Ipv4Addr::LOCALHOST, port).into() }
    }

    /// Ends the server, and returns what it saw, in order.
    fn end(mut self) -> Vec<Value> {
        drop(self.child.stdin.take());
        let lines = self
            .output
            .by_ref()
            .lines()
            .map(|line: std::io::Result<String>| line.expect("the server's output"));
        lines.map(|line| serde_json::from_str(&line).expect("a JSON object a line")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn grpcio_unary_streaming_and_trailers() {
    Lab::test(|lab| {
        let server = Server::start(lab);
        let paths = ["/lab.Lab/Unary", "/lab.Lab/Stream", "/lab.Lab/Fail"];
        let rules = json!([{ "methods": ["POST"], "paths": paths }]);
        let script = clients::script(lab, "python/grpc_client.py");
        let sandbox =
            lab.sandbox(&lab.governed(HOST, rules)).resolve(&format!("{HOST}:443"), server.address);
        let outcome =
            sandbox.with_python_packages().run(&command![PYTHON, script, format!("{HOST}:443")]);
        let seen = server.end();
        outcome.success();
        let out = outcome.out();
        let lines: Vec<&str> = out.lines().skip(1).collect();
        assert_eq!(
            lines[..6],
            [
                "unary unary hello at the end",
                "stream message 0",
                "stream message 1",
                "stream message 2",
                "ended OK at the end",
                "Fail FAILED_PRECONDITION failed, as was asked",
            ],
            "{out}\n{}",
            outcome.tail()
        );
        // The reason in words, not only what gRPC makes of 403.
        assert!(
            lines[6].starts_with("Forbidden PERMISSION_DENIED POST /lab.Lab/Forbidden was refused"),
            "{out}"
        );
        assert!(lines[6].contains("to permit it, add"), "{out}");
        outcome.one_denied("endpoint_denied");

        let methods: Vec<_> =
            seen.iter().map(|call| call["method"].as_str().expect("a method")).collect();
        assert_eq!(methods, ["/lab.Lab/Unary", "/lab.Lab/Stream", "/lab.Lab/Fail"]);
        for call in &seen {
            let metadata = call["metadata"].as_array().expect("metadata");
            let keys: Vec<_> = metadata
                .iter()
                .filter(|pair| pair[0] == "authorization")
                .map(|pair| &pair[1])
                .collect();
            // Not shown where it differs: it may be a key.
            assert!(keys == [&json!(format!("Bearer {}", lab.key()))], "{} keys", keys.len());
            assert!(!call.to_string().contains("proxy-managed"));
            // For the oracle that compares with the audit file.
            let method = call["method"].as_str().expect("a method");
            lab.shared().records.push(Seen::of_grpc(HOST, method));
        }
    });
}
