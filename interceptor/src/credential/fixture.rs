//! Policies with credentials of every form, for the tests of this module and of `http::inject`.

use interceptor_policy::{Catalogue, CredentialId, Document, Policy};

use super::Keyring;

const SERVICES: &str = r#"{ "description": "services with several forms", "services": [
    { "name": "anthropic", "title": "x-api-key or Bearer",
      "hosts": ["anthropic.test"], "env": ["ANTHROPIC_API_KEY"], "sources": {},
      "forms": [{ "header": "x-api-key", "format": "{key}" },
                { "header": "authorization", "format": "Bearer {key}" }],
      "placeholder": { "prefix": "sk-ant-proxy-managed-", "random": 32,
                       "alphabet": "alphanumeric" } },
    { "name": "github", "title": "Bearer, token or Basic",
      "hosts": ["github.test", "*.github.test"], "env": ["GITHUB_TOKEN", "GH_TOKEN"], "sources": {},
      "forms": [{ "header": "authorization", "format": "Bearer {key}" },
                { "header": "authorization", "format": "token {key}" },
                { "basic": { "username": "x-access-token" } }],
      "placeholder": { "prefix": "ghp_", "random": 36, "alphabet": "alphanumeric" } },
    { "name": "google", "title": "header or query",
      "hosts": ["google.test"], "env": ["GEMINI_API_KEY"], "sources": {},
      "forms": [{ "header": "x-goog-api-key", "format": "{key}" }, { "query": "key" }],
      "placeholder": { "prefix": "AIza", "random": 35, "alphabet": "alphanumeric" } }
]}"#;

const PROFILES: &str = r#"{ "unrestricted": { "description": "any public host" } }"#;

/// What [`policy`] gives as keys, by credential.
pub(crate) const KEYS: [(&str, &str); 6] = [
    ("anthropic", "sk-ant-real-anthropic"),
    ("github", "ghp_realgithub"),
    ("google", "AIzaReal/google+key"),
    ("basic", "real-basic-key"),
    ("first", "real-first-key"),
    ("second", "real-second-key"),
];

/// The real key of a credential of [`policy`].
pub(crate) fn key(name: &str) -> &'static str {
    KEYS.iter().find(|(known, _)| *known == name).expect("a credential of the fixture").1
}

/// The three services, a credential with Basic of the client's own user name, and two that share a
/// host.
pub(crate) fn policy() -> Policy {
    let document = format!(
        r#"{{ "credentials_v2": {{
            "anthropic": {{ "key": "{}" }},
            "github": {{ "key": "{}" }},
            "google": {{ "key": "{}" }},
            "basic": {{ "key": "{}", "hosts": ["basic.test"], "env": "BASIC_KEY",
                        "inject": {{ "basic": {{ "username": "" }} }} }},
            "first": {{ "key": "{}", "hosts": ["shared.test"], "env": "FIRST_KEY",
                        "inject": {{ "header": "x-first_key" }} }},
            "second": {{ "key": "{}", "hosts": ["shared.test:8443"], "env": "SECOND_KEY",
                         "inject": {{ "query": "second" }} }}
        }} }}"#,
        key("anthropic"),
        key("github"),
        key("google"),
        key("basic"),
        key("first"),
        key("second")
    );
    compile(&document)
}

/// Compiles a document with the services of the fixture.
pub(crate) fn compile(document: &str) -> Policy {
    let catalogue = Catalogue::from_json(SERVICES, PROFILES).expect("the services of the fixture");
    let parsed = Document::parse(document).expect("a document");
    Policy::compile(&parsed.document, &catalogue).expect("a policy")
}

/// The keyring of a policy.
pub(crate) fn keyring(policy: &Policy) -> Keyring {
    Keyring::load(policy, None).expect("keys")
}

/// A credential of a policy, with its placeholder.
pub(crate) fn credential(policy: &Policy, keyring: &Keyring, name: &str) -> (CredentialId, String) {
    let id = policy.credential_named(name).expect("a credential");
    (id, keyring.placeholder(id).expect("a placeholder").as_str().to_owned())
}
