use std::time::Instant;

use http::{Method, StatusCode};
use zeroize::Zeroizing;

use super::doubles::{Says, Service};
use super::error::LARGEST;
use super::*;
use crate::tls::ca::Ca;
use crate::tls::client::{self, ClientConfigs};
use crate::upstream::{NameServers, Overrides, UpstreamOptions};

const LONG: Duration = Duration::from_secs(60);

fn upstream(overrides: &[String]) -> Upstream {
    let overrides: Overrides = overrides.iter().map(|text| text.parse().unwrap()).collect();
    let name_servers = NameServers::These(Vec::new());
    Upstream::new(UpstreamOptions { overrides, name_servers, ..UpstreamOptions::default() })
}

fn road(trusted: Option<&Ca>) -> Road {
    let texts: Vec<_> = trusted.iter().map(|ca| ca.pem().as_bytes().to_vec()).collect();
    let verifier = client::verifier(&[], &texts).unwrap();
    Road::direct(ClientConfigs::new(client::base(verifier).unwrap()))
}

fn client() -> Client {
    Client::new(upstream(&[]), road(None)).unwrap()
}

fn get(service: &Service) -> Request {
    Request::new(Method::GET, service.url("/token?x=1"))
}

/// What is said of a service that answers so.
fn failure(says: impl Fn() -> Says + Send + Sync + 'static, limit: Duration) -> String {
    let service = Service::start(move |_| says());
    let answer = client().send(&get(&service), limit);
    let error = answer.map(|answer| answer.status).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("canary"), "{shown}");
    error.to_string()
}

#[test]
fn a_request_is_sent_whole_and_its_answer_read_whole() {
    let service = Service::start(|_| Says::answer("418 x", "", "canary"));
    let request = Request::new(Method::POST, service.url("/token?x=1"))
        .authorization("Basic", b"canary-authorization")
        .body("text/plain", Zeroizing::new(b"canary-body".to_vec()));
    let answer = client().send(&request, LONG).unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::IM_A_TEAPOT, &b"canary"[..]));
    let shown = format!("{answer:?} {request:?} {:?}", client());
    assert!(!shown.contains("canary"), "{shown}");
    let heard = &service.heard()[0];
    assert_eq!(
        (heard.line.as_str(), heard.body.as_str()),
        ("POST /token?x=1 HTTP/1.1", "canary-body")
    );
    let agent = concat!("interceptor/", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        ("host", service.address.to_string().as_str()),
        ("authorization", "Basic canary-authorization"),
        ("content-type", "text/plain"),
        ("accept-encoding", "identity"),
        ("user-agent", agent),
    ] {
        assert_eq!(heard.field(name), Some(value), "{name}");
    }
}

#[test]
fn an_answer_in_chunks_is_put_together_and_one_at_the_bound_is_taken() {
    let chunked =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let service = Service::start(|_| Says::These(chunked.to_vec()));
    assert_eq!(client().send(&get(&service), LONG).unwrap().body[..], b"abcde"[..]);
    let service = Service::start(|_| Says::answer("200 OK", "", &"x".repeat(LARGEST)));
    assert_eq!(client().send(&get(&service), LONG).unwrap().body.len(), LARGEST);
}

#[test]
fn what_is_no_answer_is_told_without_anything_that_came_with_it() {
    let redirect = || Says::answer("302 canary", "location: /canary\r\n", "canary");
    assert_eq!(failure(redirect, LONG), "answered 302 with a redirect, which is not followed");
    for coding in ["gzip", "br", "identity, gzip", "canary"] {
        let coded =
            move || Says::answer("200 OK", &format!("content-encoding: {coding}\r\n"), "canary");
        assert_eq!(failure(coded, LONG), "answered in a content coding that it was not offered");
    }
    let broken = "broke off its answer, or did not answer in HTTP";
    for bytes in [
        &b""[..],
        b"canary\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncanary",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ncanary\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ncanary\r\n",
    ] {
        assert_eq!(
            failure(|| Says::These(bytes.to_vec()), LONG),
            broken,
            "{}",
            bytes.escape_ascii()
        );
    }
    let fields = "x-canary: canary\r\n".repeat(MOST_FIELDS + 1);
    assert_eq!(failure(move || Says::answer("200 OK", &fields, ""), LONG), broken);
    let field = format!("x-canary: {}\r\n", "c".repeat(4 * MOST_HEAD));
    assert_eq!(failure(move || Says::answer("200 OK", &field, ""), LONG), broken);
}

#[test]
fn a_flood_and_silence_have_an_end() {
    for head in
        ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\ncanary"]
    {
        let flood = || Says::AndFloods(head.into());
        assert_eq!(failure(flood, LONG), "answered with more than 64 KiB");
    }
    let head = || Says::AndFloods(b"HTTP/1.1 200 OK\r\nx-canary: ".to_vec());
    assert_eq!(failure(head, LONG), "broke off its answer, or did not answer in HTTP");
    let before = Instant::now();
    for bytes in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncanary"] {
        let silence = || Says::AndHangs(bytes.into());
        let told = failure(silence, Duration::from_millis(200));
        assert_eq!(told, "did not answer within 0.2 s");
    }
    assert!(before.elapsed() < LONG);
}

#[test]
fn a_name_is_dialled_where_resolve_says_and_trusted_by_the_roads_roots() {
    let ca = Ca::new("service").unwrap();
    let service = Service::start_tls(&ca, "token.test", |_| Says::answer("200 OK", "", "yes"));
    let overrides = ["token.test", "other.test"].map(|name| format!("{name}:{}", service.address));
    let send = |url: &str, trusted: Option<&Ca>| {
        let client = Client::new(upstream(&overrides), road(trusted)).unwrap();
        let request = Request::new(Method::GET, ServiceUrl::parse(url).unwrap());
        let answer = client.send(&request, LONG);
        answer.map(|answer| answer.body.to_vec()).map_err(|error| error.to_string())
    };
    assert_eq!(send("https://token.test/", Some(&ca)), Ok(b"yes".to_vec()));
    let distrust = "has a certificate that is not trusted for its name (see --upstream-ca)";
    assert_eq!(send("https://token.test/", None), Err(distrust.to_owned()));
    assert_eq!(send("https://other.test/", Some(&ca)), Err(distrust.to_owned()));
    let unknown = send("https://unknown.test/", Some(&ca)).unwrap_err();
    assert!(unknown.starts_with("cannot be reached: cannot look up unknown.test"), "{unknown}");
    // It heard only the one that trusted it.
    assert_eq!(service.heard().len(), 1);
}

#[tokio::test]
async fn it_may_be_called_from_within_a_runtime() {
    let service = Service::start(|_| Says::json("200 OK", &serde_json::json!({"a": 1})));
    assert_eq!(client().send(&get(&service), LONG).unwrap().body[..], br#"{"a":1}"#[..]);
}
