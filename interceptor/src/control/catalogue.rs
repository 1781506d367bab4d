//! `/v1/network-profiles` and `/v1/services`: the profiles and services that policies can name.

use axum::Json;
use axum::extract::State;
use interceptor_policy::{Catalogue, Form, Profile, Service};
use serde_json::{Value, json};

use super::shared::Control;

/// The network profiles.
#[utoipa::path(
    get,
    path = "/v1/network-profiles",
    tag = "catalogues",
    responses((status = 200, description = "Every profile with its rules", body = Vec<Value>))
)]
pub(super) async fn profiles(State(control): State<Control>) -> Json<Value> {
    let catalogue = control.fleet.catalogue();
    Json(
        catalogue
            .profiles()
            .map(|(name, profile)| profile_json(catalogue, name, profile))
            .collect(),
    )
}

/// The service catalogue.
#[utoipa::path(
    get,
    path = "/v1/services",
    tag = "catalogues",
    responses((status = 200, description = "Every service", body = Vec<Value>))
)]
pub(super) async fn services(State(control): State<Control>) -> Json<Value> {
    Json(control.fleet.catalogue().services().map(service_json).collect())
}

/// A form as text, with `{key}` for the key.
pub(crate) fn form_text(form: &Form) -> String {
    match form {
        Form::Header { name, prefix, suffix } => format!("{name}: {prefix}{{key}}{suffix}"),
        Form::Basic { username } if username == Form::KEY => {
            "authorization: Basic {key}:".to_owned()
        }
        Form::Basic { username } => format!("authorization: Basic {username}:{{key}}"),
        Form::Query { name } => format!("?{name}={{key}}"),
        Form::SigV4 => "signed with {key} (AWS Signature Version 4)".to_owned(),
    }
}

/// The shape of a placeholder, with `x` for random characters.
pub(crate) fn placeholder(service: &Service) -> String {
    let shape = &service.placeholder;
    format!("{}{}{}", shape.prefix, "x".repeat(shape.random), shape.suffix)
}

/// A service as JSON.
pub(crate) fn service_json(service: &Service) -> Value {
    json!({
        "name": service.name,
        "title": service.title,
        "hosts": service.host_texts,
        "forms": service.forms.iter().map(form_text).collect::<Vec<_>>(),
        "env": service.env,
        "base_url_env": service.base_url_env,
        "placeholder": placeholder(service),
        "keeps": { "headers": service.keeps.headers, "query": service.keeps.query },
        "mints": service.mints,
        "sources": service.sources,
    })
}

/// A profile as JSON, with its rules on this machine.
pub(crate) fn profile_json(catalogue: &Catalogue, name: &str, profile: &Profile) -> Value {
    let groups: serde_json::Map<String, Value> =
        profile.groups.iter().map(|group| (group.clone(), json!(catalogue.group(group)))).collect();
    json!({
        "name": name,
        "description": profile.description,
        "allow": catalogue.allow_rules(profile).0,
        "deny": profile.deny,
        "groups": groups,
    })
}
