//! Requests on kept connections that origins close, as they may at any moment.

use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::until;
use interceptor_tests::origin::listen::Listener;
use interceptor_tests::origin::record::Seen;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

const HOST: &str = "api.example.test";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/v1"] }]));
    policy["network"]["allow"] = json!([HOST]);
    policy
}

/// How an origin ends a connection when the head of a second request arrives.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    CloseTcpAlone,
    Reset,
    /// After these bytes of an answer.
    After(&'static [u8]),
}

impl End {
    async fn of(self, mut stream: TlsStream<TcpStream>) -> io::Result<()> {
        match self {
            End::Close => stream.shutdown().await,
            End::CloseTcpAlone => stream.get_mut().0.shutdown().await,
            End::Reset => stream.get_ref().0.set_zero_linger(),
            End::After(bytes) => {
                stream.write_all(bytes).await?;
                stream.shutdown().await
            }
        }
    }
}

async fn head(stream: &mut TlsStream<TcpStream>) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The second requests of connections, as the origin received them.
type Seconds = Arc<Mutex<Vec<String>>>;

/// An origin that answers the first request of each connection and ends it at the second, once
/// allowed to.
fn fickle(lab: &Lab, end: End, may: &Arc<Notify>) -> (Listener, Seconds) {
    let seconds = Seconds::default();
    let (kept, may) = (seconds.clone(), may.clone());
    let listener = lab.talking(move |_, mut stream| {
        let (kept, may) = (kept.clone(), may.clone());
        async move {
            stream.write_all(ANSWER).await?;
            stream.flush().await?;
            let second = head(&mut stream).await?;
            kept.lock().unwrap().push(second);
            may.notified().await;
            may.notify_one();
            end.of(stream).await
        }
    });
    (listener, seconds)
}

/// An origin that may do so at once.
fn at_once() -> Arc<Notify> {
    let may = Arc::new(Notify::new());
    may.notify_one();
    may
}

/// Asserts that the second request arrived once, on the kept connection.
fn once(lab: &Lab, seconds: &Seconds) {
    let seconds = seconds.lock().unwrap();
    assert_eq!((lab.seen().len(), seconds.len()), (1, 1), "{seconds:?}");
    lab.shared().records.push(Seen::from_head(&seconds[0]));
}

#[test]
fn a_safe_request_on_a_kept_connection_that_ends_is_sent_again_on_a_new_one() {
    for end in [End::Close, End::CloseTcpAlone, End::Reset] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            Lab::test(|lab| {
                let (origin, seconds) = fickle(lab, end, &at_once());
                let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
                let plan = Plan::https(HOST, "http/1.1");
                let plan = plan.ask("GET", "/v1/first").ask(method, "/v1/second?a=b");
                let (reports, outcome) = sandbox.fetch_outcome(&plan);
                let statuses: Vec<u16> =
                    reports[0].answers.iter().map(|answer| answer.status).collect();
                assert_eq!(statuses, [200, 200], "{end:?} {method}: {reports:?}");
                assert_eq!(outcome.requests("allow").len(), 2, "one record each");
                // The origin received it twice, unchanged. The lab's records have those of new
                // connections.
                let (seen, seconds) = (lab.seen(), seconds.lock().unwrap().clone());
                assert_eq!(seen.len(), 2, "{seen:?}");
                let again = &seen[1];
                assert_eq!((again.method.as_str(), again.query.as_deref()), (method, Some("a=b")));
                assert_eq!(again.values("authorization"), [format!("Bearer {}", lab.key())]);
                assert_eq!(seconds.len(), 1, "{end:?} {method}");
                assert!(
                    seconds[0].starts_with(&format!("{method} /v1/second?a=b ")),
                    "{seconds:?}"
                );
                assert!(seconds[0].contains(&format!("Bearer {}", lab.key())), "{seconds:?}");
            });
        }
    }
}

#[test]
fn what_might_do_harm_twice_or_was_half_answered_is_sent_once() {
    let early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    for (method, body, end) in [
        ("POST", "", End::Close),
        ("POST", "body", End::Reset),
        ("PUT", "", End::Close),
        ("DELETE", "", End::Close),
        ("GET", "body", End::Close),
        ("GET", "", End::After(b"H")),
        ("GET", "", End::After(early)),
        ("GET", "", End::After(b"no HTTP at all\r\n\r\n")),
    ] {
        Lab::test(|lab| {
            let (origin, seconds) = fickle(lab, end, &at_once());
            let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
            let plan = Plan::https(HOST, "http/1.1").ask("GET", "/v1/first");
            let plan = plan.ask_with(method, "/v1/second", &[], body);
            let (reports, outcome) = sandbox.fetch_outcome(&plan);
            let refusal = reports[0].answers[1].refusal();
            let what = (refusal.status, refusal.reason.as_str());
            assert_eq!(what, (502, "upstream_protocol"), "{method} {end:?}");
            assert_eq!(outcome.requests("allow").len(), 2, "the origin had both");
            once(lab, &seconds);
        });
    }
}

#[test]
fn r9_a_request_is_not_sent_again_under_rules_that_were_replaced() {
    Lab::test(|lab| {
        let may = Arc::new(Notify::new());
        let (origin, seconds) = fickle(lab, End::Close, &may);
        let daemon = lab.daemon().quiet_log().resolve(HOST, origin.address()).start();
        let guest = daemon.guest(&policy(lab));
        let asking = format!("curl -sS --http1.1 https://{HOST}/v1/first https://{HOST}/v1/second");
        let mut shell = guest.command("sh");
        let asking = shell.args(["-c", &asking]).stdout(Stdio::piped()).spawn().unwrap();
        assert!(until(|| seconds.lock().unwrap().len() == 1));
        assert_eq!(daemon.replace(&guest, &policy(lab), false).status, 200);
        may.notify_one();
        let said = asking.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("upstream_protocol"), "{said}");
        once(lab, &seconds);
        daemon.finish();
    });
}
