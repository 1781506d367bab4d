//! The road to origins, as `check` and `explain` show it, and what is wrong with `upstream`.

use super::Desk;

const POLICY: &str = r#"{"network":{"allow":["api.test","*.corp","host.docker.internal:80"]},
  "upstream":{"proxy":"http://proxy.corp:3128","no_proxy":["*.corp"],
              "proxy_auth":{"env":"PROXY_AUTH"}}}"#;

#[test]
fn explain_shows_the_road_of_one_request() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY);
    let road = |url: &str| desk.explain(&policy, &["GET", url]).0["road"].clone();
    assert_eq!(road("https://api.test/")["proxy"], "http://proxy.corp:3128");
    assert_eq!(road("https://api.test/")["proxy_resolves"], false);
    let direct = road("https://a.corp/");
    assert!(direct["proxy"].is_null() && direct["why"] == "`no_proxy` lists `*.corp`", "{direct}");
    let own = road("http://host.docker.internal/");
    assert!(own["why"].as_str().unwrap().contains("loopback"), "{own}");
    // A refused request takes no road, and without a proxy there is nothing to say.
    assert!(road("https://evil.test/").is_null());
    let plain = desk.file("plain.json", r#"{"network":{"allow":["api.test"]}}"#);
    assert!(desk.explain(&plain, &["GET", "https://api.test/"]).0.get("road").is_none());
    let policy = policy.display().to_string();
    let output = desk.run(&["explain", "--policy", &policy, "GET", "https://api.test/"], None);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("road        by the proxy http://proxy.corp:3128, to the"), "{text}");
}

#[test]
fn check_and_explain_find_the_proxies_of_the_environment() {
    let desk = Desk::new();
    let policy = desk.file("p.json", r#"{"upstream":{"proxy":"environment"}}"#);
    let policy = policy.display().to_string();
    let variables = [
        ("HTTPS_PROXY", "http://me:CANARY-password@secure.corp:1"),
        ("http_proxy", "plain.corp:2"),
        ("NO_PROXY", "direct.test"),
    ];
    let output = desk.run_with(&variables, &["check", "--json", &policy], None);
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{seen}");
    let line = seen["way_out"][0].as_str().unwrap();
    for part in ["http://secure.corp:1", "plain HTTP http://plain.corp:2", "*.direct.test"] {
        assert!(line.contains(part), "{line}");
    }
    let explained = |url: &str| {
        let arguments = ["explain", "--json", "--policy", &policy, "GET", url];
        let output = desk.run_with(&variables, &arguments, None);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["road"].clone()
    };
    assert_eq!(explained("https://a.test/")["proxy"], "http://secure.corp:1");
    assert_eq!(explained("http://a.test/")["proxy"], "http://plain.corp:2");
    assert!(explained("https://a.direct.test/")["proxy"].is_null());
    let output = desk.run(&["check", &policy], None);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("by the proxy of the environment, none"), "{text}");
    let wrong = [("HTTPS_PROXY", "socks5://CANARY:CANARY@x:1")];
    let output = desk.run_with(&wrong, &["check", "--json", &policy], None);
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["errors"][0]["path"], "/upstream/proxy", "{seen}");
    assert!(seen["errors"][0]["message"].as_str().unwrap().contains("HTTPS_PROXY"), "{seen}");
}

#[test]
fn check_reads_the_credential_of_the_proxy_and_the_roots() {
    let desk = Desk::new();
    let errors = |upstream: &str, auth: Option<&str>| {
        let policy = desk.file("p.json", &format!(r#"{{"upstream":{upstream}}}"#));
        let variables: Vec<(&str, &str)> =
            auth.map(|auth| ("PROXY_AUTH", auth)).into_iter().collect();
        let path = policy.display().to_string();
        let output = desk.run_with(&variables, &["check", "--json", &path], None);
        let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = seen["errors"].as_array().unwrap().iter();
        all.map(|error| format!("{} {}", error["path"], error["message"])).collect::<Vec<_>>()
    };
    let from_variable = r#"{"proxy":"http://p.corp:1","proxy_auth":{"env":"PROXY_AUTH"}}"#;
    assert!(errors(from_variable, Some("me:CANARY")).is_empty());
    assert!(errors(from_variable, Some("Bearer CANARY")).is_empty());
    for (auth, words) in [
        (None, "`PROXY_AUTH` is not set"),
        (Some("CANARY"), "is neither `user:password` nor `Bearer TOKEN`"),
        (Some("Bearer CANARY CANARY"), "is neither"),
    ] {
        let [error] = &errors(from_variable, auth)[..] else { panic!("{auth:?}") };
        assert!(error.starts_with("\"/upstream/proxy_auth\"") && error.contains(words), "{error}");
    }
    let literal = r#"{"proxy":"http://p.corp:1","proxy_auth":"CANARY"}"#;
    assert!(errors(literal, None)[0].contains("is neither"), "{:?}", errors(literal, None));
    let empty = desk.file("empty.pem", "nothing\n").display().to_string();
    for (file, words) in [("/no/such.pem", "does not exist"), (&empty, "has no certificate in it")]
    {
        let found = errors(&format!(r#"{{"ca":["{file}"]}}"#), None);
        let [error] = &found[..] else { panic!("{found:?}") };
        assert!(error.starts_with("\"/upstream/ca/0\"") && error.contains(words), "{error}");
    }
}
