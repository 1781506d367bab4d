//! The way out by a proxy: real proxies, real clients, and what a proxy must not learn or leak.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::origin::listen::Listener;
use interceptor_tests::outcome::{Outcome, Refusal};
use interceptor_tests::proxies::{Proxy, USER};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

/// A file with the credential of a proxy; the oracles look for the password.
fn auth(lab: &Lab, password: &str) -> Value {
    json!({ "file": lab.secret_file("proxy-auth", &format!("{USER}:{password}\n")) })
}

/// A policy by which the lab's key is used at `HOST`, and everything else is reached too.
fn policy(lab: &Lab, upstream: Value) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["network"]["allow"] =
        json!([HOST, "plain.example.test", "tcp://raw.example.test", "pinned.example.test"]);
    policy["network"]["passthrough"] = json!(["pinned.example.test"]);
    policy["upstream"] = upstream;
    policy
}

/// Every kind of traffic, each of whose lines ends in `ok`.
const EVERYTHING: &str = r#"
import hashlib, base64, os, socket, ssl, subprocess, sys
def ran(*command, **more):
    return subprocess.run(command, capture_output=True, **more).stdout
def curl(*arguments):
    return ran('curl', '-sS', '--max-time', '30', *arguments)
key = 'authorization: Bearer ' + os.environ['LAB_API_KEY']
versions = curl('--http2', '-H', key, '-o', '/dev/null', '-o', '/dev/null', '-w', '%{http_version}',
                'https://api.example.test/two', 'https://api.example.test/three')
print('h2', versions == b'22' and 'ok')
print('h1', b'/one' in curl('--http1.1', '-H', key, 'https://api.example.test/one') and 'ok')
print('plain', b'/four' in curl('http://plain.example.test/four') and 'ok')
context = ssl.create_default_context()
stream = socket.create_connection(('api.example.test', 443), 30)
stream = context.wrap_socket(stream, server_hostname='api.example.test')
stream.sendall(f'GET /ws HTTP/1.1\r\nhost: api.example.test\r\n{key}\r\nupgrade: websocket\r\n'
               'connection: upgrade\r\nsec-websocket-version: 13\r\n'
               'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n'.encode())
head = b''
while b'\r\n\r\n' not in head: head += stream.recv(1)
stream.sendall(b'\x81\x85\0\0\0\0hello')
frame = b''
while len(frame) < 7: frame += stream.recv(7 - len(frame))
print('websocket', head.startswith(b'HTTP/1.1 101') and frame == b'\x81\x05hello' and 'ok')
stream = socket.create_connection(('raw.example.test', 3306), 30)
greeting = stream.recv(100)
print('greeting', greeting == b'5.7.0-server\0' and 'ok')
stream = socket.create_connection(('raw.example.test', 7), 30)
stream.sendall(b'\0\1' * 100000)
back = b''
while len(back) < 200000 and (part := stream.recv(65536)): back += part
stream.close()
print('echo', back == b'\0\1' * 100000 and 'ok')
shown = ran('openssl', 's_client', '-quiet', '-verify_return_error',
            '-CAfile', os.environ['SSL_CERT_FILE'], '-servername', 'pinned.example.test',
            '-verify_hostname', 'pinned.example.test', '-connect', 'pinned.example.test:443',
            input=b'GET /five HTTP/1.1\r\nhost: pinned.example.test\r\nconnection: close\r\n\r\n')
print('passthrough', shown.startswith(b'HTTP/1.1 200') and 'ok')
"#;

/// Runs all of it, and returns the addresses to which tunnels must lead, each with their number.
fn everything(lab: &Lab, upstream: Value) -> (Outcome, [(String, usize); 4]) {
    lab.tunnelled("pinned.example.test");
    let greeting = Listener::greeting(lab.handle(), "5.7.0-server\0");
    let echo = Listener::echo(lab.handle());
    let outcome = lab
        .sandbox(&policy(lab, upstream))
        .at_origin(HOST)
        .at_origin("plain.example.test")
        .at_origin("pinned.example.test")
        .resolve("raw.example.test:3306", greeting.address())
        .resolve("raw.example.test:7", echo.address())
        .python(EVERYTHING);
    let expected: String = ["h2", "h1", "plain", "websocket", "greeting", "echo", "passthrough"]
        .map(|what| format!("{what} ok\n"))
        .concat();
    assert_eq!(outcome.success().out(), expected, "{}", outcome.tail());
    for seen in lab.seen().iter().filter(|seen| seen.host.starts_with(HOST)) {
        assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
        assert!(seen.values("proxy-authorization").is_empty());
    }
    let protocols: Vec<_> = lab.seen().iter().map(|seen| seen.protocol).collect();
    assert_eq!(protocols, ["h2", "h2", "h1", "h1", "h1", "h1"]);
    // Over HTTP/2, and over HTTP/1.1 with the WebSocket; and once for what is passed through.
    let tunnels = [
        (lab.origin().to_string(), 3),
        (lab.plain().to_string(), 1),
        (greeting.address().to_string(), 1),
        (echo.address().to_string(), 1),
    ];
    (outcome, tunnels)
}

