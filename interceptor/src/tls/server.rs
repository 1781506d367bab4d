//! TLS towards the sandbox. Each name's server configuration is built on first use and cached, so
//! that later handshakes need no minting and sessions can be resumed.
//!
//! Names are bounded twice: minting is rate-limited, and the cache is an LRU (attack X1). Sessions
//! are tickets encrypted with a key of this sandbox; rustls resumes a ticket only for the server
//! name it was issued for (T9).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use interceptor_policy::Host;
use lru::LruCache;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::ca::Ca;
use super::{TlsError, provider};
use crate::metrics::{Mint, SandboxMetrics};

/// Names cached per sandbox, at about 6 KiB each.
const NAMES: usize = 1024;
/// A cached leaf is renewed well before its 90 days are over.
const RENEWED_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MintError {
    /// The sandbox requests new names faster than its limit.
    #[error("more than {} a second", crate::words::count(*per_second, "new name"))]
    RateLimited {
        /// The limit.
        per_second: u64,
    },
    /// The certificate could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Mints and caches the server configurations of one sandbox.
pub(crate) struct ServerConfigs {
    ca: Ca,
    key: Arc<dyn rustls::sign::SigningKey>,
    tickets: Arc<dyn ProducesTickets>,
    state: Mutex<MintState>,
    metrics: Arc<SandboxMetrics>,
}

struct MintState {
    configs: LruCache<Host, (Arc<ServerConfig>, Instant)>,
    tokens: f64,
    refilled: Instant,
    per_second: u64,
    burst: u64,
}

impl std::fmt::Debug for ServerConfigs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServerConfigs").finish_non_exhaustive()
    }
}

impl ServerConfigs {
    /// For one sandbox's CA. At most `per_second` leaves are minted per second, with bursts of up
    /// to `burst`.
    pub(crate) fn new(
        ca: Ca,
        per_second: u64,
        burst: u64,
        metrics: Arc<SandboxMetrics>,
    ) -> Result<ServerConfigs, TlsError> {
        let key = provider().key_provider.load_private_key(ca.leaf_key())?;
        let tickets = Ticketer::new()?;
        let (tokens, refilled) = (burst as f64, Instant::now());
        // With a capacity, it would make room for all of them now.
        let configs = LruCache::unbounded();
        let state = MintState { configs, tokens, refilled, per_second, burst };
        Ok(ServerConfigs { ca, key, tickets, state: Mutex::new(state), metrics })
    }

    /// Changes how many leaves may be minted. Saved tokens stay, up to the new burst.
    pub(crate) fn set_rate(&self, per_second: u64, burst: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.per_second, state.burst) = (per_second, burst);
    }

    /// The CA.
    pub(crate) fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The CA's public certificate as PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    /// The configuration for a name. The lock is held while a leaf is minted (about 50 µs), so that
    /// concurrent requests for a new name mint it once.
    pub(crate) fn get(&self, host: &Host) -> Result<Arc<ServerConfig>, MintError> {
        let now = Instant::now();
        // After a panic inside the lock, at worst an entry is missing from the cache.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, minted)) = state.configs.get(host)
            && now.duration_since(*minted) < RENEWED_AFTER
        {
            return Ok(config.clone());
        }
        let earned = now.duration_since(state.refilled).as_secs_f64() * state.per_second as f64;
        state.tokens = (state.tokens + earned).min(state.burst as f64);
        state.refilled = now;
        if state.tokens < 1.0 {
            self.metrics.mint(Mint::Limited);
            return Err(MintError::RateLimited { per_second: state.per_second });
        }
        state.tokens -= 1.0;
        let built = self.build(host);
        self.metrics.mint(if built.is_ok() { Mint::Minted } else { Mint::Failed });
        let config = Arc::new(built?);
        state.configs.put(host.clone(), (config.clone(), now));
        if state.configs.len() > NAMES {
            state.configs.pop_lru();
        }
        Ok(config)
    }

    fn build(&self, host: &Host) -> Result<ServerConfig, TlsError> {
        let certified = CertifiedKey::new(self.ca.mint(host)?, self.key.clone());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Both ends are on this machine: what is cheap here is cheap there.
        config.ignore_client_order = true;
        config.ticketer = self.tickets.clone();
        // Each resumed connection gets another one.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(per_second: u64, burst: u64) -> ServerConfigs {
        ServerConfigs::new(Ca::new("test").unwrap(), per_second, burst, Arc::default()).unwrap()
    }

    #[test]
    fn a_name_is_minted_once() {
        let configs = configs(1, 1);
        let host = Host::parse("api.example.com").unwrap();
        let first = configs.get(&host).unwrap();
        assert!(Arc::ptr_eq(&first, &configs.get(&host).unwrap()));
    }

    #[test]
    fn only_so_many_names_are_cached() {
        let configs = configs(1, u64::MAX);
        for number in 0..NAMES + 10 {
            configs.get(&Host::parse(&format!("n{number}.example.com")).unwrap()).unwrap();
        }
        assert_eq!(configs.state.lock().unwrap().configs.len(), NAMES);
    }

    #[test]
    fn x1_a_flood_of_names_is_limited_and_known_names_keep_working() {
        let configs = configs(1, 5);
        let known = Host::parse("known.example.com").unwrap();
        configs.get(&known).unwrap();
        let refused = (0..100)
            .filter(|n| configs.get(&Host::parse(&format!("n{n}.example.com")).unwrap()).is_err())
            .count();
        assert!(refused >= 95, "only {refused} of 100 new names were refused");
        configs.get(&known).unwrap();
    }
}
