//! Proxies, well-behaved and otherwise: each test plays the proxy itself.

use std::sync::Mutex;

use interceptor_policy::{NoProxy, ProxyUrl, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use super::test_support::{Says, TestNameServer, policy, tls};
use super::*;

const SECRET: &str = "Basic c2VjcmV0LWNhbmFyeQ==";

/// A credential that counts how often it was asked for.
#[derive(Debug, Default)]
struct Auth(Mutex<usize>);

impl Authorization for Auth {
    fn value(&self) -> AuthorizationValue<'_> {
        *self.0.lock().unwrap() += 1;
        Box::pin(async { Some(Zeroizing::new(SECRET.to_owned())) })
    }
}

/// A proxy that reads one head per connection, keeps it, and then does what `answers` returns.
struct Proxy {
    url: ProxyUrl,
    heads: Arc<Mutex<Vec<String>>>,
    _task: tokio::task::JoinHandle<()>,
}

/// What a proxy does with a connection.
type Answers = Arc<dyn Fn(usize) -> Act + Send + Sync>;

#[derive(Clone)]
enum Act {
    /// Sends this and closes.
    Say(Vec<u8>),
    /// Sends this in pieces of so many bytes, then echoes what it receives.
    Echo(&'static [u8], usize),
    /// Sends this again and again.
    Endless(&'static [u8]),
    /// Sends this and nothing more.
    Hang(&'static [u8]),
}

impl Proxy {
    async fn start(answers: impl Fn(usize) -> Act + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (kept, answers): (_, Answers) = (heads.clone(), Arc::new(answers));
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, kept.clone(), answers(number)));
                number += 1;
            }
        });
        let url = ProxyUrl::parse(&format!("http://{address}")).unwrap();
        Proxy { url, heads, _task: task }
    }

    fn road(&self, auth: bool) -> Road {
        let server = || ProxyServer {
            url: self.url.clone(),
            auth: auth.then(|| Arc::new(Auth::default()) as Arc<dyn Authorization>),
        };
        Road { https: Some(server()), http: Some(server()), ..Road::direct(tls()) }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>, act: Act) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
    match act {
        Act::Say(words) => drop(stream.write_all(&words).await),
        Act::Echo(words, piece) => {
            for part in words.chunks(piece) {
                stream.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            let (mut read, mut write) = stream.split();
            drop(tokio::io::copy(&mut read, &mut write).await);
        }
        Act::Endless(words) => while stream.write_all(words).await.is_ok() {},
        Act::Hang(words) => {
            stream.write_all(words).await.unwrap();
            std::future::pending().await
        }
    }
}

/// An upstream that resolves every name here, and gives a proxy half a second.
async fn upstream() -> (Upstream, TestNameServer) {
    let server = TestNameServer::start(|_, kind| {
        Says::addresses(60, kind, &["93.184.216.34", "2606:2800::1"])
    })
    .await;
    let upstream = Upstream::new(UpstreamOptions {
        name_servers: NameServers::These(vec![server.address]),
        proxy_timeout: Duration::from_millis(500),
        ..UpstreamOptions::default()
    });
    (upstream, server)
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

async fn connect(road: &Road, rules: &str, to: &str) -> Result<Dialed, UpstreamError> {
    let (upstream, _server) = upstream().await;
    let policy = policy(rules);
    upstream.connect(Terms { policy: &policy, road }, Scheme::Https, &host(to), 443).await
}

const OPEN: &[u8] = b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n";

#[tokio::test]
async fn h7_the_proxy_is_asked_for_the_judged_address_and_carries_what_follows() {
    for piece in [1, 2, 7, OPEN.len()] {
        let proxy = Proxy::start(move |_| Act::Echo(OPEN, piece)).await;
        let mut dialed = connect(&proxy.road(true), "{}", "api.example.com").await.unwrap();
        assert_eq!(dialed.address, "93.184.216.34:443".parse().ok());
        dialed.stream.write_all(b"\x16\x03\x01hello").await.unwrap();
        let mut back = [0; 8];
        dialed.stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"\x16\x03\x01hello");
        let asked = format!(
            "CONNECT 93.184.216.34:443 HTTP/1.1\r\nhost: 93.184.216.34:443\r\n\
             proxy-authorization: {SECRET}\r\n\r\n"
        );
        assert_eq!(proxy.heads(), [asked]);
    }
}

#[tokio::test]
async fn what_a_server_says_first_is_not_lost() {
    let words = b"HTTP/1.1 200 OK\r\n\r\n220 ready\r\n";
    let proxy = Proxy::start(move |_| Act::Echo(words, words.len())).await;
    let mut dialed = connect(&proxy.road(false), "{}", "api.example.com").await.unwrap();
    dialed.stream.readable().await;
    let mut greeting = [0; 11];
    dialed.stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}

