//! Which hosts a sandbox was warned of already.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use interceptor_policy::Host;

/// Hosts that are warned of, once each: a sandbox that goes on is still in the records.
const MOST_WARNINGS: usize = 64;

/// Who was warned of already.
#[derive(Debug, Default)]
pub(crate) struct Warned(Mutex<HashSet<Host>>);

impl Warned {
    /// Whether to warn of this host: once, and of so many hosts only.
    pub(crate) fn is_first(&self, host: &Host) -> bool {
        // Nothing inside panics.
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.len() < MOST_WARNINGS && hosts.insert(host.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_warned_of_once_and_so_many_only() {
        let warned = Warned::default();
        let host = |n: usize| Host::parse(&format!("h{n}.example.com")).unwrap();
        assert!(warned.is_first(&host(0)) && !warned.is_first(&host(0)));
        assert_eq!((0..1000).filter(|n| warned.is_first(&host(*n))).count(), MOST_WARNINGS - 1);
    }
}
