//! Governed requests, each judged, given its key, forwarded, and its answer searched for the key.
//! All is the real thing but the two streams, which are in memory: no TLS, no sockets. The peers at
//! the other ends are counted too; over HTTP/1.1 they write fixed bytes.

use std::sync::Arc;

use bytes::Bytes;
use interceptor::accept::serve_in_memory;
use interceptor::audit::Audit;
use interceptor::credential::Keyring;
use interceptor::proxy::{HandedSandbox, Runtime, RuntimeOptions, Sandbox};
use interceptor::upstream::{NameServers, Upstream, UpstreamOptions};
use interceptor_policy::{Catalogue, Document, Host, Policy};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime as Tokio;

use crate::measured;

/// Requests before the count, which fill what is kept.
const WARM: usize = 8;
/// Requests that are counted.
const COUNTED: usize = 32;
/// What fits into a stream.
const ROOM: usize = 64 << 10;

const HOST: &str = "api.example.test";
const PATH: &str = "/v1/chat/completions";
const KEY: &str = "sk-proj-Zr8tQ1vB6nXw3LkY9dPfG2hJ5mC7sT4uA0eR";
const PLACEHOLDER: &str = "sk-proj-8fK2mQ9xWcB5tLrY3nDpVhZs7Gj4Ea6Uo1Ti";
/// Where the random part of the placeholder begins, and how much of it identifies it.
const RANDOM: (usize, usize) = (8, 24);

const BODY: &str = concat!(
    r#"{"model":"gpt-5","stream":false,"messages":["#,
    r#"{"role":"system","content":"Answer in one sentence."},"#,
    r#"{"role":"user","content":"What is an egress proxy?"}]}"#,
);
const ANSWER: &str = concat!(
    r#"{"id":"chatcmpl-123","object":"chat.completion","created":1712345678,"model":"gpt-5","#,
    r#""choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","#,
    r#""content":"An egress proxy stands between programs and the Internet, and decides what "#,
    r#"may leave."}}],"usage":{"prompt_tokens":24,"completion_tokens":16,"total_tokens":40}}"#,
);
/// What the clients of an API send besides.
const FIELDS: [(&str, &str); 8] = [
    ("accept", "application/json"),
    ("user-agent", "OpenAI/Python 1.99.9"),
    ("x-stainless-lang", "python"),
    ("x-stainless-package-version", "1.99.9"),
    ("x-stainless-os", "Linux"),
    ("x-stainless-arch", "x64"),
    ("x-stainless-retry-count", "0"),
    ("content-type", "application/json"),
];

