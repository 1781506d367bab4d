//! Base URLs: `http://169.254.169.254/proxy/SERVICE/…` is a request to that service's host, for
//! clients that cannot be made to trust the sandbox's CA.
//!
//! The request is rewritten before it is judged, so that everything else (network filter,
//! credential, canonical path, endpoint rules) sees only `https://HOST/…`. SERVICE is the name of a
//! credential, percent-encoded where necessary, and stands for that credential's first host that is
//! a single name or address. `SERVICE@HOST` and `SERVICE@HOST:PORT` select its other hosts,
//! including those a wildcard covers.
//!
//! If a policy has credentials, the interceptor owns this address and never dials it, whatever the
//! network rules say. Without credentials it is an ordinary address.

use std::net::{IpAddr, Ipv4Addr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::address::Views;
use super::credential::CredentialHost;
use super::decision::CredentialId;
use super::host::{Authority, Host};
use super::message::bracketed;
use super::network_rule::Target;
use super::request::Scheme;
use super::{Credential, Policy};

/// The address of base URLs. It is link-local, and every cloud uses it for its metadata service,
/// which no sandbox may reach.
pub const BASE_URL_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The start of every base URL.
const ORIGIN: &str = "http://169.254.169.254";
/// The start of every base URL's path.
const MOUNT: &str = "/proxy/";
/// Encodes a credential's name in a path: all but unreserved characters (RFC 3986 section 2.3).
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request under a base URL, in the form that is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// The credential that the URL names.
    pub credential: CredentialId,
    /// The host it stands for, over TLS.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// The rest of the path after the service, as sent; `/` if there is none.
    pub path: String,
}

impl Policy {
    /// The request that a base URL stands for. `None` if the request is not under a base URL and is
    /// judged as sent.
    pub fn base_url(&self, scheme: Scheme, host: &Host, port: u16, path: &str) -> Option<BaseUrl> {
        if scheme != Scheme::Http || port != 80 || *host != Host::Ip(IpAddr::V4(BASE_URL_ADDRESS)) {
            return None;
        }
        let rest = path.strip_prefix(MOUNT)?;
        let (service, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let service = percent_decode_str(service).decode_utf8().ok()?;
        let (credential, (host, port)) = match self.credential_named(&service) {
            Some(id) => (id, self.first_host(id)?),
            None => {
                let (name, authority) = service.rsplit_once('@')?;
                let id = self.credential_named(name)?;
                (id, self.other_host(id, authority)?)
            }
        };
        let path = if rest.is_empty() { "/" } else { rest };
        Some(BaseUrl { credential, host, port, path: path.to_owned() })
    }

    /// The variables that point clients at the base URLs of this policy's services, with their
    /// values.
    pub fn base_urls(&self) -> Vec<(String, String)> {
        let usable = (0..self.credentials.len())
            .map(CredentialId)
            .filter(|id| self.first_host(*id).is_some());
        usable
            .flat_map(|id| {
                let credential = self.credential(id);
                let prefix = format!("{ORIGIN}{MOUNT}{}", encoded(&credential.name));
                credential
                    .base_url_env
                    .iter()
                    .map(move |(name, path)| (name.clone(), format!("{prefix}{path}")))
            })
            .collect()
    }

    /// Rewrites a URL in the answer to a base URL request so that the client can follow it. An
    /// absolute URL to a host of the same credential, or one that begins with a path, becomes a
    /// base URL again. `None` if it needs no rewriting.
    pub fn as_base_url(&self, from: &BaseUrl, url: &str) -> Option<String> {
        let (host, port, rest) = match url.strip_prefix('/') {
            Some(path) if !path.starts_with('/') => (from.host.clone(), from.port, url),
            _ => {
                let scheme = url.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://"));
                let behind =
                    scheme.map(|scheme| &url[scheme.len()..]).or_else(|| url.strip_prefix("//"))?;
                let (authority, rest) =
                    behind.split_at(behind.find(['/', '?', '#']).unwrap_or(behind.len()));
                let Authority { host, port } = Authority::parse(authority).ok()?;
                (host, port.unwrap_or(443), rest)
            }
        };
        if !self.governing(Scheme::Https, &host, port).contains(&from.credential) {
            return None;
        }
        let name = encoded(&self.credential(from.credential).name);
        let slash = if rest.starts_with('/') { "" } else { "/" };
        let is_first = self.first_host(from.credential).as_ref() == Some(&(host.clone(), port));
        let at = match port {
            _ if is_first => String::new(),
            443 => format!("@{}", bracketed(&host, port).trim_end_matches(":443")),
            _ => format!("@{}", bracketed(&host, port)),
        };
        Some(format!("{ORIGIN}{MOUNT}{name}{at}{slash}{rest}"))
    }

    /// Whether an address, or one embedded in it, is the base URL address or one of metadata, which
    /// must never be dialled.
    pub(super) fn takes(&self, address: IpAddr) -> bool {
        let is_own = Views::of(address).iter().any(|view| view == IpAddr::V4(BASE_URL_ADDRESS));
        !self.credentials.is_empty() && (is_own || self.is_metadata(address))
    }

    /// The host that a bare service name stands for.
    fn first_host(&self, id: CredentialId) -> Option<(Host, u16)> {
        let exact = |host: &CredentialHost| {
            let port = host.port.unwrap_or(443);
            match &host.target {
                Target::Name(name) => Some((Host::Name(name.clone()), port)),
                Target::Net(net) => Some((Host::Ip(net.addr()), port)),
                Target::Below(_) | Target::Any => None,
            }
        };
        self.credential(id).hosts.iter().find_map(exact)
    }

    /// The host after the `@`, if it belongs to the credential.
    fn other_host(&self, id: CredentialId, authority: &str) -> Option<(Host, u16)> {
        let Authority { host, port } = Authority::parse(authority).ok()?;
        let Credential { hosts, .. } = self.credential(id);
        let ports = match port {
            Some(port) => vec![port],
            None => std::iter::once(443).chain(hosts.iter().filter_map(|host| host.port)).collect(),
        };
        let port = ports
            .into_iter()
            .find(|port| self.governing(Scheme::Https, &host, *port).contains(&id))?;
        Some((host, port))
    }
}

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NAME).to_string()
}
