//! The question put to a policy: plain values, which the caller takes from a parsed request.

use super::{AwsScope, CredentialId, Host};

/// How a request reached the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// 80 or 443.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// The parts of an HTTP request that a policy judges.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How it reached the proxy.
    pub scheme: Scheme,
    /// The one host that lookup, SNI and authority agree on.
    pub host: &'a Host,
    /// The port of the destination.
    pub port: u16,
    /// The method as sent.
    pub method: &'a str,
    /// The path as sent, without query; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// The values of every method-override header in the request.
    pub overrides: &'a [&'a str],
    /// The credentials whose placeholders the request presents in a header or its query.
    pub presented: &'a [CredentialId],
    /// What the request says that its AWS signature is for.
    pub aws: Option<AwsScope<'a>>,
}
