//! What an origin receives, byte for byte, for any client request.

use http::Request;

use super::*;
use crate::credential::fixture::{compile, credential, key, keyring, policy};

/// A request to inject into: its header names and values in order, and its target.
fn request(target: &str, headers: &[(&str, String)]) -> Parts {
    let mut builder = Request::builder().method("POST").uri(target);
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder.body(()).unwrap().into_parts().0
}

/// The headers an origin receives, sorted.
fn received(parts: &Parts) -> Vec<String> {
    let pair =
        |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
    let mut all: Vec<String> = parts.headers.iter().map(pair).collect();
    all.sort();
    all
}

struct Case {
    policy: Policy,
    keyring: Keyring,
}

impl Case {
    fn new() -> Case {
        let policy = policy();
        let keyring = keyring(&policy);
        Case { policy, keyring }
    }

    fn placeholder(&self, name: &str) -> String {
        credential(&self.policy, &self.keyring, name).1
    }

    fn inject(&self, name: &str, mut parts: Parts) -> Parts {
        let id = self.policy.credential_named(name).unwrap();
        let presented = self.keyring.presented(&parts.headers, parts.uri.query());
        inject(&mut parts, &self.policy, &self.keyring, id, &presented).unwrap();
        parts
    }
}

fn basic_of(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

#[test]
fn c4_the_key_takes_the_form_in_which_the_placeholder_was_presented() {
    let case = Case::new();
    let (ant, gh, own) =
        (case.placeholder("anthropic"), case.placeholder("github"), case.placeholder("basic"));
    let (ant_key, gh_key, own_key) = (key("anthropic"), key("github"), key("basic"));
    let table: Vec<(&str, &str, String, String)> = vec![
        ("anthropic", "x-api-key", ant.clone(), format!("x-api-key: {ant_key}")),
        (
            "anthropic",
            "authorization",
            format!("Bearer {ant}"),
            format!("authorization: Bearer {ant_key}"),
        ),
        (
            "anthropic",
            "authorization",
            format!("bearer {ant}"),
            format!("authorization: Bearer {ant_key}"),
        ),
        // Presented in none of its forms: the first is used.
        (
            "anthropic",
            "authorization",
            basic_of(&format!("u:{ant}")),
            format!("x-api-key: {ant_key}"),
        ),
        ("anthropic", "x-unused", "1".into(), format!("x-api-key: {ant_key}")),
        (
            "github",
            "authorization",
            format!("token {gh}"),
            format!("authorization: token {gh_key}"),
        ),
        (
            "github",
            "authorization",
            format!("Bearer {gh}"),
            format!("authorization: Bearer {gh_key}"),
        ),
        (
            "github",
            "authorization",
            basic_of(&format!("me:{gh}")),
            format!("authorization: {}", basic_of(&format!("x-access-token:{gh_key}"))),
        ),
        (
            "github",
            "authorization",
            basic_of(&format!("{gh}:x-oauth-basic")),
            format!("authorization: {}", basic_of(&format!("x-access-token:{gh_key}"))),
        ),
        // Without a fixed user name: the client's own, or where the placeholder was.
        (
            "basic",
            "authorization",
            basic_of(&format!("jane:{own}")),
            format!("authorization: {}", basic_of(&format!("jane:{own_key}"))),
        ),
        (
            "basic",
            "authorization",
            basic_of(&format!("{own}:")),
            format!("authorization: {}", basic_of(&format!("{own_key}:"))),
        ),
        (
            "basic",
            "authorization",
            basic_of("jane:own-password"),
            format!("authorization: {}", basic_of(&format!(":{own_key}"))),
        ),
    ];
    for (name, header, value, expected) in table {
        let parts = case.inject(name, request("/v1", &[(header, value.clone())]));
        let got: Vec<String> =
            received(&parts).into_iter().filter(|line| line != "x-unused: 1").collect();
        assert_eq!(got, [expected], "{name} with {header}: {value}");
    }
}

#[test]
fn git_without_a_placeholder_gets_basic_and_other_clients_the_first_form() {
    let case = Case::new();
    let key = key("github");
    let basic = basic_of(&format!("x-access-token:{key}"));
    for (target, expected) in [
        ("https://github.com/o/r.git/info/refs?service=git-upload-pack", basic.clone()),
        ("https://github.com/o/r.git/git-upload-pack", basic.clone()),
        ("https://github.com/o/r.git/git-receive-pack", basic.clone()),
        ("https://github.com/o/r.git/info/lfs/objects/batch", basic),
        ("https://api.github.com/repos/o/r", format!("Bearer {key}")),
        ("https://github.com/o/r.git/info/refs/x", format!("Bearer {key}")),
    ] {
        let parts = case.inject("github", request(target, &[]));
        assert_eq!(parts.headers[AUTHORIZATION], expected, "{target}");
    }
    // A credential without Basic uses its own form, and a presented form is kept.
    let parts = case.inject("anthropic", request("https://api.anthropic.com/git-upload-pack", &[]));
    assert!(parts.headers.contains_key("x-api-key") && !parts.headers.contains_key(AUTHORIZATION));
    let presented = [("authorization", format!("token {}", case.placeholder("github")))];
    let parts = case.inject("github", request("https://github.com/o/r.git/info/refs", &presented));
    assert_eq!(parts.headers[AUTHORIZATION], format!("token {key}"));
}

#[test]
fn c4_a_placeholder_anywhere_else_is_left_alone() {
    let case = Case::new();
    let ph = case.placeholder("anthropic");
    let elsewhere = [
        ("user-agent", format!("agent ({ph})")),
        ("referer", format!("https://h.test/?k={ph}")),
        ("x-request-id", ph.clone()),
        ("x-double", format!("{ph}{ph}")),
        ("sec-websocket-key", ph.clone()),
        ("sec-websocket-protocol", format!("chat, {ph}")),
    ];
    let parts =
        case.inject("anthropic", request(&format!("/v1/{ph}?q={ph}&keys={ph}"), &elsewhere));
    let mut expected: Vec<String> =
        elsewhere.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    expected.push(format!("x-api-key: {}", key("anthropic")));
    expected.sort();
    assert_eq!(received(&parts), expected);
    assert_eq!(parts.uri, format!("/v1/{ph}?q={ph}&keys={ph}").as_str());
}

#[test]
fn c7_the_clients_own_authentication_never_passes() {
    let case = Case::new();
    let ph = case.placeholder("anthropic");
    let own = |name: &'static str| (name, "own".to_owned());
    let table: Vec<Vec<(&str, String)>> = vec![
        vec![own("authorization")],
        vec![own("Authorization"), own("authorization")],
        vec![("authorization", format!("Bearer {ph}")), own("authorization")],
        vec![own("authorization"), ("authorization", format!("Bearer {ph}"))],
        vec![("authorization", format!("Bearer own, Bearer {ph}"))],
        vec![own("x-api-key"), ("authorization", format!("Bearer {ph}"))],
        vec![("x-api-key", ph.clone()), own("x-api-key"), own("X-API-Key")],
        vec![own("api-key")],
        vec![own("x-goog-api-key")],
        vec![own("proxy-authorization")],
        vec![own("x_api_key"), own("X_Api-Key")],
        vec![own("api_key"), own("proxy_authorization"), own("x_goog_api_key")],
    ];
    for headers in table {
        let parts = case.inject("anthropic", request("/v1", &headers));
        let got = received(&parts);
        let real = key("anthropic");
        assert!(
            got == [format!("x-api-key: {real}")]
                || got == [format!("authorization: Bearer {real}")],
            "{headers:?} became {got:?}"
        );
    }
}

#[test]
fn c7_the_headers_and_parameters_of_every_credential_of_the_host_are_stripped() {
    let case = Case::new();
    let own = "own".to_owned();
    let headers = [
        ("x-first_key", own.clone()),
        ("x-first-key", own.clone()),
        ("X_First_Key", own.clone()),
        ("x-kept", own),
    ];
    let first = case.inject("first", request("/a?b=1&second=own&SECOND=own&c", &headers));
    assert_eq!(received(&first), [format!("x-first_key: {}", key("first")), "x-kept: own".into()]);
    assert_eq!(first.uri, "/a?b=1&c");
    let second = case.inject("second", request("/a?b=1&second=own", &headers));
    assert_eq!(received(&second), ["x-kept: own"]);
    assert_eq!(second.uri, format!("/a?b=1&second={}", key("second")).as_str());
    // Those of another host's credential stay.
    let other = case.inject("anthropic", request("/a?second=x", &headers));
    assert_eq!(received(&other).len(), 5);
    assert_eq!(other.uri, "/a?second=x");
}

#[test]
fn c7_cookies_go_where_the_credential_says_so() {
    let case = Case::new();
    let cookies = [("cookie", "a=1".to_owned()), ("cookie", "b=2".to_owned())];
    let google = case.inject("google", request("/", &cookies));
    assert_eq!(received(&google), [format!("x-goog-api-key: {}", key("google"))]);
    let policy = compile(
        r#"{ "credentials_v2":
             { "anthropic": { "key": "k-real", "env": "K", "cookies": true } } }"#,
    );
    let case = Case { keyring: keyring(&policy), policy };
    let anthropic = case.inject("anthropic", request("/", &cookies));
    assert_eq!(received(&anthropic), ["cookie: a=1", "cookie: b=2", "x-api-key: k-real"]);
}

