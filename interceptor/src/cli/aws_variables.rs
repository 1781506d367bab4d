//! The keys of an AWS account that are in the usual variables, as a policy names them.

use interceptor_policy::{Form, Service};
use serde_json::{Value, json};

/// The variable with the session token of temporary keys.
const TOKEN: &str = "AWS_SESSION_TOKEN";

/// The source of a service's key that is in that variable: of a pair where the service's requests
/// are signed.
pub(super) fn key_in(
    service: Option<&Service>,
    variable: &str,
    is_set: &dyn Fn(&str) -> bool,
) -> Value {
    let signed = service.filter(|service| service.forms == [Form::SigV4]);
    match signed.map(|service| &service.env[..]) {
        Some([id, secret]) => {
            let mut keys =
                json!({ "access_key_id": { "env": id }, "secret_access_key": { "env": secret } });
            if is_set(TOKEN) {
                keys["session_token"] = json!({ "env": TOKEN });
            }
            json!({ "aws": keys })
        }
        _ => json!({ "env": variable }),
    }
}
