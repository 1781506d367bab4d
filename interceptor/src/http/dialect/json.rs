//! Members of a JSON body where clients look for a reason, besides `error`, which every refusal
//! has.
//!
//! | client | where it looks |
//! | --- | --- |
//! | npm, pnpm, yarn, bun | `error`, a string (`npm-registry-fetch/lib/errors.js`): the object moves to `interceptor` |
//! | GraphQL | `errors[].message` (<https://spec.graphql.org/October2021/#sec-Errors>) |
//! | cargo | `errors[].detail` (<https://doc.rust-lang.org/cargo/reference/registry-web-api.html>) |
//! | container engines | `errors[].code`, `errors[].message` (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes>) |
//! | JSON-RPC, MCP | `error.code`, `error.message` under the call's `id` (<https://www.jsonrpc.org/specification#error_object>) |

use bytes::Bytes;
use http::Response;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, USER_AGENT};
use interceptor_policy::Deny;
use serde_json::{Map, Value, json};

use super::asked::Asked;

/// Maximum size in bytes of a body that is checked for a JSON-RPC call.
pub(in crate::http) const MOST_CALL: usize = 64 * 1024;
/// Maximum length in bytes of a call's id that is echoed.
const MOST_ID: usize = 256;
/// The implementation-defined server errors of JSON-RPC start here; MCP clients show this one.
const CODE: i64 = -32_001;

/// Whether a request's body may be a JSON-RPC call short enough to be checked.
pub(in crate::http) fn may_be_a_call(headers: &HeaderMap) -> bool {
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| {
        let kind =
            kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        kind.eq_ignore_ascii_case(b"application/json")
            || kind.eq_ignore_ascii_case(b"application/json-rpc")
            || kind.eq_ignore_ascii_case(b"application/jsonrequest")
    });
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    is_json && length.is_some_and(|length: usize| length <= MOST_CALL)
}

/// Adds the members that the client looks for.
pub(super) fn speak(response: &mut Response<Bytes>, asked: &Asked<'_>, deny: &Deny) {
    let Some(change) = dialect(asked) else { return };
    let Ok(Value::Object(mut body)) = serde_json::from_slice(response.body()) else { return };
    change(&mut body, deny);
    let mut bytes = Value::Object(body).to_string();
    bytes.push('\n');
    *response.body_mut() = Bytes::from(bytes);
}

type Edit = Box<dyn FnOnce(&mut Map<String, Value>, &Deny)>;

fn dialect(asked: &Asked<'_>) -> Option<Edit> {
    let is = |names: &[&str]| names.iter().any(|name| asked.begins(USER_AGENT, name));
    if is(&["npm/", "pnpm/", "yarn/", "bun/"]) {
        return Some(Box::new(string));
    }
    if let Some(id) = call(asked.body) {
        return Some(Box::new(|body, deny| rpc(body, deny, id)));
    }
    let path = asked.uri.path();
    let graphql = path.ends_with("/graphql")
        || asked.begins(CONTENT_TYPE, "application/graphql")
        || asked.begins(ACCEPT, "application/graphql");
    let engine = is(&[
        "docker/",
        "containerd/",
        "containers/",
        "buildah/",
        "skopeo/",
        "go-containerregistry",
    ]) || path == "/v2"
        || path.starts_with("/v2/");
    (graphql || engine || is(&["cargo ", "cargo/"])).then(|| Box::new(list) as Edit)
}

/// The reason as a string.
fn string(body: &mut Map<String, Value>, deny: &Deny) {
    if let Some(object) = body.insert("error".to_owned(), deny.message.as_str().into()) {
        body.insert("interceptor".to_owned(), object);
    }
}

/// The reason as a list with one error.
fn list(body: &mut Map<String, Value>, deny: &Deny) {
    let error = json!({
        "code": "DENIED",
        "message": deny.message,
        "detail": deny.message,
        "extensions": { "code": deny.reason.as_str() },
    });
    body.insert("errors".to_owned(), json!([error]));
}

/// The reason as a JSON-RPC response.
fn rpc(body: &mut Map<String, Value>, deny: &Deny, id: Value) {
    body.insert("jsonrpc".to_owned(), "2.0".into());
    body.insert("id".to_owned(), id);
    if let Some(Value::Object(error)) = body.get_mut("error") {
        error.insert("code".to_owned(), CODE.into());
        error.insert("data".to_owned(), json!({ "type": deny.reason.as_str() }));
    }
}

/// The id for the response to a JSON-RPC call: null for a notification, a batch or an invalid id.
/// `None` if the body is no call.
fn call(body: &[u8]) -> Option<Value> {
    let is_call = |value: &Value| value["jsonrpc"] == "2.0";
    match serde_json::from_slice(body).ok()? {
        Value::Array(calls) => calls.first().is_some_and(is_call).then_some(Value::Null),
        call if is_call(&call) => Some(match &call["id"] {
            Value::String(id) if id.len() <= MOST_ID => id.as_str().into(),
            Value::Number(id) if id.to_string().len() <= MOST_ID => Value::Number(id.clone()),
            _ => Value::Null,
        }),
        _ => None,
    }
}
