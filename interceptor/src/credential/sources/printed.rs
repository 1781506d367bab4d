//! What programs print: a key in plain text, or one of the forms of JSON in which tools tell a
//! token and when it ends.

use std::time::Duration;

use interceptor_policy::{ExecSource, Prints};
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::key::{KeyProblem, RealKey};
use super::problem::SourceProblem;
use crate::ipc::Secret;

/// A key, and how long it lasts from now.
#[derive(Debug)]
pub(super) struct Printed {
    pub(super) key: RealKey,
    pub(super) life: Duration,
    /// When it ends by the clock, which goes on while the machine sleeps.
    pub(super) until: Option<Timestamp>,
    /// Whether the source said when it ends.
    pub(super) is_told: bool,
}

impl From<KeyProblem> for SourceProblem {
    fn from(problem: KeyProblem) -> SourceProblem {
        match problem {
            KeyProblem::Source(problem) => problem,
            other => SourceProblem::Key(other.to_string()),
        }
    }
}

/// The longest life that is believed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A number, or a text with one.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Number {
    Number(f64),
    Text(String),
}

impl Number {
    pub(super) fn value(&self) -> Option<f64> {
        let value = match self {
            Number::Number(value) => *value,
            Number::Text(text) => text.trim().parse().ok()?,
        };
        value.is_finite().then_some(value)
    }
}

/// What tells a Kubernetes ExecCredential (client.authentication.k8s.io) from other forms.
#[derive(Deserialize)]
struct Kind {
    kind: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Secret,
    expiration_timestamp: Option<Number>,
}

/// A token and its end, as OAuth 2.0 (RFC 6749 section 5.1), gcloud and az name them; and the keys
/// of AWS's `credential_process`.
#[derive(Deserialize)]
struct Token {
    #[serde(alias = "accessToken", alias = "token")]
    access_token: Option<Secret>,
    expires_in: Option<Number>,
    #[serde(alias = "token_expiry", alias = "expires_at")]
    expiry: Option<Number>,
    /// Of az: seconds since 1970.
    expires_on: Option<Number>,
    /// Of `gcloud config config-helper`.
    credential: Option<Box<Token>>,
    #[serde(rename = "SecretAccessKey")]
    secret_access_key: Option<Secret>,
    #[serde(rename = "Expiration")]
    expiration: Option<Number>,
}

/// When a key ends.
pub(super) enum End {
    Never,
    In(f64),
    At(Timestamp),
}

/// The key in what a program printed.
pub(super) fn read(
    text: Zeroizing<Vec<u8>>,
    source: &ExecSource,
    now: Timestamp,
) -> Result<Printed, SourceProblem> {
    if source.prints == Prints::AwsKeys {
        let (key, end) = aws_keys(&text)?;
        return living(key, end, source.ttl, now);
    }
    if !text.trim_ascii_start().starts_with(b"{") {
        return lasting(text, End::Never, source.ttl, now);
    }
    let (secret, end) = recognised(&text)?;
    living(parsed(&secret)?, end, source.ttl, now)
}

/// A key until its end; for as long as `ttl` if that is not told.
pub(super) fn lasting(
    key: Zeroizing<Vec<u8>>,
    end: End,
    ttl: Duration,
    now: Timestamp,
) -> Result<Printed, SourceProblem> {
    living(RealKey::parse(key)?, end, ttl, now)
}

fn living(key: RealKey, end: End, ttl: Duration, now: Timestamp) -> Result<Printed, SourceProblem> {
    let left = match end {
        End::Never => {
            let until = now.checked_add(ttl).ok();
            return Ok(Printed { key, life: ttl, until, is_told: false });
        }
        End::In(seconds) => seconds,
        End::At(at) => at.duration_since(now).as_secs_f64(),
    };
    if left <= 0.0 {
        return Err(SourceProblem::Expired);
    }
    let life = Duration::try_from_secs_f64(left).unwrap_or(LONGEST).min(LONGEST);
    let until = match end {
        End::At(at) => Some(at),
        _ => now.checked_add(life).ok(),
    };
    Ok(Printed { key, life, until, is_told: true })
}

/// Whatever is wrong with a text, an error of the parser may quote it.
fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, SourceProblem> {
    serde_json::from_slice(text).map_err(|_| SourceProblem::Form)
}

fn parsed(secret: &Secret) -> Result<RealKey, SourceProblem> {
    Ok(RealKey::parse(Zeroizing::new(secret.expose().as_bytes().to_vec()))?)
}

/// The form of AWS's `credential_process`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    access_key_id: Secret,
    secret_access_key: Secret,
    session_token: Option<Secret>,
    expiration: Option<Number>,
}

fn aws_keys(text: &[u8]) -> Result<(RealKey, End), SourceProblem> {
    let Process { access_key_id, secret_access_key, session_token, expiration } = parse(text)?;
    let given = [Some(access_key_id), Some(secret_access_key), session_token];
    let given = given.iter().flatten().filter(|part| !part.expose().is_empty());
    let parts = given.map(parsed).collect::<Result<Vec<_>, _>>()?;
    let key = RealKey::of_aws(&parts.iter().collect::<Vec<_>>())?;
    Ok((key, at(expiration)?))
}

fn recognised(text: &[u8]) -> Result<(Secret, End), SourceProblem> {
    let kind: Kind = parse(text)?;
    if kind.kind.is_some_and(|kind| kind == "ExecCredential") {
        let ExecCredential { status: Status { token, expiration_timestamp } } = parse(text)?;
        return Ok((token, at(expiration_timestamp)?));
    }
    let mut token: Token = parse(text)?;
    if let Some(secret) = token.secret_access_key {
        return Ok((secret, at(token.expiration)?));
    }
    if let Some(inner) = token.credential {
        token = *inner;
    }
    let secret = token.access_token.ok_or(SourceProblem::Form)?;
    let end = match token.expires_in {
        Some(seconds) => End::In(seconds.value().ok_or(SourceProblem::Form)?),
        None => at(token.expires_on.or(token.expiry))?,
    };
    Ok((secret, end))
}

/// A point in time: by RFC 3339, or in seconds since 1970.
fn at(end: Option<Number>) -> Result<End, SourceProblem> {
    let Some(end) = end else { return Ok(End::Never) };
    if let Number::Text(text) = &end
        && let Ok(at) = text.parse()
    {
        return Ok(End::At(at));
    }
    let seconds = end.value().ok_or(SourceProblem::Form)?;
    Timestamp::from_second(seconds as i64).map(End::At).map_err(|_| SourceProblem::Form)
}