#[tokio::test]
async fn h2_every_way_to_open_no_tunnel_has_its_type_and_its_remedy() {
    const LONG: &[u8] =
        b"x-canary: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
    let status = |line: &str| {
        let text =
            format!("HTTP/1.1 {line} canary\r\nx: canary\r\ncontent-length: 6\r\n\r\ncanary");
        Act::Say(text.into_bytes())
    };
    let say = |text: &str| Act::Say(text.as_bytes().to_vec());
    let table = [
        (status("407"), Reason::UpstreamUnreachable, "requires a credential (407)"),
        (status("403"), Reason::UpstreamUnreachable, "refused the connection with status 403"),
        (status("500"), Reason::UpstreamUnreachable, "refused the connection with status 500"),
        (status("502"), Reason::UpstreamUnreachable, "status 502"),
        (status("504"), Reason::UpstreamTimeout, "status 504"),
        (status("302"), Reason::UpstreamProtocol, "redirect (status 302), which is not followed"),
        (status("101"), Reason::UpstreamProtocol, "does not answer in HTTP"),
        (status("999"), Reason::UpstreamProtocol, "does not answer in HTTP"),
        (status("200"), Reason::UpstreamProtocol, "sent a body"),
        (
            say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ncanary\r\n0\r\n\r\n"),
            Reason::UpstreamProtocol,
            "sent a body",
        ),
        (say("SSH-2.0-canary\r\n\r\n"), Reason::UpstreamProtocol, "does not answer in HTTP"),
        (say("HTTP/1.1 200 OK\r\ncan ary\r\n\r\n"), Reason::UpstreamProtocol, "in HTTP"),
        (say("HTTP/2 200 canary\r\n\r\n"), Reason::UpstreamProtocol, "in HTTP"),
        (say("HTTP/1.1 200 can\0ary\r\n\r\n"), Reason::UpstreamProtocol, "in HTTP"),
        (say("HTTP/1.1 200 canary\r\n"), Reason::UpstreamProtocol, "ended the connection"),
        (say(""), Reason::UpstreamProtocol, "ended the connection without an answer"),
        (Act::Endless(LONG), Reason::UpstreamProtocol, "more than 16384 bytes"),
        (
            Act::Endless(b"HTTP/1.1 100 canary\r\n\r\n"),
            Reason::UpstreamProtocol,
            "more than 16384 bytes",
        ),
        (Act::Hang(b""), Reason::UpstreamTimeout, "did not answer within 0.5 s"),
        (Act::Hang(b"HTTP/1.1 200 canary\r\n"), Reason::UpstreamTimeout, "did not answer within"),
    ];
    for (act, reason, words) in table {
        let proxy = Proxy::start(move |_| act.clone()).await;
        let error = connect(&proxy.road(false), "{}", "api.example.com").await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.reason(), reason, "{text}");
        assert!(text.contains(words) && text.contains(&proxy.url.to_string()), "{words}: {text}");
        assert!(!format!("{text} {error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_credential_that_is_refused_is_not_shown() {
    let proxy =
        Proxy::start(|_| Act::Say(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let error = connect(&proxy.road(true), "{}", "api.example.com").await.unwrap_err();
    assert!(error.to_string().contains("did not accept the credential"), "{error}");
    assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer() {
    let proxy = Proxy::start(|_| {
        let answers = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\n\
                        HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        Act::Echo(answers, 5)
    })
    .await;
    assert!(connect(&proxy.road(false), "{}", "api.example.com").await.is_ok());
}

#[tokio::test]
async fn the_next_address_is_tried_where_the_proxy_cannot_reach_one() {
    let proxy = Proxy::start(|number| match number {
        0 => Act::Say(b"HTTP/1.1 503 No route\r\ncontent-length: 0\r\n\r\n".to_vec()),
        _ => Act::Echo(OPEN, 100),
    })
    .await;
    let dialed = connect(&proxy.road(false), "{}", "api.example.com").await.unwrap();
    assert_eq!(dialed.address, "[2606:2800::1]:443".parse().ok());
    let lines: Vec<String> =
        proxy.heads().iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
    assert_eq!(
        lines,
        ["CONNECT 93.184.216.34:443 HTTP/1.1", "CONNECT [2606:2800::1]:443 HTTP/1.1"]
    );
}

#[tokio::test]
async fn d3_special_addresses_are_refused_before_any_proxy_is_asked() {
    let proxy = Proxy::start(|_| Act::Echo(OPEN, 100)).await;
    let road = proxy.road(true);
    let server =
        TestNameServer::start(|_, kind| Says::addresses(60, kind, &["169.254.169.254"])).await;
    let upstream = Upstream::new(UpstreamOptions {
        name_servers: NameServers::These(vec![server.address]),
        ..UpstreamOptions::default()
    });
    let open = policy("{}");
    let denied = policy(r#"{"network":{"deny":["93.184.216.0/24","2606::/16"]}}"#);
    let terms = Terms { policy: &open, road: &road };
    let error = upstream.connect(terms, Scheme::Https, &host("a.test"), 443).await.unwrap_err();
    assert_eq!(error.reason(), Reason::HostDenied);
    let (upstream, _server) = self::upstream().await;
    let terms = Terms { policy: &denied, road: &road };
    let error = upstream.connect(terms, Scheme::Https, &host("a.test"), 443).await.unwrap_err();
    assert_eq!(error.reason(), Reason::HostDenied);
    assert!(proxy.heads().is_empty());
}

#[tokio::test]
async fn a_proxy_that_resolves_gets_the_name_and_no_name_server_is_asked() {
    let proxy = Proxy::start(|_| Act::Echo(OPEN, 100)).await;
    let mut road = proxy.road(false);
    road.proxy_resolves = true;
    road.no_proxy.add_rules(["*.corp"]);
    let (upstream, server) = upstream().await;
    let policy = policy("{}");
    let terms = Terms { policy: &policy, road: &road };
    let dialed = upstream.connect(terms, Scheme::Https, &host("API.test"), 8443).await.unwrap();
    assert_eq!(dialed.address, None);
    assert!(
        proxy.heads()[0].starts_with("CONNECT api.test:8443 HTTP/1.1\r\nhost: api.test:8443\r\n")
    );
    assert!(server.log().is_empty());
    assert!(road.resolves_elsewhere(host("api.test").name().unwrap()));
    assert!(!road.resolves_elsewhere(host("api.corp").name().unwrap()));
    assert!(!road.resolves_elsewhere(host("host.docker.internal").name().unwrap()));
    // Nobody reaches the proxy's own loopback services.
    for name in ["localhost", "x.localhost", "127.0.0.1", "169.254.169.254"] {
        let error = upstream.connect(terms, Scheme::Https, &host(name), 80).await.unwrap_err();
        assert_eq!(error.reason(), Reason::HostDenied, "{name}");
    }
    assert_eq!(proxy.heads().len(), 1);
    // If only plain HTTP has a proxy, it may still be the only one to resolve a name.
    road.https = None;
    assert!(road.resolves_elsewhere(host("api.test").name().unwrap()));
}

#[tokio::test]
async fn no_proxy_and_the_host_itself_are_dialled_directly() {
    let proxy = Proxy::start(|_| Act::Echo(OPEN, 100)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = TestNameServer::start(|_, kind| Says::addresses(60, kind, &["127.0.0.1"])).await;
    let upstream = Upstream::new(UpstreamOptions {
        name_servers: NameServers::These(vec![server.address]),
        ..UpstreamOptions::default()
    });
    let own = format!("host.interceptor.internal:{port}");
    let policy = policy(&format!(
        r#"{{"network":{{"allow":["direct.test","other.test","127.0.0.1","{own}"]}}}}"#
    ));
    for (rule, name, direct) in [
        ("direct.test", "direct.test", true),
        ("127.0.0.0/8", "other.test", true),
        ("127.0.0.0/8", "127.0.0.1", true),
        ("direct.test", "host.interceptor.internal", true),
        ("direct.test:1", "direct.test", false),
        ("direct.test", "other.test", false),
    ] {
        let mut road = proxy.road(true);
        road.no_proxy = NoProxy::default();
        road.no_proxy.add_rules([rule]);
        let terms = Terms { policy: &policy, road: &road };
        let before = proxy.heads().len();
        upstream.connect(terms, Scheme::Http, &host(name), port).await.unwrap();
        assert_eq!(proxy.heads().len() == before, direct, "{rule} {name}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_reported_as_such() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (url, words) in [
        (format!("http://{nowhere}"), "cannot be connected to"),
        ("http://proxy:3128".to_owned(), "its name does not exist"),
    ] {
        let url = ProxyUrl::parse(&url).unwrap();
        let server = ProxyServer { url, auth: None };
        let road = Road { https: Some(server), ..Road::direct(tls()) };
        let error = connect(&road, "{}", "api.example.com").await.unwrap_err();
        assert_eq!(error.reason(), Reason::UpstreamUnreachable);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_over_tls_must_have_a_certificate_that_is_trusted() {
    let proxy = Proxy::start(|_| Act::Echo(OPEN, 100)).await;
    let url = ProxyUrl::parse(&proxy.url.to_string().replace("http:", "https:")).unwrap();
    let auth = Arc::new(Auth::default());
    let server = ProxyServer { url, auth: Some(auth.clone()) };
    let road = Road { https: Some(server), ..Road::direct(tls()) };
    let error = connect(&road, "{}", "api.example.com").await.unwrap_err();
    // The proxy of this test speaks no TLS, and is sent nothing but a ClientHello.
    assert!(matches!(error.reason(), Reason::UpstreamTls | Reason::UpstreamTimeout), "{error}");
    assert_eq!((*auth.0.lock().unwrap(), proxy.heads().len()), (0, 0));
}
