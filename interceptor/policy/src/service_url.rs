//! The URL of a service that gives keys: a token endpoint, or the root of an API.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

use super::host::{Authority, Host, HostError};
use super::request::Scheme;

/// The longest URL in bytes.
const LONGEST: usize = 2048;

/// A service that the interceptor asks for keys. It holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceUrl {
    /// Whether it is spoken to over TLS; in the clear only on loopback.
    pub scheme: Scheme,
    /// Its host, which the interceptor resolves.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Path and query, as written.
    target: String,
}

/// Why a text is not the URL of such a service. Never shows any part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceUrlError {
    /// Another scheme, or none, or no URL at all.
    #[error("this is a URL, `https://HOST[:PORT]/PATH`, of at most {LONGEST} bytes")]
    Form,
    /// A user or a password.
    #[error("this URL holds no user and no password: they belong to the source's own fields")]
    UserInfo,
    /// A fragment.
    #[error("this URL has no fragment (`#…`): it is never sent")]
    Fragment,
    /// In the clear over a network.
    #[error("secrets are sent here: write https://, or http:// and a loopback address")]
    Plaintext,
    /// The host or the port is invalid.
    #[error("{0}")]
    Host(#[from] HostError),
}

impl ServiceUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// If it is not one of a service; see [`ServiceUrlError`].
    pub fn parse(text: &str) -> Result<ServiceUrl, ServiceUrlError> {
        if text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ServiceUrlError::Form);
        }
        if text.contains('#') {
            return Err(ServiceUrlError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| ServiceUrlError::Form)?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            _ => return Err(ServiceUrlError::Form),
        };
        let authority = uri.authority().ok_or(ServiceUrlError::Form)?.as_str();
        if authority.contains('@') {
            return Err(ServiceUrlError::UserInfo);
        }
        let Authority { host, port } = Authority::parse(authority)?;
        let is_loopback = matches!(host, Host::Ip(address) if address.is_loopback());
        // A name could be anywhere by the time it is looked up.
        if scheme == Scheme::Http && !is_loopback {
            return Err(ServiceUrlError::Plaintext);
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let usual = if scheme == Scheme::Https { 443 } else { 80 };
        Ok(ServiceUrl { scheme, host, port: port.unwrap_or(usual), target })
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The value of `Host` (RFC 9110 section 7.2).
    pub fn authority(&self) -> String {
        let host = match &self.host {
            Host::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            host => host.to_string(),
        };
        let usual = if self.scheme == Scheme::Https { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// The same service, with a path below its own. Starts with `/`; the caller encodes it.
    #[must_use]
    pub fn below(&self, path: &str) -> ServiceUrl {
        let own = self.target.split('?').next().unwrap_or_default().trim_end_matches('/');
        ServiceUrl { target: format!("{own}{path}"), ..self.clone() }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_a_url_over_tls_or_on_loopback() {
        for (text, shown, host) in [
            ("https://A.test/token?x=1", "https://a.test/token?x=1", "a.test"),
            ("https://a.test", "https://a.test/", "a.test"),
            ("https://a.test:8443/v1/", "https://a.test:8443/v1/", "a.test:8443"),
            ("https://a.test:443/", "https://a.test/", "a.test"),
            ("http://127.0.0.1:8200", "http://127.0.0.1:8200/", "127.0.0.1:8200"),
            ("http://[::1]/x", "http://[::1]/x", "[::1]"),
        ] {
            let url = ServiceUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.to_string().as_str(), url.authority().as_str()), (shown, host));
        }
        let long = format!("https://a.test/{}", "x".repeat(LONGEST));
        for (text, error) in [
            ("", ServiceUrlError::Form),
            ("/token", ServiceUrlError::Form),
            ("a.test/token", ServiceUrlError::Form),
            ("ftp://a.test/", ServiceUrlError::Form),
            ("https://a b.test/", ServiceUrlError::Form),
            (&long, ServiceUrlError::Form),
            ("https://u:p@a.test/", ServiceUrlError::UserInfo),
            ("https://a.test/#x", ServiceUrlError::Fragment),
            ("http://a.test/", ServiceUrlError::Plaintext),
            ("http://localhost/", ServiceUrlError::Plaintext),
            ("http://10.0.0.1/", ServiceUrlError::Plaintext),
        ] {
            assert_eq!(ServiceUrl::parse(text), Err(error), "{text}");
        }
        assert!(matches!(ServiceUrl::parse("https://a.test:0/"), Err(ServiceUrlError::Host(_))));
    }

    #[test]
    fn a_path_is_put_below_the_services_own() {
        for (text, below) in [
            ("https://a.test", "https://a.test/app/1"),
            ("https://a.test/", "https://a.test/app/1"),
            ("https://a.test/api/v3/?x", "https://a.test/api/v3/app/1"),
        ] {
            assert_eq!(ServiceUrl::parse(text).unwrap().below("/app/1").to_string(), below);
        }
    }
}
