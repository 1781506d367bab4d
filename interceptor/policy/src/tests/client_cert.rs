//! `client_cert`: a certificate beside a key, or instead of one.

use super::super::{Catalogue, KeySource, Policy, check};

const SOURCES: &str = r#""client_cert":{"certificate":{"file":"/c"},"key":{"env":"K"}}"#;

fn document(fields: &str) -> String {
    format!(r#"{{"credentials_v2":{{"mine":{{"hosts":["mine.test"],{fields}}}}}}}"#)
}

fn policy(fields: &str) -> Policy {
    check(&document(fields), &Catalogue::builtin()).policy.unwrap()
}

#[test]
fn a_certificate_stands_beside_a_key_or_alone() {
    let sources = |policy: &Policy| {
        let told = |(source, pointer): (&KeySource, &str)| {
            (format!("{source:?}"), pointer.rsplit_once("mine/").unwrap().1.to_owned())
        };
        policy.sources().map(told).collect::<Vec<_>>()
    };
    let of = |source: &str, pointer: &str| (source.to_owned(), pointer.to_owned());
    let alone = policy(SOURCES);
    assert!(!alone.credentials()[0].has_key());
    let (key, certificate) =
        (of("Env(\"K\")", "client_cert/key"), of("File(\"/c\")", "client_cert/certificate"));
    assert_eq!(sources(&alone), [key.clone(), certificate.clone()]);
    let both = policy(&format!(r#""key":{{"file":"/k"}},{SOURCES}"#));
    assert!(both.credentials()[0].has_key());
    assert_eq!(sources(&both), [of("File(\"/k\")", "key"), key, certificate]);
    let secrets: Vec<&str> = both.secret_sources().map(|(_, pointer)| pointer).collect();
    assert_eq!(secrets, ["/credentials_v2/mine/key", "/credentials_v2/mine/client_cert/key"]);
}

#[test]
fn what_does_not_go_with_a_certificate_is_refused_where_it_stands() {
    for (fields, pointer, says) in [
        (r#""client_cert":{"certificate":{"file":"/c"}}"#, "client_cert", "with its private key"),
        (r#""client_cert":{"key":{"file":"/c"}}"#, "client_cert", "with its private key"),
        (r#""client_cert":"/c""#, "client_cert", "not a string"),
        (
            r#""client_cert":{"certificate":"MIIB","key":{"file":"/k"}}"#,
            "client_cert/certificate",
            "not PEM",
        ),
        (
            r#""client_cert":{"certificate":{"file":"/c"},"key":"secret"}"#,
            "client_cert/key",
            "not PEM",
        ),
        (&format!(r#"{SOURCES},"inject":{{"header":"x-key"}}"#), "inject", "there is none"),
        (&format!(r#"{SOURCES},"allow_plaintext":true"#), "allow_plaintext", "needs TLS"),
        (r#""env":"MINE""#, "", "or `client_cert`"),
    ] {
        let errors = check(&document(fields), &Catalogue::builtin()).errors;
        let pointer = format!("/credentials_v2/mine/{pointer}");
        let pointer = pointer.trim_end_matches('/');
        let told: Vec<_> = errors.iter().map(|one| (&one.pointer, &one.message)).collect();
        assert!(
            errors.iter().any(|one| one.pointer == pointer && one.message.contains(says)),
            "{fields}: {told:?}"
        );
        assert!(errors.iter().all(|one| !one.message.contains("secret")), "{told:?}");
    }
}
