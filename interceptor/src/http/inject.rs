//! Turns a permitted request to a governed host into the one that is forwarded: removes the
//! client's authentication and adds the real key.
//!
//! A request that arrives here has been judged: host, method, path and credential are settled. What
//! leaves has exactly one authentication: in the form in which the client presented the
//! placeholder, or else in the credential's first form (for git: Basic). Before that, every other
//! authentication is removed, and everything that could lead the origin elsewhere: see
//! `policy::strip`. Hop-by-hop fields go first (RFC 9110 7.6.1), so that `connection` cannot remove
//! what is set here. If any of this fails, the request is not forwarded.
//!
//! A `sec-websocket-*` field never carries a key, since the response to `sec-websocket-key` is a
//! digest of it. Entries of `sec-websocket-protocol` in which browser clients send a key are
//! removed.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONNECTION, HeaderName, SEC_WEBSOCKET_PROTOCOL, TE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use interceptor_policy::{CredentialId, Form, Policy, Strip};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use smallvec::SmallVec;
use zeroize::Zeroizing;

use crate::credential::{Keyring, Presented, RealKey, basic};

/// Hop-by-hop fields, whether `connection` names them or not. The caller handles `upgrade`.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "transfer-encoding",
];

/// Fields that `connection` cannot make hop-by-hop, because they route or frame the message; and
/// `upgrade`, which the caller handles.
const END_TO_END: [&str; 4] = ["host", "content-length", "content-type", "upgrade"];

/// How paths of git's smart HTTP protocol end.
const GIT_PATHS: [&str; 3] = ["/info/refs", "/git-upload-pack", "/git-receive-pack"];

/// The characters left as they are in a query value: unreserved ones (RFC 3986 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a request cannot carry its credential. It must not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InjectError {
    /// The keyring does not have the credential.
    #[error("the credential's key is missing")]
    NoKey,
    /// The key in its form is not a valid header value.
    #[error("the key in the credential's form is not a valid header value")]
    Header,
    /// The query with the key is not valid.
    #[error("the key in the credential's form is not a valid query")]
    Query,
}

/// Removes every authentication that the client sent and sets the real key, which it returns. Of a
/// credential that has a client certificate alone, nothing is set.
///
/// `presented` is what [`Keyring::presented`] returned for this request, before it was changed.
///
/// # Errors
/// The key cannot be set, so none of the request may be forwarded. See [`InjectError`].
pub(crate) fn inject(
    parts: &mut Parts,
    policy: &Policy,
    keyring: &Keyring,
    id: CredentialId,
    presented: &Presented,
) -> Result<Arc<RealKey>, InjectError> {
    let credential = policy.credentials().get(id.0).ok_or(InjectError::NoKey)?;
    let form = presented.form(id).and_then(|form| credential.forms.get(form));
    let form =
        form.or_else(|| unasked(&credential.forms, parts.uri.path())).ok_or(InjectError::NoKey)?;
    let key = keyring.key(policy, id).ok_or(InjectError::NoKey)?;
    let text = key.expose();
    // A private key is for TLS, and no part of any request.
    let form = Some(form).filter(|_| credential.has_key());

    let mut header = match form {
        Some(Form::Header { name, prefix, suffix }) => {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InjectError::Header)?;
            Some((name, value(&[prefix, text, suffix])?))
        }
        Some(Form::Basic { username }) => {
            let user = basic_user(&parts.headers, keyring, id, username);
            Some((AUTHORIZATION, basic_value(user, text)?))
        }
        // Signed last, when all that is sent is settled; see `signing`.
        Some(Form::Query { .. } | Form::SigV4) | None => None,
    };

    strip_hop_by_hop(&mut parts.headers);
    let strip = policy.strip(id);
    strip_headers(&mut parts.headers, strip);
    let set = form.and_then(Form::query).map(|name| (name, text));
    if let Some(uri) = with_query(&parts.uri, strip, set)? {
        parts.uri = uri;
    }
    if let Some((name, value)) = header.take() {
        parts.headers.insert(name, value);
    }
    Ok(key)
}

/// The form for a request without a placeholder: the credential's first, or Basic for git's smart
/// HTTP protocol, if the credential has it. Git authenticates only when asked to, and forges that
/// accept other forms for their APIs accept only Basic for git
/// (<https://git-scm.com/docs/http-protocol>).
fn unasked<'a>(forms: &'a [Form], path: &str) -> Option<&'a Form> {
    let basic = || forms.iter().find(|form| matches!(form, Form::Basic { .. }));
    let git = GIT_PATHS.iter().any(|end| path.ends_with(end)) || path.contains("/info/lfs/");
    git.then(basic).flatten().or(forms.first())
}

