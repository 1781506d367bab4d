//! The addresses at which AWS's clients look for keys where no variable has any: those of instances
//! (169.254.169.254, version 2 of its protocol alone) and of containers (169.254.170.2). They are
//! answered here, with the placeholder pair; the host's own are never dialled
//! (`interceptor_policy` takes the addresses).
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>
//! and <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use interceptor_policy::{
    AWS_CONTAINER_ADDRESS, BASE_URL_ADDRESS, CredentialId, Filter, Form, Host, Scheme,
};
use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::json;

use super::authority::{self, Identity};
use super::body::Download;
use super::context::Context;
use super::exchange::Exchange;
use crate::audit::Verdict;
use crate::proxy::Rules;

/// The name of the role, as instances tell it.
const ROLE: &str = "interceptor";
/// Where instances tell it.
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials";
/// What a client must fetch before it is told anything. It is no secret.
const TOKEN: &str = "proxy-managed";
/// The headers with that, and with how long it lasts.
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TTL_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
/// How long keys last, as clients are told. They fetch the same ones again.
const LIFE: SignedDuration = SignedDuration::from_hours(6);

/// Whether a connection is to such an address.
pub(super) fn is_there(identity: &Identity) -> bool {
    let addresses = [BASE_URL_ADDRESS, AWS_CONTAINER_ADDRESS];
    matches!(identity.host, Host::Ip(IpAddr::V4(address)) if addresses.contains(&address))
        && identity.scheme == Scheme::Http
        && identity.port == 80
}

/// The answer to a request for metadata; `None` if it is none, or no credential is for AWS.
pub(super) fn answer(
    context: &Context,
    rules: &Rules,
    parts: &Parts,
) -> Option<(CredentialId, Response<Bytes>)> {
    let identity = &context.identity;
    let Host::Ip(IpAddr::V4(address)) = identity.host else { return None };
    if authority::host(parts, identity).ok().as_ref() != Some(&identity.host) {
        return None;
    }
    let mut credentials = rules.policy.credentials().iter();
    let id = CredentialId(credentials.position(|one| one.forms == [Form::SigV4])?);
    let path = parts.uri.path();
    let response = match address {
        BASE_URL_ADDRESS if path.starts_with("/latest/") => instance(parts, || keys(rules, id)),
        AWS_CONTAINER_ADDRESS if parts.method == Method::GET => with_keys(keys(rules, id)),
        AWS_CONTAINER_ADDRESS => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        _ => return None,
    };
    Some((id, response))
}

/// The answer of an instance.
fn instance(parts: &Parts, keys: impl FnOnce() -> Option<String>) -> Response<Bytes> {
    let path = parts.uri.path();
    let header = |name: &HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if path == "/latest/api/token" {
        let seconds = header(&TTL_HEADER).and_then(|text| text.parse::<u32>().ok());
        let Some(seconds) = seconds.filter(|seconds| (1..=21_600).contains(seconds)) else {
            return plain(StatusCode::BAD_REQUEST, "");
        };
        if parts.method != Method::PUT {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "");
        }
        let mut response = plain(StatusCode::OK, TOKEN);
        response.headers_mut().insert(TTL_HEADER, HeaderValue::from(seconds));
        return response;
    }
    if header(&TOKEN_HEADER) != Some(TOKEN) {
        return plain(StatusCode::UNAUTHORIZED, "");
    }
    match path.strip_prefix(CREDENTIALS) {
        _ if parts.method != Method::GET => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        Some("" | "/") => plain(StatusCode::OK, ROLE),
        Some(role) if role.strip_prefix('/') == Some(ROLE) => with_keys(keys()),
        _ => plain(StatusCode::NOT_FOUND, ""),
    }
}

/// The placeholder pair in the form of both addresses. It has no session token, which clients
/// want to see all the same.
fn keys(rules: &Rules, id: CredentialId) -> Option<String> {
    let placeholder = rules.keyring.placeholder(id)?;
    let now = Timestamp::now().round(Unit::Second).ok()?;
    let keys = json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": now.to_string(),
        "AccessKeyId": placeholder.as_str(),
        "SecretAccessKey": placeholder.secret()?.as_str(),
        "Token": "",
        "Expiration": now.checked_add(LIFE).ok()?.to_string(),
    });
    Some(keys.to_string())
}

fn with_keys(keys: Option<String>) -> Response<Bytes> {
    let Some(keys) = keys else { return plain(StatusCode::NOT_FOUND, "") };
    let mut response = Response::new(Bytes::from(keys));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Records the request.
pub(super) fn note(
    context: &Context,
    rules: &Rules,
    parts: &Parts,
    id: CredentialId,
    exchange: &mut Exchange,
) {
    exchange.note(|record| {
        record.decision = Some(Verdict::Allow);
        record.reason = None;
        record.filter = Some(Filter::Credential);
        record.method = Some(parts.method.as_str().into());
        record.host = Some(context.identity.host.shared());
        record.port = Some(context.asked.port());
        record.path = Some(parts.uri.path().into());
        record.credential = Some(rules.policy.shared_name(id));
    });
}

/// Gives the answer.
pub(super) fn told(response: Response<Bytes>, mut exchange: Exchange) -> Response<Download> {
    exchange.note(|record| record.status = Some(response.status().as_u16()));
    // Whoever was asked has answered.
    exchange.sent(true);
    exchange.complete();
    response.map(|bytes| Download::own(bytes, exchange))
}
