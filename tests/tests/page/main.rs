//! The page: who gets in, what every answer says, and what is decided by it. Its looks are tested
//! in a browser (`page_browser.rs`).

mod asked;
mod bounds;
mod reach;
mod run;
mod whose;

use interceptor_tests::daemon::{Daemon, Guest};
use interceptor_tests::lab::Lab;
use interceptor_tests::visitor::{Visitor, invitation, parts};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const NEW: &str = "new.example.test";
/// A port that is free.
const PAGE: &str = "--page=127.0.0.1:0";

/// `HOST` is governed and permits `GET /v1/models`; everything else is asked about.
fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/models"] }]));
    policy["network"]["deny"] = json!(["*"]);
    policy["ask"] = json!({});
    // The reach oracle: a person permits these.
    lab.permits(&json!({ "network": { "allow": [NEW] } }).to_string());
    policy
}

fn daemon(lab: &Lab) -> Daemon<'_> {
    lab.unordered();
    lab.daemon().at_origin(HOST).at_origin(NEW).option(PAGE).quiet_log().start()
}

/// Everything of the page that a visitor may ask for: method and target.
fn everything(guest: &Guest<'_>) -> Vec<(&'static str, String)> {
    let own = format!("/v1/sandboxes/{}", guest.id);
    vec![
        ("GET", "/".to_owned()),
        ("HEAD", "/".to_owned()),
        ("GET", "/assets/app.js".to_owned()),
        ("GET", "/assets/page.css".to_owned()),
        ("GET", "/assets/none.js".to_owned()),
        ("GET", "/v1/events".to_owned()),
        ("GET", format!("{own}/policy")),
        ("POST", format!("{own}/story")),
        ("POST", format!("{own}/leases")),
        ("DELETE", format!("{own}/leases/x")),
        ("POST", "/v1/approvals/x".to_owned()),
        ("POST", "/v1/approvals/x/always".to_owned()),
        ("GET", "/openapi.json".to_owned()),
        ("GET", "/v1/sandboxes".to_owned()),
        ("POST", "/v1/page".to_owned()),
        ("POST", "/v1/takeover".to_owned()),
        ("OPTIONS", "/".to_owned()),
    ]
}

#[test]
fn p9_an_address_lets_one_browser_in_once_and_nothing_else_does() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let url = invitation(&daemon);
        let (address, target) = parts(&url);
        let shown = daemon.call("GET", "/v1/page", "").json();
        assert_eq!(shown, json!({ "address": format!("http://{address}/"), "unused": 1 }));
        let stranger = Visitor::stranger(address);
        let token = target.split_once("token=").unwrap().1;
        let name = format!("interceptor-{}", address.port());
        let strangers = [None, Some("x"), Some(""), Some(token)].map(|session| Visitor {
            address,
            cookie: session.map(|session| format!("{name}={session}")),
        });
        for stranger in &strangers {
            for (method, target) in everything(&guest) {
                let said = stranger.ask(method, &target, &["x-interceptor-request: 1"], "");
                assert_eq!(said.status, 401, "{method} {target}: {said:?}");
                assert!(!said.body.contains(&guest.id), "{said:?}");
            }
        }
        // Whatever looks at the address before the person does not use it up.
        for (method, field, status) in [
            ("HEAD", "x: y", 403),
            ("POST", "x-interceptor-request: 1", 401),
            ("GET", "sec-purpose: prefetch", 403),
            ("GET", "sec-fetch-dest: image", 403),
        ] {
            let said = stranger.ask(method, &target, &[field], "");
            assert_eq!(said.status, status, "{method} {field}: {said:?}");
        }
        for wrong in ["/enter", "/enter?token=", "/enter?token=x", "/enter?x=y"] {
            assert_eq!(stranger.get(wrong).status, 403, "{wrong}");
        }
        let said = stranger.get(&target);
        let cookie = &said.headers["set-cookie"];
        assert!(cookie.starts_with(&format!("{name}=")), "{cookie}");
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        // Nothing that others left at this address in the browser stays.
        assert_eq!(said.headers["clear-site-data"], r#""cache", "storage""#);
        let again = stranger.get(&target);
        assert_eq!(again.status, 403, "{again:?}");
        assert!(!again.headers.contains_key("clear-site-data"));
        assert!(!again.headers.contains_key("set-cookie"));
        assert_eq!(daemon.call("GET", "/v1/page", "").json()["unused"], 0);

        let visitor = Visitor { address, cookie: cookie.split(';').next().map(str::to_owned) };
        let page = visitor.get("/");
        assert_eq!(
            (page.status, page.headers["content-type"].as_str()),
            (200, "text/html; charset=utf-8")
        );
        assert!(page.body.contains("<title>interceptor</title>"));
        let policy = visitor.get(&format!("/v1/sandboxes/{}/policy", guest.id)).json();
        assert_eq!(policy["policy"]["network"]["allow"], json!([HOST]));
        // What is the control socket's alone stays so.
        for target in ["/openapi.json", "/v1/sandboxes", "/v1/page", "/v1/takeover", "/metrics"] {
            assert_eq!(visitor.get(target).status, 404, "{target}");
        }
        daemon.finish();
    });
}

