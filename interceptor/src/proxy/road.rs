//! The road to origins, from what the policy's `upstream` was loaded as.

use std::sync::Arc;

use super::Runtime;
use crate::credential::{Gateway, Keyring};
use crate::tls::TlsError;
use crate::tls::client::{self, ClientConfigs};
use crate::upstream::{Authorization, AuthorizationValue, ProxyServer, Road};

/// The road of a sandbox with these keys, and the roots that its clients must trust besides the
/// system's where TLS is tunnelled, PEM.
///
/// # Errors
/// If the roots that the policy names cannot be used.
pub(super) fn of(runtime: &Runtime, keyring: &Arc<Keyring>) -> Result<(Road, Arc<str>), TlsError> {
    let outward = keyring.outward();
    let (client, given) = if outward.roots.is_empty() {
        (runtime.client.clone(), runtime.verifier.given_pem())
    } else {
        let roots = outward.roots.iter().map(|(name, pem)| (name.as_str(), pem.as_slice()));
        let verifier = client::with_roots(&runtime.verifier, roots)?;
        let given = verifier.given_pem();
        (client::base(verifier)?, given)
    };
    let mut road = Road::direct(ClientConfigs::new(client));
    road.no_proxy = outward.no_proxy.clone();
    road.proxy_resolves = outward.proxy_resolves;
    road.https = outward.https.as_ref().map(|gateway| server(gateway, keyring));
    road.http = outward.http.as_ref().map(|gateway| server(gateway, keyring));
    Ok((road, given))
}

fn server(gateway: &Gateway, keyring: &Arc<Keyring>) -> ProxyServer {
    let kept = || -> Arc<dyn Authorization> {
        Arc::new(Kept { keyring: keyring.clone(), gateway: gateway.clone() })
    };
    ProxyServer { url: gateway.url.clone(), auth: gateway.is_authorized().then(kept) }
}

/// The credential of a proxy, in the sandbox's keyring.
#[derive(Debug)]
struct Kept {
    keyring: Arc<Keyring>,
    gateway: Gateway,
}

impl Authorization for Kept {
    fn value(&self) -> AuthorizationValue<'_> {
        Box::pin(async {
            self.keyring.refresh().await;
            self.gateway.authorization()
        })
    }
}
