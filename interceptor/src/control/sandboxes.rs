//! `/v1/sandboxes`: creates, lists, shows and deletes sandboxes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use interceptor_policy::Limits;
use serde_json::Value;
use serde_json::value::RawValue;

use super::model::{
    BESIDES, CreatedSandbox, NewSandbox, SandboxDetails, SandboxList, SandboxSummary, TrustContent,
    TrustFile, Warning,
};
use super::params::{Id, Text, json};
use super::problem::{ApiProblem, FieldError};
use super::shared::{Control, blocking};
use crate::fleet::{self, Fleet, FleetError, Member, Source};
use crate::sandbox::{environment, trust};

/// Enforces a policy on a cgroup. The body is a policy document with the extra field `cgroup` and,
/// optionally, `pid`, `netns`, `private_network` and `id`. Without any policy field, the daemon's
/// default policy applies.
#[utoipa::path(
    post,
    path = "/v1/sandboxes",
    tag = "sandboxes",
    request_body(
        content = NewSandbox,
        description = "A policy document and the place to enforce it",
    ),
    responses(
        (
            status = 201,
            description = "The policy is enforced: the self-test from inside passed",
            body = CreatedSandbox,
            headers(("location" = String, description = "The sandbox's URL path")),
        ),
        (status = 400, description = "The body is not JSON"),
        (status = 409, description = "The cgroup or the id is taken"),
        (status = 413, description = "The body is too large"),
        (status = 422, description = "The document is not valid"),
    )
)]
pub(super) async fn create(
    State(control): State<Control>,
    Text(text): Text,
) -> Result<Response, ApiProblem> {
    json(&text)?;
    let member = blocking(move || new_sandbox(&control.fleet, &text)).await??;
    let created = created(&member);
    let mut response = (StatusCode::CREATED, Json(created)).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/sandboxes/{}", member.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Every sandbox.
#[utoipa::path(
    get,
    path = "/v1/sandboxes",
    tag = "sandboxes",
    responses((status = 200, description = "Every sandbox, by id", body = SandboxList))
)]
pub(super) async fn list(State(fleet): State<Arc<Fleet>>) -> Json<SandboxList> {
    Json(SandboxList { sandboxes: fleet.list().iter().map(|member| summary(member)).collect() })
}

/// One sandbox, with its policy without keys.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "The sandbox", body = SandboxDetails),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn show(
    State(control): State<Control>,
    Id(id): Id,
) -> Result<Json<SandboxDetails>, ApiProblem> {
    Ok(Json(details(&*control.fleet.get(&id)?)))
}