/// Removes hop-by-hop fields (RFC 9110 7.6.1): those that `connection` names, `connection` itself
/// and those that always are. `te: trailers` stays, since gRPC uses it to say that it accepts
/// trailers. `upgrade` stays for the caller to handle.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let own: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| HOP_BY_HOP.contains(&name.as_str())).cloned().collect();
    // `connection` and `te` are among them.
    if own.is_empty() {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !END_TO_END.contains(&name.as_str()) && *name != TE)
        .collect();
    let trailers = headers.get_all(TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    named.iter().for_each(|name| drop(headers.remove(name)));
    own.iter().for_each(|name| drop(headers.remove(name)));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes authentication from a request's trailers, because their recipient may merge them into
/// the headers (RFC 9110 6.5.1).
pub(crate) fn strip_trailer_authentication(
    trailers: &mut HeaderMap,
    policy: &Policy,
    id: CredentialId,
) {
    strip_headers(trailers, policy.strip(id));
}

/// Removes authentication, and fields that could lead the origin to another path or host than was
/// judged.
fn strip_headers(headers: &mut HeaderMap, strip: &Strip) {
    let names: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| strip.header(name.as_str())).cloned().collect();
    names.iter().for_each(|name| drop(headers.remove(name)));

    let protocols: Vec<HeaderValue> =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    let entries = protocols.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let entries: Vec<&[u8]> = entries.map(<[u8]>::trim_ascii).collect();
    if let Some(kept) = strip.kept_protocols(&entries) {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        let kept =
            HeaderValue::from_bytes(&kept.join(&b", "[..])).ok().filter(|kept| !kept.is_empty());
        kept.map(|kept| headers.insert(SEC_WEBSOCKET_PROTOCOL, kept));
    }
}

/// A header value that HPACK never indexes (RFC 7541 7.1.3) and `Debug` never prints.
fn value(parts: &[&str]) -> Result<HeaderValue, InjectError> {
    // Checked first, so that the key is copied only into the value that is sent.
    let is_visible = |byte: u8| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic();
    if !parts.iter().all(|part| part.bytes().all(is_visible)) {
        return Err(InjectError::Header);
    }
    let mut value = HeaderValue::try_from(parts.concat()).map_err(|_| InjectError::Header)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The bytes before and after the key in Basic credentials.
struct BasicUser {
    before: Vec<u8>,
    behind: Vec<u8>,
}

/// The client's own user name, unless the form fixes one. If the client sent the placeholder as the
/// user name, its password follows the key.
fn basic_user(
    headers: &HeaderMap,
    keyring: &Keyring,
    id: CredentialId,
    username: &str,
) -> BasicUser {
    if username == Form::KEY {
        return BasicUser { before: Vec::new(), behind: b":".to_vec() };
    }
    let fixed = || BasicUser { before: [username.as_bytes(), b":"].concat(), behind: Vec::new() };
    if !username.is_empty() {
        return fixed();
    }
    let given = headers.get_all(AUTHORIZATION).iter().filter_map(|value| basic(value.as_bytes()));
    for (user, password) in given {
        if keyring.holds(id, &password) {
            return BasicUser { before: [&user[..], b":"].concat(), behind: Vec::new() };
        }
        if keyring.holds(id, &user) {
            return BasicUser { before: Vec::new(), behind: [b":", &password[..]].concat() };
        }
    }
    fixed()
}

fn basic_value(user: BasicUser, key: &str) -> Result<HeaderValue, InjectError> {
    let credentials = Zeroizing::new([&user.before[..], key.as_bytes(), &user.behind].concat());
    let encoded = Zeroizing::new(STANDARD.encode(&*credentials));
    value(&["Basic ", &encoded])
}

/// The URI without query parameters that authenticate, and with the real one appended; all else
/// stays byte for byte. `None` if nothing changes.
fn with_query(
    uri: &Uri,
    strip: &Strip,
    set: Option<(&str, &str)>,
) -> Result<Option<Uri>, InjectError> {
    let query = uri.query().unwrap_or_default();
    let mut kept = match strip.kept_query(query) {
        Some(kept) => kept,
        None if set.is_none() => return Ok(None),
        None => query.to_owned(),
    };
    // Drop empty parameters, so that no stray `?` or `&` is left.
    if kept.bytes().all(|byte| byte == b'&' || byte == b';') {
        kept.clear();
    }
    let set = set.map(|(name, key)| {
        let name = utf8_percent_encode(name, UNRESERVED);
        Zeroizing::new(format!("{name}={}", utf8_percent_encode(key, UNRESERVED)))
    });
    let set = set.as_ref().map_or("", |set| set.as_str());
    let between = if set.is_empty() || kept.is_empty() { "" } else { "&" };
    let mark = if set.is_empty() && kept.is_empty() { "" } else { "?" };
    let target = Zeroizing::new(format!("{}{mark}{kept}{between}{set}", uri.path()));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query =
        Some(PathAndQuery::try_from(target.as_str()).map_err(|_| InjectError::Query)?);
    Uri::from_parts(parts).map(Some).map_err(|_| InjectError::Query)
}

#[cfg(test)]
mod tests;
