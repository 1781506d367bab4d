//! The policy of a run as it is kept: without keys, but still a valid policy.

use interceptor_policy::Policy;
use serde_json::{Map, Value, json};

use crate::credential::Keyring;
use crate::fleet::without_keys;

/// The document without its keys. A literal key is replaced by the name of a variable, so that the
/// document still judges requests and can be the base of another policy.
pub(in crate::cli) fn kept_document(text: &str, policy: &Policy, keyring: &Keyring) -> Value {
    let mut document = without_keys(text, &[], keyring);
    for (field, is_key) in [("credentials", true), ("credentials_v2", false)] {
        let Some(Value::Object(credentials)) = document.get_mut(field) else { continue };
        for (name, credential) in credentials {
            let of_certificate = credential.pointer_mut("/client_cert/key");
            if let Some(key) = of_certificate.filter(|key| !is_key && key.is_null()) {
                *key = json!({ "env": format!("{}_KEY", variable(policy, name)) });
            }
            let key = if is_key { Some(credential) } else { credential.get_mut("key") };
            let Some(key) = key else { continue };
            if key.is_null() {
                *key = json!({ "env": variable(policy, name) });
            }
            name_inputs(key);
        }
    }
    if let Some(auth) = document.pointer_mut("/upstream/proxy_auth").filter(|auth| auth.is_null()) {
        *auth = json!({ "env": "UPSTREAM_PROXY_AUTH" });
    }
    document
}

/// Names a variable for each secret of a source that stood in the document.
fn name_inputs(source: &mut Value) {
    let Value::Object(fields) = source else { return };
    for (field, value) in fields {
        if value.is_null() {
            *value = json!({ "env": field.to_ascii_uppercase() });
        }
        name_inputs(value);
    }
}

/// The variable for the key of a credential: the one that carries its placeholder, or one named
/// after the credential.
fn variable(policy: &Policy, name: &str) -> String {
    let known = policy.credential_named(name).map(|id| policy.credential(id));
    known.and_then(|credential| credential.env.first().cloned()).unwrap_or_else(|| {
        let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        format!("{}_API_KEY", name.chars().map(upper).collect::<String>())
    })
}

/// What is kept of a policy: its name and its document.
pub(in crate::cli) fn kept_policy(name: &str, document: Value) -> Value {
    let mut kept = Map::new();
    kept.insert("name".to_owned(), name.into());
    kept.insert("document".to_owned(), document);
    Value::Object(kept)
}
