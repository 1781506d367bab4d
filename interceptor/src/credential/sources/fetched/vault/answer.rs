//! The answers of a server. An error of the parser may quote them, so none is shown.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::super::problem::SourceProblem;
use crate::fetch::Answer;
use crate::ipc::Secret;

/// What a login or the renewal of a token gives.
#[derive(Deserialize)]
pub(super) struct Login {
    pub(super) auth: Auth,
}

#[derive(Deserialize)]
pub(super) struct Auth {
    pub(super) client_token: Option<Secret>,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// What a token says of itself.
#[derive(Deserialize)]
pub(super) struct LookedUp {
    pub(super) data: Told,
}

#[derive(Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    pub(super) ttl: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// A lease that was renewed.
#[derive(Deserialize)]
pub(super) struct Renewed {
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// A response that held a secret id.
#[derive(Deserialize)]
pub(super) struct Unwrapped {
    pub(super) data: SecretId,
}

#[derive(Deserialize)]
pub(super) struct SecretId {
    pub(super) secret_id: Secret,
}

/// A secret, by its fields; `None` for one that is no text.
pub(super) type Fields = HashMap<String, Option<Secret>>;

/// A secret as it was read.
pub(super) struct Found {
    pub(super) id: Secret,
    pub(super) seconds: u64,
    pub(super) is_renewable: bool,
    pub(super) fields: Fields,
}

#[derive(Deserialize)]
struct Reading<T> {
    lease_id: Option<Secret>,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    data: T,
}

/// The secret of KV version 2, with what tells that it is one.
#[derive(Deserialize)]
struct Versioned {
    data: HashMap<String, Field>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "version")]
    _version: u64,
    #[serde(rename = "created_time")]
    _created_time: Secret,
}

/// A value of a secret: a text, or anything else, which is not kept.
struct Field(Option<Secret>);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field(Some(Secret::new(text))))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Field, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field(None))
    }
}

/// Reads an answer.
pub(super) fn read<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, SourceProblem> {
    serde_json::from_slice(&answer.body).map_err(|_| SourceProblem::NoToken)
}

/// Reads a secret, of KV version 2 or anything else.
pub(super) fn found(answer: &Answer) -> Result<Found, SourceProblem> {
    fn of<T>(read: Reading<T>, fields: impl FnOnce(T) -> HashMap<String, Field>) -> Found {
        let Reading { lease_id, lease_duration, renewable, data } = read;
        let fields = fields(data).into_iter().map(|(name, Field(text))| (name, text)).collect();
        let id = lease_id.unwrap_or_else(|| Secret::new(""));
        Found { id, seconds: lease_duration, is_renewable: renewable, fields }
    }
    if let Ok(versioned) = serde_json::from_slice::<Reading<Versioned>>(&answer.body) {
        return Ok(of(versioned, |Versioned { data, metadata: Metadata { .. } }| data));
    }
    let plain = serde_json::from_slice::<Reading<HashMap<String, Field>>>(&answer.body);
    Ok(of(plain.map_err(|_| SourceProblem::NoToken)?, |fields| fields))
}

/// A body with secrets, in memory that does not move while it grows.
fn body(value: &impl Serialize, room: usize) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    // Texts and numbers can be written, and a vector takes them.
    let _ = serde_json::to_writer(&mut *body, value);
    body
}

/// The body of a login.
pub(super) fn login(role_id: &str, secret_id: &str) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    struct Body<'a> {
        role_id: &'a str,
        secret_id: &'a str,
    }
    let room = 64 + 6 * (role_id.len() + secret_id.len());
    body(&Body { role_id, secret_id }, room)
}

/// The body that renews a lease.
pub(super) fn renewal(lease_id: &str, increment: u64) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    struct Body<'a> {
        lease_id: &'a str,
        increment: u64,
    }
    body(&Body { lease_id, increment }, 96 + 6 * lease_id.len())
}