#[test]
fn c9_a_query_holds_the_key_once_and_all_else_byte_for_byte() {
    let case = Case::new();
    let ph = case.placeholder("google");
    let real = "key=AIzaReal%2Fgoogle%2Bkey";
    for (given, expected) in [
        (format!("/v1?key={ph}"), format!("/v1?{real}")),
        (format!("/v1?key={ph}&a=%7e&&b=+;c"), format!("/v1?a=%7e&&b=+;c&{real}")),
        (
            format!("/v1?a=1&key={ph}&key=own&KEY=own&k%65y=own&%6Bey&key[]=own&key[0]=own"),
            format!("/v1?a=1&{real}"),
        ),
        (format!("/v1?monkey=1&keys=2&key={ph}"), format!("/v1?monkey=1&keys=2&{real}")),
        // If a server ends a parameter at `;`, none of the client's own is left after one.
        (format!("/v1?a=1;key=own;b=2&key={ph}"), format!("/v1?a=1;b=2&{real}")),
        (format!("/v1?key=own;key={ph};c"), format!("/v1?c&{real}")),
        (format!("/v1?&a;KEY=own&;key={ph}"), format!("/v1?&a&&{real}")),
        (format!("/v1?alt=sse&key={ph}#"), format!("/v1?alt=sse&{real}")),
        (format!("https://google.test/v1?key={ph}"), format!("https://google.test/v1?{real}")),
    ] {
        let parts = case.inject("google", request(&given, &[]));
        assert_eq!(parts.uri.to_string(), expected, "{given}");
        assert!(received(&parts).is_empty());
    }
    // When the placeholder is in the header, the parameter of that name is removed all the same.
    let parts = case.inject("google", request("/v1?key=own&x=1", &[("x-goog-api-key", ph)]));
    assert_eq!(parts.uri, "/v1?x=1");
    let parts = case.inject("google", request("/v1?key=own", &[]));
    assert_eq!(parts.uri, "/v1");
    let parts = case.inject(
        "google",
        request("/v1?x;key=own;y", &[("x-goog-api-key", case.placeholder("google"))]),
    );
    assert_eq!(parts.uri, "/v1?x;y");
    let parts = case.inject("google", request("/v1?x;y&;", &[]));
    assert_eq!(parts.uri, "/v1?x;y&;");
    let parts = case.inject("google", request("/v1?", &[]));
    assert_eq!(parts.uri, "/v1?");
}

