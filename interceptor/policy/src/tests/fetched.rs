use std::time::Duration;

use super::super::{Catalogue, ClientAuth, FetchedSource, Grant, KeySource, check};

fn text(key: &str) -> String {
    format!(
        r#"{{"credentials_v2":{{"lab":{{"key":{key},"hosts":["a.test"],"env":"LAB",
            "endpoints":[]}}}}}}"#
    )
}

fn oauth2(fields: &str) -> String {
    format!(r#"{{"oauth2":{{"token_url":"https://token.test/t",{fields}}}}}"#)
}

fn source(key: &str) -> FetchedSource {
    let report = check(&text(key), &Catalogue::builtin());
    let policy = report.policy.unwrap_or_else(|| panic!("{key}: {:?}", report.errors));
    match &policy.credentials()[0].key {
        KeySource::Fetched(source) => source.clone(),
        other => panic!("{other:?}"),
    }
}

fn errors(key: &str) -> Vec<(String, String)> {
    let report = check(&text(key), &Catalogue::builtin());
    assert!(report.policy.is_none(), "{key}");
    let prefix = "/credentials_v2/lab/key";
    let error = |pointer: &str| pointer.strip_prefix(prefix).unwrap_or(pointer).to_owned();
    report.errors.into_iter().map(|found| (error(&found.pointer), found.message)).collect()
}

#[test]
fn a_token_endpoint_is_read_with_its_grant() {
    let FetchedSource::Oauth2(read) = source(&oauth2(
        r#""grant":"client_credentials","client_id":"me","client_secret":{"env":"SECRET"},
           "client_auth":"post","scope":"a b","timeout_seconds":5,"ttl_seconds":60"#,
    )) else {
        panic!()
    };
    assert_eq!(read.token_url.to_string(), "https://token.test/t");
    assert_eq!((read.grant, read.client_auth), (Grant::ClientCredentials, ClientAuth::Post));
    assert_eq!((read.timeout, read.ttl), (Duration::from_secs(5), Duration::from_secs(60)));
    let FetchedSource::Oauth2(read) =
        source(&oauth2(r#""grant":"refresh_token","refresh_token":{"exec":["op","read","x"]}"#))
    else {
        panic!()
    };
    assert!(matches!(read.grant, Grant::RefreshToken(KeySource::Exec(_))));
    assert_eq!((read.timeout, read.ttl), (Duration::from_secs(30), Duration::from_secs(300)));
    let FetchedSource::Oauth2(read) = source(&oauth2(
        r#""grant":"jwt_bearer","client_id":"me","assertion_key":{"file":"/k.pem"},"key_id":"k",
           "subject":"s","audience":"a""#,
    )) else {
        panic!()
    };
    let Grant::JwtBearer(assertion) = read.grant else { panic!() };
    let texts = [assertion.key_id, assertion.subject, assertion.audience];
    assert_eq!(texts.map(Option::unwrap), ["k", "s", "a"]);
}

#[test]
fn every_secret_of_a_source_is_found_and_none_is_shown() {
    let key = oauth2(
        r#""grant":"refresh_token","client_id":"me","client_secret":{"env":"SECRET"},
           "refresh_token":"canary-token""#,
    );
    let report = check(&text(&key), &Catalogue::builtin());
    let policy = report.policy.unwrap();
    let all = policy.credentials()[0].key.all();
    assert!(matches!(all[..], [KeySource::Fetched(_), KeySource::Env(_), KeySource::Literal(_)]));
    let shown = format!("{policy:?} {:?}", report.warnings);
    assert!(!shown.contains("canary"), "{shown}");
    // It stands in the policy, as a key would.
    assert!(report.warnings.iter().any(|warning| warning.message.contains("in the policy itself")));
    assert!(matches!(source(&key), FetchedSource::Oauth2(_)));
    for field in source(&key).inputs().into_keys() {
        assert!(FetchedSource::SECRETS.contains(&field), "{field}");
    }
}

#[test]
fn what_does_not_fit_a_grant_is_told_where_it_stands() {
    let table = [
        (r#""grant":"client_credentials""#, "", "needs `client_id` and `client_secret`"),
        (r#""grant":"refresh_token""#, "/oauth2", "the field `refresh_token` is missing"),
        (r#""grant":"jwt_bearer","client_id":"me""#, "/oauth2", "`assertion_key` is missing"),
        (
            r#""grant":"jwt_bearer","assertion_key":"k""#,
            "/oauth2",
            "needs `client_id`: it is the issuer",
        ),
        (
            r#""grant":"refresh_token","refresh_token":"r","subject":"s""#,
            "/oauth2/subject",
            "`subject` belongs to the grant jwt_bearer, not refresh_token",
        ),
        (
            r#""grant":"refresh_token","refresh_token":"r","client_secret":"s""#,
            "/oauth2",
            "`client_secret` needs `client_id`",
        ),
        (r#""grant":"password""#, "/oauth2/grant", "is one of `client_credentials`"),
        (
            r#""grant":"refresh_token","refresh_token":{"oauth2":{}}"#,
            "/oauth2/refresh_token",
            "cannot come from a service in its turn",
        ),
        (
            r#""grant":"refresh_token","refresh_token":"""#,
            "/oauth2/refresh_token",
            "this secret is empty",
        ),
        (
            r#""grant":"refresh_token","refresh_token":"r","scoep":"x""#,
            "/oauth2/scoep",
            "unknown field `scoep`; did you mean `scope`?",
        ),
        (
            r#""grant":"refresh_token","refresh_token":"r","scope":"a\u0000b""#,
            "/oauth2/scope",
            "no control character",
        ),
    ];
    for (fields, pointer, message) in table {
        let errors = errors(&oauth2(fields));
        let found = errors.iter().any(|(at, why)| at.starts_with(pointer) && why.contains(message));
        assert!(found, "{fields}: {errors:?}");
    }
    let url = |url: &str| {
        let fields = format!(r#""token_url":"{url}","grant":"refresh_token","refresh_token":"r""#);
        errors(&format!(r#"{{"oauth2":{{{fields}}}}}"#))
    };
    for (text, message) in [
        ("http://token.test/", "secrets are sent here"),
        ("https://me:canary@token.test/", "no user and no password"),
        ("token.test", "this is a URL"),
    ] {
        let errors = url(text);
        assert!(errors[0].0 == "/oauth2/token_url" && errors[0].1.contains(message), "{errors:?}");
        assert!(!errors[0].1.contains("canary"), "{errors:?}");
    }
    assert!(errors(r#"{"oauth2":{},"exec":["x"]}"#).iter().any(|(at, _)| at == "/exec"));
}
