//! Which host a request is for: the one name that DNS lookup, SNI and authority agree on (attack
//! T1, H6).

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority as UriAuthority;
use http::{HeaderMap, Version};
use interceptor_policy::{Authority, Deny, Host, Reason, Scheme};

use super::refuse::deny::refusal;

/// What the connection tells about the host before any request.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The scheme of its requests.
    pub scheme: Scheme,
    /// The port that the sandbox connected to.
    pub port: u16,
    /// The host the connection is for: the name looked up, else the SNI, else the address.
    pub host: Host,
    /// Whether `host` is only an address, in plain HTTP, so that the request may name the host.
    pub open: bool,
    /// The SNI, if it differs from `host`: every request is then refused.
    pub mismatch: Option<String>,
}

/// The one host the request is for.
///
/// # Errors
/// The refusal: `request_malformed` if the authority is ambiguous or invalid, `authority_mismatch`
/// if names differ.
pub(crate) fn host(parts: &Parts, identity: &Identity) -> Result<Host, Deny> {
    if let Some(sni) = &identity.mismatch {
        return Err(mismatch(format!(
            "the TLS server name `{}` is not the host `{}` that the connection was opened for; \
             use one name for both",
            sni.escape_debug(),
            identity.host
        )));
    }
    let named = named(parts, identity)?;
    let Some(named) = named else {
        // HTTP/1.0 has no Host header, so only the connection names a host.
        return Ok(identity.host.clone());
    };
    if named.port.unwrap_or(identity.scheme.default_port()) != identity.port && named.port.is_some()
    {
        return Err(mismatch(format!(
            "the request names port {}, but the connection is to port {}",
            named.port.unwrap_or_default(),
            identity.port
        )));
    }
    if named.host == identity.host {
        return Ok(named.host);
    }
    // Plain HTTP to an address: no name was looked up and there is no SNI, so only the request
    // names a host. That name is resolved and dialled, never the address. If the request names an
    // address, it must be the one connected to.
    if identity.open && matches!(named.host, Host::Name(_)) {
        return Ok(named.host);
    }
    Err(mismatch(format!(
        "the request is for `{}`, but the connection is to `{}`; send each host's requests over a \
         connection of its own",
        named.host, identity.host
    )))
}

/// The authority of the request, from its target and its Host header, which must agree.
fn named(parts: &Parts, identity: &Identity) -> Result<Option<Authority>, Deny> {
    let scheme = parts.uri.scheme_str().unwrap_or(identity.scheme.as_str());
    if !scheme.eq_ignore_ascii_case(identity.scheme.as_str()) {
        return Err(malformed(format!(
            "the scheme of the target is not `{}`, the scheme of the connection",
            identity.scheme.as_str()
        )));
    }
    let target = match parts.uri.authority() {
        Some(authority) => Some(parse(authority.as_str(), Some(authority), identity)?),
        None => None,
    };
    let header = header(&parts.headers, identity)?;
    match (target, header) {
        (Some(target), Some(header)) => {
            let port =
                |authority: &Authority| authority.port.unwrap_or(identity.scheme.default_port());
            if target.host != header.host || port(&target) != port(&header) {
                return Err(mismatch(
                    "the request's target and its Host header name different hosts".to_owned(),
                ));
            }
            Ok(Some(target))
        }
        (Some(one), None) | (None, Some(one)) => Ok(Some(one)),
        (None, None) if parts.version < Version::HTTP_11 => Ok(None),
        (None, None) => Err(malformed("the request names no host; send a Host header".to_owned())),
    }
}

fn header(headers: &HeaderMap, identity: &Identity) -> Result<Option<Authority>, Deny> {
    let mut values = headers.get_all(HOST).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed("there is more than one Host header".to_owned()));
    }
    let text = value.to_str().map_err(|_| malformed("the Host header is not ASCII".to_owned()))?;
    parse(text, None, identity).map(Some)
}

fn parse(text: &str, uri: Option<&UriAuthority>, identity: &Identity) -> Result<Authority, Deny> {
    // Fast path: nearly every request names the connection's host in canonical form.
    if let Host::Name(name) = &identity.host
        && text == name.as_str()
    {
        return Ok(Authority { host: identity.host.clone(), port: None });
    }
    if uri.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(malformed(
            "the authority of the request contains user information; remove it".to_owned(),
        ));
    }
    Authority::parse(text).map_err(|error| {
        malformed(format!("the request's host `{}` is not valid: {error}", text.escape_debug()))
    })
}

fn mismatch(message: String) -> Deny {
    refusal(Reason::AuthorityMismatch, message)
}

fn malformed(message: String) -> Deny {
    refusal(Reason::RequestMalformed, message)
}