#[test]
fn c9_without_its_key_no_request_is_made() {
    let case = Case::new();
    let ph = case.placeholder("google");
    let empty = keyring(&compile("{}"));
    let mut parts = request("/v1", &[("authorization", format!("Bearer {ph}"))]);
    let id = case.policy.credential_named("google").unwrap();
    assert_eq!(
        inject(&mut parts, &case.policy, &empty, id, &Presented::default()).map(|_| ()),
        Err(InjectError::NoKey)
    );
    // The keyring of another policy has a different key at this index.
    let other = keyring(&compile(
        r#"{ "credentials": { "google": "a-real-key", "github": "b-real-key" } }"#,
    ));
    let anthropic = case.policy.credential_named("anthropic").unwrap();
    assert_eq!(anthropic, CredentialId(0));
    assert_eq!(
        inject(&mut parts, &case.policy, &other, anthropic, &Presented::default()).map(|_| ()),
        Err(InjectError::NoKey)
    );
    assert_eq!(
        inject(&mut parts, &case.policy, &case.keyring, CredentialId(99), &Presented::default())
            .map(|_| ()),
        Err(InjectError::NoKey)
    );
}

#[test]
fn h9_headers_named_by_connection_are_removed_before_the_key_is_set() {
    let case = Case::new();
    let ph = case.placeholder("anthropic");
    for listed in [
        "x-api-key",
        "X-Api-Key, close",
        "authorization, x-api-key, host, content-length",
        "keep-alive,te,x-hop",
    ] {
        let headers = [
            ("connection", listed.to_owned()),
            ("host", "anthropic.test".to_owned()),
            ("content-length", "5".to_owned()),
            ("keep-alive", "timeout=5".to_owned()),
            ("proxy-connection", "keep-alive".to_owned()),
            ("te", "trailers, gzip".to_owned()),
            ("transfer-encoding", "chunked".to_owned()),
            ("x-api-key", ph.clone()),
        ];
        let parts = case.inject("anthropic", request("/", &headers));
        assert_eq!(
            received(&parts),
            [
                "content-length: 5".to_owned(),
                "host: anthropic.test".into(),
                "te: trailers".into(),
                format!("x-api-key: {}", key("anthropic")),
            ],
            "{listed}"
        );
    }
    let mut headers = HeaderMap::new();
    headers.append("connection", HeaderValue::from_static("x-hop , Upgrade"));
    headers.append("connection", HeaderValue::from_static("x-hop2"));
    headers.append("upgrade", HeaderValue::from_static("websocket"));
    headers.append("x-hop", HeaderValue::from_static("1"));
    headers.append("x-hop2", HeaderValue::from_static("1"));
    headers.append("te", HeaderValue::from_static("gzip"));
    headers.append("http2-settings", HeaderValue::from_static("AAMAAABkAARAAAAAAAIAAAAA"));
    strip_hop_by_hop(&mut headers);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["upgrade"]);
}

