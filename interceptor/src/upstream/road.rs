//! The route to origins: direct, or through a proxy that the operator names. Nothing here dials.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use interceptor_policy::{Host, HostName, NoProxy, Policy, ProxyUrl, Scheme};
use zeroize::Zeroizing;

use crate::tls::client::ClientConfigs;

/// Resolves to the value of `proxy-authorization`, or `None` if it is unavailable.
pub(crate) type AuthorizationValue<'a> =
    Pin<Box<dyn Future<Output = Option<Zeroizing<String>>> + Send + 'a>>;

/// The source of a proxy's credential.
pub(crate) trait Authorization: fmt::Debug + Send + Sync {
    /// The value of `proxy-authorization`.
    fn value(&self) -> AuthorizationValue<'_>;
}

/// A proxy.
#[derive(Debug)]
pub(crate) struct ProxyServer {
    /// Its URL.
    pub(crate) url: ProxyUrl,
    /// The credential for it.
    pub(crate) auth: Option<Arc<dyn Authorization>>,
}

/// The route of one sandbox, under one set of rules.
#[derive(Debug)]
pub(crate) struct Road {
    /// The proxy for everything but plain HTTP.
    pub(crate) https: Option<ProxyServer>,
    /// The proxy for plain HTTP.
    pub(crate) http: Option<ProxyServer>,
    /// Destinations that bypass the proxy.
    pub(crate) no_proxy: NoProxy,
    /// Whether the proxy resolves names.
    pub(crate) proxy_resolves: bool,
    /// TLS towards origins and proxies.
    pub(crate) tls: ClientConfigs,
}

impl Road {
    /// A route without a proxy.
    pub(crate) fn direct(tls: ClientConfigs) -> Road {
        let no_proxy = NoProxy::default();
        Road { https: None, http: None, no_proxy, proxy_resolves: false, tls }
    }

    /// The proxy for a host, unless all its addresses bypass the proxy.
    pub(super) fn proxy(&self, scheme: Scheme, host: &Host, port: u16) -> Option<&ProxyServer> {
        let proxy = match scheme {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }?;
        let is_direct = host.is_own_host() || self.no_proxy.covering(host, port).is_some();
        (!is_direct).then_some(proxy)
    }

    /// Whether all these addresses bypass the proxy.
    pub(super) fn is_direct(&self, addresses: &[SocketAddr]) -> bool {
        addresses.iter().all(|at| self.no_proxy.covers_address(at.ip(), at.port()))
    }

    /// Whether a proxy resolves a name, so that it is not looked up here. The scheme is not known
    /// yet.
    pub(crate) fn resolves_elsewhere(&self, name: &HostName) -> bool {
        let host = Host::Name(name.clone());
        let usual = [(Scheme::Https, 443), (Scheme::Http, 80)];
        let mut proxies = usual.into_iter().map(|(scheme, port)| self.proxy(scheme, &host, port));
        self.proxy_resolves && proxies.any(|proxy| proxy.is_some())
    }
}

/// The policy that judges a connection, and the route that the connection takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// The policy.
    pub(crate) policy: &'a Policy,
    /// The route.
    pub(crate) road: &'a Road,
}