/// Over HTTP/1.1, in a process with so many more sandboxes: what a request costs does not depend on
/// them.
pub(crate) fn http1(neighbours: usize) {
    let tokio = one_thread();
    let _entered = tokio.enter();
    let runtime = shared();
    let _others: Vec<_> = (0..neighbours).map(|n| sandbox(&runtime, &format!("n{n}"))).collect();
    let (mut client, origin) = served(&runtime, false);
    tokio.spawn(answer_http1(origin));
    let fields: String =
        FIELDS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {PLACEHOLDER}\r\n\
         {fields}content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut answer = Vec::with_capacity(ROOM);
    count(&tokio, async |times| {
        for _ in 0..times {
            answer.clear();
            client.write_all(request.as_bytes()).await.expect("it is served");
            while !answer.ends_with(ANSWER.as_bytes()) {
                let read = client.read_buf(&mut answer).await.expect("an answer");
                assert_ne!(read, 0, "{}", answer.escape_ascii());
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
        }
    });
}

/// Over HTTP/2 on both sides, where the peers are the library's.
pub(crate) fn http2() {
    let tokio = one_thread();
    let _entered = tokio.enter();
    let (client, origin) = served(&shared(), true);
    tokio.spawn(answer_http2(origin));
    let shaken = tokio.block_on(h2::client::handshake(client));
    let (mut sender, connection) = shaken.expect("HTTP/2");
    tokio.spawn(connection);
    count(&tokio, async |times| {
        for _ in 0..times {
            let mut request = http::Request::post(format!("https://{HOST}{PATH}"))
                .header("authorization", format!("Bearer {PLACEHOLDER}"));
            for (name, value) in FIELDS {
                request = request.header(name, value);
            }
            let request = request.body(()).expect("a request");
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await.expect("it is served");
            let (response, mut body) = sender.send_request(request, false).expect("a stream");
            body.send_data(Bytes::from_static(BODY.as_bytes()), true).expect("a stream");
            let response = response.await.expect("an answer");
            assert_eq!(response.status(), 200);
            assert_eq!(read(response.into_body()).await, ANSWER.as_bytes());
        }
    });
}

/// Counts requests after those that fill what is kept.
fn count(tokio: &Tokio, mut ask: impl AsyncFnMut(usize)) {
    tokio.block_on(ask(WARM));
    measured(&mut || tokio.block_on(ask(COUNTED)));
}

/// All tasks on this thread.
fn one_thread() -> Tokio {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// What all sandboxes share: no records, no name server.
fn shared() -> Arc<Runtime> {
    let name_servers = NameServers::These(Vec::new());
    let upstream = Upstream::new(UpstreamOptions { name_servers, ..UpstreamOptions::default() });
    let audit = Audit::discard().expect("a thread");
    Runtime::new(RuntimeOptions { upstream, upstream_ca: Vec::new(), roots: Vec::new(), audit })
        .expect("roots")
}

/// A sandbox with one credential, whose placeholder is the same in each run.
fn sandbox(runtime: &Arc<Runtime>, id: &str) -> Arc<Sandbox> {
    let document = serde_json::json!({
        "network": { "allow": [HOST] },
        "credentials_v2": { "c": {
            "key": KEY, "hosts": [HOST],
            "endpoints": [{ "methods": ["POST"], "paths": ["/v1/**"] }],
        } },
    });
    let parsed = Document::parse(&document.to_string()).expect("a document");
    let policy = Policy::compile(&parsed.document, &Catalogue::builtin()).expect("a policy");
    let keyring = keyring(&policy);
    Sandbox::new(runtime, id, policy, keyring).expect("a sandbox")
}

/// Keys as another process would hand them over.
fn keyring(policy: &Policy) -> Keyring {
    let handed = serde_json::json!({
        "certificate": "", "key": "", "token": "",
        "keyring": { "retired": [], "keys": [{
            "name": "c", "current": KEY, "previous": null, "file": null,
            "placeholder": { "text": PLACEHOLDER, "random": RANDOM.0, "probe": RANDOM.1 },
        }] },
    });
    let mut handed: HandedSandbox = serde_json::from_value(handed).expect("it is complete");
    handed.keyring(policy).expect("its keys")
}

/// The other ends of a connection that is served: the client's and the origin's.
fn served(runtime: &Arc<Runtime>, h2: bool) -> (DuplexStream, DuplexStream) {
    let host = Host::parse(HOST).expect("a host");
    let (client, from_client) = tokio::io::duplex(ROOM);
    let (to_origin, origin) = tokio::io::duplex(ROOM);
    tokio::spawn(serve_in_memory(sandbox(runtime, "one"), host, (from_client, to_origin), h2));
    (client, origin)
}

async fn answer_http1(mut stream: DuplexStream) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: 1\r\n\
         content-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    let mut asked = Vec::with_capacity(ROOM);
    for number in 0.. {
        asked.clear();
        while !asked.ends_with(BODY.as_bytes()) {
            if stream.read_buf(&mut asked).await.expect("in memory") == 0 {
                return;
            }
        }
        // Looked at once, since this counts too.
        if number == 0 {
            let keys = asked.windows(KEY.len()).filter(|window| *window == KEY.as_bytes()).count();
            assert_eq!(keys, 1, "{}", asked.escape_ascii());
        }
        stream.write_all(answer.as_bytes()).await.expect("in memory");
    }
}

async fn answer_http2(stream: DuplexStream) {
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let key = request.headers().get("authorization").map(http::HeaderValue::as_bytes);
            assert_eq!(key, Some(format!("Bearer {KEY}").as_bytes()));
            assert_eq!(read(request.into_body()).await, BODY.as_bytes());
            let response =
                http::Response::builder().header("content-type", "application/json").body(());
            let mut body =
                respond.send_response(response.expect("a response"), false).expect("a stream");
            body.send_data(Bytes::from_static(ANSWER.as_bytes()), true).expect("a stream");
        });
    }
}

async fn read(mut body: h2::RecvStream) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("a body");
        body.flow_control().release_capacity(data.len()).expect("it was counted");
        read.extend_from_slice(&data);
    }
    read
}