#[test]
fn h11_a_websocket_handshake_carries_no_key() {
    let case = Case::new();
    let ph = case.placeholder("anthropic");
    let headers = [
        ("upgrade", "websocket".to_owned()),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
        ("sec-websocket-version", "13".to_owned()),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits".to_owned()),
        ("sec-websocket-protocol", format!("realtime, openai-insecure-api-key.{ph}, v1")),
        ("authorization", format!("Bearer {ph}")),
    ];
    let parts = case.inject("anthropic", request("/v1/realtime", &headers));
    assert_eq!(
        received(&parts),
        [
            format!("authorization: Bearer {}", key("anthropic")),
            // What hides the answer from the search is taken away where the sandbox has keys,
            // whatever the host.
            "sec-websocket-extensions: permessage-deflate; client_max_window_bits".into(),
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==".into(),
            "sec-websocket-protocol: realtime, v1".into(),
            "sec-websocket-version: 13".into(),
            "upgrade: websocket".into(),
        ]
    );
    for (offered, kept) in [
        ("token, own", None),
        ("mqtt, Bearer, own, v1", Some("mqtt, v1")),
        ("graphql-ws, header-b3du", Some("graphql-ws")),
        (
            "v1.kernel.websocket.jupyter.org, v1.token.websocket.jupyter.org.own",
            Some("v1.kernel.websocket.jupyter.org"),
        ),
        (
            "base64url.bearer.authorization.k8s.io.b3du, v5.channel.k8s.io",
            Some("v5.channel.k8s.io"),
        ),
        ("authorization.bearer.own, xi-api-key.own, \"openai-insecure-api-key.own\"", None),
        (
            "graphql-transport-ws, wamp.2.json, actioncable-v1-json",
            Some("graphql-transport-ws, wamp.2.json, actioncable-v1-json"),
        ),
    ] {
        let sent = [("sec-websocket-protocol", offered.to_owned())];
        let kept = kept.map(|kept| format!("sec-websocket-protocol: {kept}"));
        let mut expected = Vec::from_iter(kept);
        expected.push(format!("x-api-key: {}", key("anthropic")));
        assert_eq!(received(&case.inject("anthropic", request("/", &sent))), expected, "{offered}");
    }
    let only = [("sec-websocket-protocol", "OpenAI-Insecure-API-Key.own".to_owned())];
    assert_eq!(
        received(&case.inject("anthropic", request("/", &only))),
        [format!("x-api-key: {}", key("anthropic"))]
    );
}

