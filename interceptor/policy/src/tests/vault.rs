//! `vault`: where a secret of Vault or OpenBao is, and as what it is asked for.

use super::super::{Catalogue, FetchedSource, KeySource, VaultAuth, check};

const TOKEN: &str = r#""auth":{"token":{"env":"T"}}"#;

fn document(fields: &str) -> String {
    let key = format!(r#"{{"vault":{{{fields}}}}}"#);
    format!(r#"{{"credentials_v2":{{"mine":{{"hosts":["mine.test"],"key":{key}}}}}}}"#)
}

fn usual(fields: &str) -> String {
    format!(r#""address":"https://v.test:8200","path":"/v1/secret/data/a/","field":"key",{fields}"#)
}

#[test]
fn a_secret_has_a_place_and_an_authentication() {
    let read = |fields: &str| {
        let report = check(&document(&usual(fields)), &Catalogue::builtin());
        let policy = report.policy.unwrap_or_else(|| panic!("{:?}", report.errors));
        match &policy.credentials()[0].key {
            KeySource::Fetched(FetchedSource::Vault(source)) => (**source).clone(),
            other => panic!("{other:?}"),
        }
    };
    let source = read(TOKEN);
    assert_eq!((&*source.path, &*source.field), ("secret/data/a", "key"));
    assert_eq!(source.address.to_string(), "https://v.test:8200/");
    assert!(matches!(source.auth, VaultAuth::Token(KeySource::Env(_))));
    let secret = r#""role_id":"r","secret_id":"canary","wrapped":true"#;
    let source = read(&format!(r#""auth":{{"approle":{{{secret}}}}},"ca":"/ca""#));
    assert!(matches!(source.auth, VaultAuth::AppRole { is_wrapped: true, .. }));
    assert!(!format!("{source:?}").contains("canary"));
    for field in FetchedSource::Vault(Box::new(source)).inputs().into_keys() {
        assert!(FetchedSource::SECRETS.contains(&field), "{field}");
    }
}

#[test]
fn what_is_no_secret_of_a_server_is_told_where_it_stands() {
    let path =
        |path: &str| format!(r#""address":"https://v.test","path":"{path}","field":"k",{TOKEN}"#);
    for (fields, pointer, says) in [
        (format!(r#""path":"a","field":"k",{TOKEN}"#), "", "`address` is missing"),
        (format!(r#""address":"https://v.test","field":"k",{TOKEN}"#), "", "`path` is missing"),
        (format!(r#""address":"https://v.test","path":"a",{TOKEN}"#), "", "`field` is missing"),
        (r#""address":"https://v.test","path":"a","field":"k""#.to_owned(), "", "`auth` is"),
        (
            format!(r#""address":"http://v.test","path":"a","field":"k",{TOKEN}"#),
            "/address",
            "https://",
        ),
        (path("a/../b"), "/path", "a path of the API"),
        (path("a//b"), "/path", "a path of the API"),
        (path("a?b"), "/path", "a path of the API"),
        (path("a%2fb"), "/path", "a path of the API"),
        (usual(r#""auth":{}"#), "/auth", "`auth` is"),
        (usual(r#""auth":{"token":"t","approle":{}}"#), "/auth", "`auth` is"),
        (usual(r#""auth":{"approle":{"role_id":"r"}}"#), "/auth/approle", "`secret_id` is missing"),
        (usual(&format!(r#"{TOKEN},"namespace":"n""#)), "/namespace", "unknown"),
    ] {
        let errors = check(&document(&fields), &Catalogue::builtin()).errors;
        let pointer = format!("/credentials_v2/mine/key/vault{pointer}");
        let told: Vec<_> = errors.iter().map(|one| (&one.pointer, &one.message)).collect();
        assert!(
            errors.iter().any(|one| one.pointer == pointer && one.message.contains(says)),
            "{fields}: {told:?}"
        );
    }
}