#[track_caller]
fn went_through(proxy: &Proxy, tunnels: &[(String, usize)]) {
    let mut expected: Vec<String> =
        tunnels.iter().flat_map(|(to, number)| std::iter::repeat_n(to.clone(), *number)).collect();
    expected.sort();
    let mut found = proxy.tunnels(expected.len());
    found.sort();
    assert_eq!(found, expected, "{:#?}", proxy.log());
}

#[test]
fn everything_goes_through_squid_with_a_password() {
    Lab::test(|lab| {
        let password = lab.another_key();
        let proxy = Proxy::squid(lab, Some(&password), "");
        let upstream = json!({ "proxy": proxy.url(), "proxy_auth": auth(lab, &password) });
        let (outcome, tunnels) = everything(lab, upstream);
        went_through(&proxy, &tunnels);
        for record in outcome.requests("allow") {
            assert_eq!(record.ip.as_deref(), Some("127.0.0.1"), "the address that was judged");
        }
    });
}

#[test]
fn everything_goes_through_squid_over_tls() {
    Lab::test(|lab| {
        let proxy = Proxy::squid(lab, None, "");
        let (_, tunnels) = everything(lab, json!({ "proxy": proxy.secure_url() }));
        went_through(&proxy, &tunnels);
    });
}

/// Asks once with this way out; returns the refusal that curl printed, if it is one.
#[track_caller]
fn refused(lab: &Lab, upstream: Value) -> Refusal {
    let policy = policy(lab, upstream);
    let script =
        "curl -sS -D - -H \"authorization: Bearer $LAB_API_KEY\" https://api.example.test/x";
    let outcome = lab.sandbox(&policy).at_origin(HOST).shell(script);
    let out = outcome.success().out().replace('\r', "");
    let (head, body) = out.split_once("\n\n").unwrap_or_else(|| panic!("{out}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    let decision = head.lines().find_map(|line| line.strip_prefix("x-interceptor-decision: "));
    let refusal = Refusal::read(status, decision, body);
    assert_eq!(outcome.one_denied(&refusal.reason).status, Some(status));
    assert!(lab.seen().is_empty(), "{:?}", lab.seen());
    refusal
}

fn message(refusal: &Refusal) -> &str {
    refusal.error["message"].as_str().unwrap_or_default()
}

#[test]
fn tinyproxy_asks_for_its_password_and_gets_it() {
    Lab::test(|lab| {
        let (password, wrong) = (lab.another_key(), lab.another_key());
        let proxy = Proxy::tinyproxy(lab, &password);
        let missing = refused(lab, json!({ "proxy": proxy.url() }));
        assert_eq!((missing.status, missing.reason.as_str()), (502, "upstream_unreachable"));
        assert!(message(&missing).contains("requires a credential (407)"), "{missing:?}");
        let upstream = json!({ "proxy": proxy.url(), "proxy_auth": auth(lab, &wrong) });
        let unfit = refused(lab, upstream);
        assert!(message(&unfit).contains("did not accept the credential"), "{unfit:?}");
        let upstream = json!({ "proxy": proxy.url(), "proxy_auth": auth(lab, &password) });
        let script = "curl -sS -o /dev/null -w '%{http_code}' -H \
                      \"authorization: Bearer $LAB_API_KEY\" https://api.example.test/y";
        let outcome = lab.sandbox(&policy(lab, upstream)).at_origin(HOST).shell(script);
        assert_eq!(outcome.success().out(), "200", "{}", outcome.tail());
    });
}

#[test]
fn a_proxy_that_is_dead_or_wrong_is_told_with_the_remedy() {
    Lab::test(|lab| {
        let mut proxy = Proxy::squid(lab, None, "");
        let insecure = proxy.url().replace("http:", "https:");
        let no_tls = refused(lab, json!({ "proxy": insecure }));
        assert_eq!((no_tls.status, no_tls.reason.as_str()), (502, "upstream_tls"), "{no_tls:?}");
        let tls = proxy.secure_url().replace("https:", "http:");
        let no_http = refused(lab, json!({ "proxy": tls }));
        assert_eq!(no_http.reason, "upstream_protocol", "{no_http:?}");
        proxy.kill();
        let dead = refused(lab, json!({ "proxy": proxy.url() }));
        assert_eq!((dead.status, dead.reason.as_str()), (502, "upstream_unreachable"));
        assert!(message(&dead).contains("cannot be connected to"), "{dead:?}");
        for refusal in [no_tls, no_http, dead] {
            assert!(message(&refusal).contains("the upstream proxy http"), "{refusal:?}");
        }
    });
}

#[test]
fn d3_addresses_are_judged_before_the_proxy_is_asked_and_the_sandbox_cannot_ask_it() {
    Lab::test(|lab| {
        let proxy = Proxy::squid(lab, None, "");
        let inside = [std::net::IpAddr::from([127, 0, 0, 1])];
        let names = lab.names(&[("rebinds.test", &[&inside])]);
        let mut policy = json!({ "network": { "allow": ["*", "tcp://*"] } });
        policy["upstream"] = json!({ "proxy": proxy.url() });
        let port = proxy.plain.port();
        let script = format!(
            "ask() {{ curl -s -o /dev/null -w '%{{http_code}} ' --max-time 20 \"$@\" || true; }}
             ask http://rebinds.test:{}/; ask http://169.254.169.254/
             ask http://127.0.0.1:{port}/; ask http://rebinds.test:{port}/
             ask -x http://rebinds.test:{port} https://any.test/
             ask -x http://10.0.0.1:{port} http://any.test/",
            lab.forbidden().port()
        );
        let outcome = lab.sandbox(&policy).resolver(names.address()).shell(&script);
        let statuses = outcome.success().out();
        assert!(!statuses.contains("200"), "{statuses}");
        assert_eq!(proxy.log(), Vec::<String>::new());
        assert!(outcome.requests("allow").is_empty(), "{:#?}", outcome.audit);
    });
}

#[test]
fn a_proxy_that_resolves_gets_names_and_no_name_server_is_asked() {
    Lab::test(|lab| {
        let hosts = "127.0.0.1 deep.example.test api.example.test\n";
        let proxy = Proxy::squid(lab, None, hosts);
        let names = lab.names(&[]);
        let mut policy = policy(lab, json!({ "proxy": proxy.url(), "proxy_resolves": true }));
        policy["network"]["allow"] = json!(["deep.example.test", HOST]);
        let port = lab.plain().port();
        let script = format!(
            "curl -sS -o /dev/null -w '%{{http_code}} ' http://deep.example.test:{port}/a; \
             curl -sS -o /dev/null -w '%{{http_code}} ' http://x.example.test:{port}/a; \
             curl -sS -o /dev/null -w '%{{http_code}}' -H 'host: localhost:{port}' \
             http://deep.example.test:{port}/a"
        );
        let outcome = lab.sandbox(&policy).resolver(names.address()).shell(&script);
        assert_eq!(outcome.success().out(), "200 403 421", "{}", outcome.tail());
        assert_eq!(proxy.tunnels(1), [format!("deep.example.test:{port}")]);
        assert_eq!(names.asked(), Vec::<String>::new());
        assert_eq!(outcome.requests("allow")[0].ip, None, "nobody here knows it");
    });
}

#[test]
fn the_environment_that_counts_is_the_callers_and_not_the_sandboxs() {
    Lab::test(|lab| {
        let password = lab.another_key();
        let proxy = Proxy::squid(lab, Some(&password), "");
        let url = format!("http://{USER}:{password}@{}", proxy.plain);
        let policy = policy(lab, json!({ "proxy": "environment" }));
        let script = format!(
            "env | grep -i proxy= | grep -v '^no_proxy' ; \
             export https_proxy=http://127.0.0.1:1 HTTPS_PROXY=http://127.0.0.1:1; \
             curl --noproxy '*' -sS -o /dev/null -w '%{{http_code}} ' \
             -H \"authorization: Bearer $LAB_API_KEY\" https://{HOST}/x; \
             curl -sS -o /dev/null -w '%{{http_code}}' http://plain.example.test/y"
        );
        let outcome = lab
            .sandbox(&policy)
            .at_origin(HOST)
            .at_origin("plain.example.test")
            .env("HTTPS_PROXY", &url)
            .env("no_proxy", "plain.example.test,other.test")
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .shell(&script);
        assert_eq!(outcome.success().out(), "200 200", "{}", outcome.tail());
        assert_eq!(proxy.tunnels(1), [lab.origin().to_string()]);
    });
}

/// What an origin or a proxy echoes of the proxy's credential, in usual spellings.
#[test]
fn c3_the_credential_of_the_proxy_is_searched_for_as_keys_are() {
    use base64::Engine as _;
    Lab::test(|lab| {
        let password = lab.another_key();
        let proxy = Proxy::squid(lab, Some(&password), "");
        let whole = format!("{USER}:{password}");
        let encoded = base64::engine::general_purpose::STANDARD.encode(&whole);
        let body = format!("{password} {whole} Basic {encoded} end");
        let files = &lab.shared().files;
        files.lock().unwrap().insert("/echoed".to_owned(), ("text/plain", body.into_bytes()));
        // Without any credential but the proxy's.
        let policy = json!({
            "network": { "allow": ["plain.example.test"] },
            "upstream": { "proxy": proxy.url(), "proxy_auth": auth(lab, &password) },
        });
        let script = "curl -sS http://plain.example.test/echoed; ls -l /; env";
        let outcome = lab.sandbox(&policy).at_origin("plain.example.test").shell(script);
        assert!(outcome.success().out().contains(" end"), "{}", outcome.out());
        assert_eq!(outcome.requests("allow")[0].key_echoed, Some(3), "{:#?}", outcome.audit);
    });
}

#[test]
fn k23_the_daemon_shows_no_credential_of_a_proxy_and_another_proxy_is_taken_at_once() {
    Lab::test(|lab| {
        let (first, second) = (lab.another_key(), lab.another_key());
        let proxies = [Proxy::squid(lab, Some(&first), ""), Proxy::squid(lab, Some(&second), "")];
        let text = |proxy: &Proxy, password: &str| {
            json!({
                "network": { "allow": ["plain.example.test"] },
                "upstream": { "proxy": proxy.url(), "proxy_auth": format!("{USER}:{password}") },
            })
        };
        let daemon = lab.daemon().at_origin("plain.example.test").start();
        let guest = daemon.guest(&text(&proxies[0], &first));
        let plan = Plan::http("plain.example.test").ask("GET", "/x");
        let ask = || guest.fetch(&plan)[0].answers[0].status;
        assert_eq!(ask(), 200);
        let put = daemon.replace(&guest, &text(&proxies[1], &second), false);
        assert_eq!(put.status, 200, "{put:?}");
        assert_eq!(ask(), 200);
        let shown = daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json();
        assert_eq!(shown["policy"]["upstream"]["proxy_auth"], Value::Null, "{shown}");
        assert_eq!(shown["policy"]["upstream"]["proxy"], proxies[1].url());
        drop(guest);
        daemon.finish();
        for proxy in &proxies {
            assert_eq!(proxy.tunnels(1), [lab.plain().to_string()], "{:?}", proxy.log());
        }
    });
}

#[test]
fn the_option_takes_the_place_of_the_policys_proxy_and_never_its_credential() {
    Lab::test(|lab| {
        let password = lab.another_key();
        let proxy = Proxy::squid(lab, None, "");
        let upstream = json!({ "proxy": "http://127.0.0.1:1", "proxy_auth": auth(lab, &password) });
        let policy = policy(lab, upstream);
        let script = "curl -sS -o /dev/null -w '%{http_code}' http://plain.example.test/y";
        let outcome = lab
            .sandbox(&policy)
            .at_origin("plain.example.test")
            .option("--upstream-proxy")
            .option(proxy.url())
            .shell(script);
        assert_eq!(outcome.success().out(), "200", "{}", outcome.tail());
        assert_eq!(proxy.tunnels(1), [lab.plain().to_string()]);
        // A password in an argument is refused, and not repeated.
        let secret = format!("http://{USER}:{password}@127.0.0.1:1");
        let outcome =
            lab.sandbox(&policy).bare().option("--upstream-proxy").option(secret).shell("");
        assert_ne!(outcome.code(), Some(0));
        assert!(outcome.err().contains("no user or password"), "{}", outcome.err());
    });
}