#[test]
fn h13_trailers_that_authenticate_are_removed() {
    let case = Case::new();
    let (policy, id) = (&case.policy, case.policy.credential_named("anthropic").unwrap());
    let mut trailers = HeaderMap::new();
    for name in ["authorization", "x-api-key", "X_Api_Key", "x-goog-api-key"] {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        trailers.append(name, HeaderValue::from_static("x"));
    }
    for name in ["grpc-status", "x-checksum-sha256", "content-digest"] {
        trailers.append(name, HeaderValue::from_static("0"));
    }
    strip_trailer_authentication(&mut trailers, policy, id);
    let mut names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-digest", "grpc-status", "x-checksum-sha256"]);
}

#[test]
fn c14_the_key_is_never_indexed_and_never_shown() {
    let case = Case::new();
    for name in ["anthropic", "github", "google", "basic", "first"] {
        let parts = case.inject(name, request("/", &[]));
        let (_, value) = parts.headers.iter().find(|(_, value)| value.is_sensitive()).unwrap();
        assert!(!value.is_empty());
        assert!(!format!("{:?}", parts.headers).contains(key(name)), "{name}");
    }
}

#[test]
fn c4_a_key_that_is_the_user_name_has_no_password() {
    let policy = compile(
        r#"{ "credentials_v2": { "stripe": {
             "key": "sk_live_real", "hosts": ["stripe.test"], "env": "STRIPE_API_KEY",
             "inject": { "basic": { "username": "{key}" } } } } }"#,
    );
    let keyring = keyring(&policy);
    let (id, ph) = credential(&policy, &keyring, "stripe");
    for given in [
        format!("{ph}:"),
        ph.clone(),
        format!("{ph}:own-password"),
        format!("own:{ph}"),
        "own:own".into(),
    ] {
        let mut parts = request("/v1", &[("authorization", basic_of(&given))]);
        let presented = keyring.presented(&parts.headers, None);
        inject(&mut parts, &policy, &keyring, id, &presented).unwrap();
        assert_eq!(
            received(&parts),
            [format!("authorization: {}", basic_of("sk_live_real:"))],
            "{given}"
        );
    }
}