/// Stops enforcement: revokes the keys, closes and records the connections, then detaches the
/// programs. End the sandbox's processes first: any left over are no longer intercepted.
#[utoipa::path(
    delete,
    path = "/v1/sandboxes/{id}",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 204, description = "The sandbox was deleted"),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn remove(
    State(control): State<Control>,
    Id(id): Id,
) -> Result<StatusCode, ApiProblem> {
    blocking(move || control.fleet.remove(&id)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Parses and executes the request; reports every error of the document at once.
fn new_sandbox(fleet: &Fleet, text: &str) -> Result<Arc<Member>, ApiProblem> {
    let mut errors = Vec::new();
    let mut fields = RequestFields::default();
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).unwrap_or_default();
    for (name, value) in &members {
        match name.as_str() {
            "cgroup" => fields.cgroup = string(name, value, &mut errors),
            "netns" => fields.netns = string(name, value, &mut errors),
            "id" => fields.id = string(name, value, &mut errors),
            "private_network" => match serde_json::from_str::<bool>(value.get()) {
                Ok(told) => fields.private_network = told,
                Err(_) => errors.push(wrong("/private_network", "must be true or false")),
            },
            "pid" => match serde_json::from_str::<i32>(value.get()) {
                Ok(pid) if pid > 0 => fields.pid = Some(pid),
                _ => errors.push(wrong("/pid", "must be a whole number greater than zero")),
            },
            _ => {}
        }
    }
    if !members.contains_key("cgroup") {
        errors
            .push(wrong("/cgroup", "this field is required: the cgroup to enforce the policy on"));
    }
    if let Some(id) = &fields.id
        && let Err(error) = fleet::check_id(id)
    {
        errors.push(wrong("/id", &error.to_string()));
    }
    let has_policy = members.keys().any(|name| !BESIDES.contains(&name.as_str()));
    let is_object = text.trim_ascii_start().starts_with('{');
    let rules =
        if has_policy || !is_object { fleet.rules(text, BESIDES) } else { fleet.default_rules() };
    let rules = match rules {
        Ok(rules) => Some(rules),
        Err(FleetError::Policy(problems)) => {
            errors.extend(problems.into_iter().map(FieldError::from));
            None
        }
        Err(error) => return Err(error.into()),
    };
    match (rules, fields.cgroup) {
        (Some(rules), Some(cgroup)) if errors.is_empty() => {
            Ok(fleet.create(fleet::NewSandbox {
                id: fields.id,
                cgroup: PathBuf::from(cgroup),
                pid: fields.pid,
                netns: fields.netns.map(PathBuf::from),
                private_network: fields.private_network,
                rules,
            })?)
        }
        _ => Err(ApiProblem::invalid(errors)),
    }
}

#[derive(Default)]
struct RequestFields {
    cgroup: Option<String>,
    pid: Option<i32>,
    netns: Option<String>,
    private_network: bool,
    id: Option<String>,
}

fn wrong(pointer: &str, detail: &str) -> FieldError {
    FieldError { pointer: pointer.to_owned(), detail: detail.to_owned() }
}

/// A non-empty string.
fn string(name: &str, value: &RawValue, errors: &mut Vec<FieldError>) -> Option<String> {
    match serde_json::from_str::<String>(value.get()) {
        Ok(text) if !text.is_empty() && !text.contains('\0') => Some(text),
        _ => {
            errors.push(wrong(&format!("/{name}"), "must be a non-empty string"));
            None
        }
    }
}

fn created(member: &Member) -> CreatedSandbox {
    let about = member.summary();
    CreatedSandbox {
        id: member.id.to_string(),
        cgroup: member.cgroup.display().to_string(),
        ca_pem: member.ca_pem.clone(),
        env: variables(member, about.environment),
        files: files(member),
        warnings: warnings(about.warnings),
    }
}

/// A sandbox as lists show it.
pub(crate) fn summary(member: &Member) -> SandboxSummary {
    let about = member.summary();
    let (allowed, denied) = member.feed.counts();
    let run = member.run.as_ref();
    let policy_name = run.map(|run| match &about.source {
        Source::File { path, .. } => path.display().to_string(),
        Source::Given if about.changed == member.created => run.policy.clone(),
        Source::Given => "given by ctl".to_owned(),
    });
    SandboxSummary {
        id: member.id.to_string(),
        cgroup: member.cgroup.display().to_string(),
        user: run.map(|run| run.user.clone()),
        command: run.map(|run| run.command.clone()),
        policy_name,
        created: format!("{:.6}", member.created),
        policy_changed: format!("{:.6}", about.changed),
        policy_file: about.source.path().map(|path| path.display().to_string()),
        image: about.policy.get("image").and_then(Value::as_str).map(str::to_owned),
        allowed,
        denied,
    }
}

pub(super) fn details(member: &Member) -> SandboxDetails {
    let about = member.summary();
    SandboxDetails {
        summary: summary(member),
        ca_pem: member.ca_pem.clone(),
        env: variables(member, about.environment),
        files: files(member),
        policy: about.policy,
        limits: limits(&about.limits),
        warnings: warnings(about.warnings),
    }
}

/// Variables for programs inside: trust files, placeholders and the sandbox's id. A credential's
/// variable wins.
fn variables(member: &Member, placeholders: Vec<(String, String)>) -> BTreeMap<String, String> {
    let directory = member.trust.to_string_lossy();
    let trust =
        trust::variables_in(&directory).into_iter().map(|(name, value)| (name.to_owned(), value));
    let own = [
        ("JAVA_TOOL_OPTIONS".to_owned(), trust::java_options_in(&directory)),
        (environment::SANDBOX_VARIABLE.to_owned(), member.id.to_string()),
    ];
    trust.chain(own).chain(placeholders).collect()
}

fn files(member: &Member) -> Vec<TrustFile> {
    let directory = member.trust.to_string_lossy();
    let file = |name, content| TrustFile { path: format!("{directory}/{name}"), content };
    vec![
        file(trust::BUNDLE, TrustContent::Bundle),
        file(trust::AUTHORITY, TrustContent::Authority),
        file(trust::JAVA_STORE, TrustContent::Java),
    ]
}

pub(super) fn warnings(problems: Vec<interceptor_policy::Problem>) -> Vec<Warning> {
    problems
        .into_iter()
        .map(|problem| Warning { pointer: problem.pointer, detail: problem.message })
        .collect()
}

/// The limits by their names in the document; unset ones are null.
fn limits(limits: &Limits) -> BTreeMap<String, Value> {
    let seconds = |time: Duration| Value::from(time.as_secs());
    let fields = [
        ("connections", limits.connections.into()),
        ("requests", limits.requests.into()),
        ("header_bytes", limits.header_bytes.into()),
        ("headers", limits.headers.into()),
        ("body_bytes", limits.body_bytes.into()),
        ("header_timeout_seconds", seconds(limits.header_timeout)),
        ("idle_timeout_seconds", seconds(limits.idle_timeout)),
        ("response_timeout_seconds", seconds(limits.response_timeout)),
        ("tunnel_idle_timeout_seconds", seconds(limits.tunnel_idle_timeout)),
        ("total_timeout_seconds", limits.total_timeout.map(|time| time.as_secs()).into()),
        ("mints_per_second", limits.mints_per_second.into()),
        ("mints_burst", limits.mints_burst.into()),
        ("requests_per_second_per_host", limits.requests_per_second_per_host.into()),
        ("bytes_up_per_host", limits.bytes_up_per_host.into()),
        ("audit_backlog", limits.audit_backlog.into()),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}