#[test]
fn p9_every_answer_tells_the_browser_to_run_nothing_but_the_pages_own() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let visitor = Visitor::of(&daemon);
        let stranger = Visitor::stranger(visitor.address);
        let mut all: Vec<_> = [&visitor, &stranger]
            .into_iter()
            .flat_map(|who| {
                let ask = |(method, target): (&'static str, String)| {
                    let fields = ["x-interceptor-request: 1", "accept: text/html"];
                    who.ask(method, &target, &fields, "{}")
                };
                let asked = everything(&guest).into_iter();
                // A stream has no end.
                asked.filter(|(_, target)| target != "/v1/events").map(ask).collect::<Vec<_>>()
            })
            .collect();
        all.push(stranger.get("/enter?token=x"));
        all.push(stranger.says("GET", "/", &["host: rebound.test"], ""));
        for said in &all {
            let policy = &said.headers["content-security-policy"];
            for part in [
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ",
                "img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; ",
                "require-trusted-types-for 'script'",
            ] {
                assert!(policy.contains(part), "{policy}");
            }
            assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-store"),
                ("x-frame-options", "DENY"),
                ("cross-origin-opener-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
            ] {
                assert_eq!(said.headers[name], value, "{said:?}");
            }
            assert!(!said.headers.contains_key("access-control-allow-origin"), "{said:?}");
            assert!(!said.body.contains(lab.key()));
        }
        // A person who is not signed in is told so in a document.
        let locked = stranger.ask("GET", "/", &["accept: text/html"], "");
        assert!(locked.status == 401 && locked.body.contains("interceptor ctl page"), "{locked:?}");
        daemon.finish();
    });
}

#[test]
fn p9_a_foreign_host_or_origin_is_refused_with_a_session_too() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let visitor = Visitor::of(&daemon);
        let (address, token) = parts(&invitation(&daemon));
        let own = format!("host: {address}");
        let port = address.port();
        let local = format!("localhost:{port}");
        for host in ["rebound.test", &format!("rebound.test:{port}"), "127.0.0.1", "[::1]", &local]
        {
            for (method, target) in everything(&guest) {
                let host = format!("host: {host}");
                let said = visitor.says(method, &target, &[&host, "x-interceptor-request: 1"], "");
                assert_eq!(said.status, 403, "{host} {method} {target}: {said:?}");
            }
            let said = visitor.says("GET", &token, &[&format!("host: {host}")], "");
            assert_eq!(said.status, 403, "{host}: {said:?}");
        }
        assert_eq!(visitor.says("GET", &token, &[&own, &own], "").status, 403, "two hosts");
        assert!([400, 403].contains(&visitor.says("GET", "/", &[], "").status), "no host");
        let lease = format!("/v1/sandboxes/{}/leases", guest.id);
        let give = json!({ "patch": [{ "op": "add", "path": "/network/allow/-", "value": NEW }],
                           "seconds": 60 });
        let give = give.to_string();
        for foreign in [
            "origin: http://evil.test",
            "origin: null",
            &format!("origin: https://{address}"),
            &format!("origin: http://localhost.evil.test:{port}"),
            &format!("origin: http://{local}"),
            "sec-fetch-site: cross-site",
            "sec-fetch-site: same-site",
        ] {
            let fields = [own.as_str(), foreign, "x-interceptor-request: 1"];
            let said = visitor.says("POST", &lease, &fields, &give);
            assert_eq!(said.status, 403, "{foreign}: {said:?}");
            assert_eq!(visitor.says("GET", "/v1/events", &fields, "").status, 403, "{foreign}");
        }
        // A simple request of a foreign page has no header of ours.
        for fields in [vec![own.as_str()], vec![&own, "content-type: text/plain"]] {
            let said = visitor.says("POST", &lease, &fields, &give);
            assert_eq!(said.status, 403, "{said:?}");
        }
        let leases = || daemon.call("GET", &lease, "").json();
        assert_eq!(leases(), json!([]));
        for fields in [
            vec![own.clone()],
            vec![own.clone(), format!("origin: http://{address}")],
            vec![own.clone(), "sec-fetch-site: same-origin".to_owned()],
        ] {
            let mut fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            fields.push("x-interceptor-request: 1");
            let said = visitor.says("POST", &lease, &fields, &give);
            assert_eq!(said.status, 201, "{fields:?}: {said:?}");
        }
        let given = leases();
        assert_eq!(given.as_array().unwrap().len(), 3);
        assert!(given.as_array().unwrap().iter().all(|one| one["by"] == "page"), "{given}");
        daemon.finish();
    });
}
