//! The URL of an upstream proxy.

use std::fmt;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::host::{Authority, Host, HostError};
use super::message::bracketed;
use super::request::Scheme;

/// A proxy that the interceptor reaches origins by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyUrl {
    /// Whether it is spoken to over TLS.
    pub scheme: Scheme,
    /// Its host, which the interceptor resolves.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

/// Why a text is not the URL of a proxy. Never shows any part of the text, which may hold a
/// password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// Another scheme, or none.
    #[error("an upstream proxy is `http://HOST:PORT` or `https://HOST:PORT`; it must speak HTTP")]
    Scheme,
    /// A user or a password.
    #[error("the URL of a proxy holds no user or password: put `user:password` into `proxy_auth`")]
    UserInfo,
    /// A path, a query or a fragment.
    #[error("the URL of a proxy ends after its port")]
    Rest,
    /// The host or the port is invalid.
    #[error("{0}")]
    Host(#[from] HostError),
}

impl ProxyUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// If it is not one of a proxy; see [`ProxyUrlError`].
    pub fn parse(text: &str) -> Result<ProxyUrl, ProxyUrlError> {
        match ProxyUrl::parse_with_user(text)? {
            (url, None) if scheme(text).is_some() => Ok(url),
            (_, None) => Err(ProxyUrlError::Scheme),
            (_, Some(_)) => Err(ProxyUrlError::UserInfo),
        }
    }

    /// Reads the value of a variable such as HTTPS_PROXY: the scheme may be missing, and a user and
    /// a password may stand before the host, percent-encoded.
    ///
    /// # Errors
    /// As [`ProxyUrl::parse`].
    pub fn parse_with_user(
        text: &str,
    ) -> Result<(ProxyUrl, Option<Zeroizing<String>>), ProxyUrlError> {
        let (scheme, rest) = match (scheme(text), text.contains("://")) {
            (Some(found), _) => found,
            (None, true) => return Err(ProxyUrlError::Scheme),
            (None, false) => (Scheme::Http, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(ProxyUrlError::Rest);
        }
        let Authority { host, port } = Authority::parse(authority)?;
        let user = user.map(|user| {
            let decoded = percent_decode_str(user).decode_utf8_lossy().into_owned();
            // A user without a password has an empty one.
            let separator = if decoded.contains(':') { "" } else { ":" };
            Zeroizing::new(decoded + separator)
        });
        let port = port.unwrap_or(scheme.default_port());
        Ok((ProxyUrl { scheme, host, port }, user.filter(|user| user.as_str() != ":")))
    }
}

/// The scheme of a URL, and what follows it.
fn scheme(text: &str) -> Option<(Scheme, &str)> {
    [("http://", Scheme::Http), ("https://", Scheme::Https)].into_iter().find_map(
        |(prefix, scheme)| {
            let found = text.get(..prefix.len())?;
            found.eq_ignore_ascii_case(prefix).then(|| (scheme, &text[prefix.len()..]))
        },
    )
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), bracketed(&self.host, self.port))
    }
}
