//! What a connection costs that is kept and idle. The only test of its file: what is measured is
//! the memory of its process.

use std::time::Duration;

use interceptor::audit::Audit;
use interceptor_tests::Lab;
use interceptor_tests::inprocess::{self, Served, connect};
use interceptor_tests::measure::processes::Tree;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const HOST: &str = "api.example.test";
/// Together with the proxy's ends they fit into 1,024 open files.
const CONNECTIONS: usize = 300;
/// KiB for both ends of one, the client's TLS included, in a build without optimisation.
const MOST_EACH: u64 = 36;

/// Asks for an answer without a body, so that it ends with its head.
async fn ask(stream: &mut TlsStream<TcpStream>) {
    let request = format!("GET /status/204 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 204"), "{}", head.escape_ascii());
}

#[test]
fn an_idle_connection_costs_little_and_is_served_again() {
    let lab = Lab::new(&["http/1.1"]);
    let tree = Tree::new(std::process::id());
    let memory = || tree.settled_memory(Duration::from_secs(5)).unwrap();
    lab.handle().block_on(async {
        let runtime = inprocess::runtime(&lab, Audit::discard().unwrap(), &[HOST]);
        let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        policy["limits"] = json!({ "connections": 2 * CONNECTIONS });
        let served = Served::start(&runtime, "one", &policy);
        let trust = served.trust();
        let hold = async |number: usize| {
            let mut kept = Vec::new();
            for _ in 0..number {
                let mut stream = connect(served.tls, HOST, trust.clone()).await.unwrap();
                ask(&mut stream).await;
                kept.push(stream);
            }
            kept
        };
        // What is set up with the first ones belongs to none of them.
        let first = hold(50).await;
        let before = memory();
        let mut kept = hold(CONNECTIONS).await;
        let each = memory().saturating_sub(before) / CONNECTIONS as u64 / 1024;
        println!("{each} KiB for both ends of an idle connection");
        assert!(each <= MOST_EACH, "{each} KiB");
        for stream in &mut kept {
            ask(stream).await;
        }
        drop(first);
    });
}
