//! `/openapi.json`: generated from the handlers, with the policy document's schema embedded.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use interceptor_policy::json_schema;
use serde_json::{Map, Value, json};
use utoipa::openapi::{Info, OpenApi};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::problem::ApiProblem;
use super::shared::Control;

/// The document as text.
pub(super) fn document(mut described: OpenApi) -> String {
    let mut info = Info::new("interceptor control API", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Create, list, change, follow and delete sandboxes. Keys are write-only. Errors are \
         problem documents (RFC 9457)."
            .to_owned(),
    );
    described.info = info;
    let schemas = &mut described.components.get_or_insert_default().schemas;
    let mut problem = vec![(ApiProblem::name().into(), ApiProblem::schema())];
    ApiProblem::schemas(&mut problem);
    schemas.extend(problem);
    // Both consist of serialisable types, so neither fails.
    let mut document = serde_json::to_value(&described).unwrap_or_default();
    let policy = serde_json::from_str(&json_schema()).unwrap_or_default();
    add_policy(&mut document, policy);
    add_problem(&mut document["paths"]);
    document.to_string()
}

/// Adds the policy schema to the components and the requests.
fn add_policy(document: &mut Value, mut policy: Value) {
    refer(&mut policy);
    let Some(fields) = policy.as_object_mut() else { return };
    fields.remove("$schema");
    let definitions = match fields.remove("$defs") {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    let mut new = policy.clone();
    let schemas = &mut document["components"]["schemas"];
    if let (Some(properties), Some(own)) =
        (new["properties"].as_object_mut(), schemas["NewSandbox"]["properties"].as_object())
    {
        properties.extend(own.clone());
    }
    new["title"] = json!("A policy and the place to enforce it");
    new["required"] = json!(["cgroup"]);
    schemas["NewSandbox"] = new;
    schemas["Policy"] = policy;
    for (name, definition) in definitions {
        schemas[name] = definition;
    }
    let content = |name| {
        let schema = format!("#/components/schemas/{name}");
        json!({ "application/json": { "schema": { "$ref": schema } } })
    };
    for (path, method, name) in
        [("/v1/sandboxes", "post", "NewSandbox"), ("/v1/sandboxes/{id}/policy", "put", "Policy")]
    {
        // A `run` makes no sandboxes.
        let asked = document["paths"][path].get_mut(method);
        if let Some(body) = asked.and_then(|asked| asked.get_mut("requestBody")) {
            body["content"] = content(name);
        }
    }
}

/// Adds the problem document to every error: the handlers only say when there is which.
fn add_problem(paths: &mut Value) {
    let methods = paths.as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let described = methods.filter_map(Value::as_object_mut).flat_map(|path| path.values_mut());
    let all = described.filter_map(|method| method["responses"].as_object_mut());
    for (status, response) in all.flatten() {
        if status.starts_with(['4', '5']) {
            let schema = json!({ "$ref": "#/components/schemas/Problem" });
            response["content"] = json!({ "application/problem+json": { "schema": schema } });
        }
    }
}

/// Rewrites references in the schema for the document.
fn refer(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref") {
                *reference = reference.replace("#/$defs/", "#/components/schemas/");
            }
            object.values_mut().for_each(refer);
        }
        Value::Array(list) => list.iter_mut().for_each(refer),
        _ => {}
    }
}

/// The OpenAPI document.
pub(super) async fn serve(State(control): State<Control>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], control.openapi.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Scope;
    use super::*;
    use crate::fleet::DaemonsFiles;

    #[test]
    fn what_a_run_cannot_do_is_not_described() {
        let scope = Scope::Run { files: Arc::new(DaemonsFiles) };
        let document = document(super::super::described(&scope).1);
        let document: Value = serde_json::from_str(&document).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(!paths.contains_key("/v1/takeover"));
        let methods =
            |path: &str| paths[path].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(methods("/v1/sandboxes"), ["get"]);
        assert_eq!(methods("/v1/sandboxes/{id}"), ["get"]);
        assert_eq!(methods("/v1/sandboxes/{id}/policy"), ["put"]);
        assert_eq!(methods("/v1/approvals/{id}/always"), ["post"]);
    }

    #[test]
    fn the_document_is_whole_and_every_reference_in_it_leads_somewhere() {
        let text = document(super::super::described(&Scope::Daemon { successors: Vec::new() }).1);
        let document: Value = serde_json::from_str(&text).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        for path in [
            "/v1/sandboxes",
            "/v1/sandboxes/{id}",
            "/v1/sandboxes/{id}/policy",
            "/v1/sandboxes/{id}/audit",
            "/v1/sandboxes/{id}/leases",
            "/v1/sandboxes/{id}/leases/{lease}",
            "/v1/approvals",
            "/v1/approvals/events",
            "/v1/approvals/{id}",
            "/v1/network-profiles",
            "/v1/services",
            "/healthz",
            "/metrics",
        ] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
        let new = &document["components"]["schemas"]["NewSandbox"]["properties"];
        for field in [
            "cgroup",
            "pid",
            "netns",
            "private_network",
            "id",
            "network",
            "credentials_v2",
            "limits",
        ] {
            assert!(new[field].is_object(), "{field} in {new}");
        }
        let refused = &document["paths"]["/v1/sandboxes"]["post"]["responses"]["409"];
        let schema = &refused["content"]["application/problem+json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/Problem");
        let mut references = 0;
        for (at, _) in text.match_indices("\"$ref\":\"#") {
            let reference = text[at + 9..].split('"').next().unwrap();
            assert!(document.pointer(reference).is_some(), "{reference}");
            references += 1;
        }
        assert!(references > 10);
    }
}
