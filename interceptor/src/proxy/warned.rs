//! Which clients and hosts a sandbox has been warned about.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use interceptor_policy::Host;

/// Maximum warnings per sandbox, one per client and host; the audit log has the rest.
const MOST_WARNINGS: usize = 64;

/// Warnings already given.
#[derive(Debug, Default)]
pub(crate) struct Warned(Mutex<HashSet<(Host, &'static str)>>);

impl Warned {
    /// Whether to warn about this kind of client at this host: only the first time, and up to the
    /// limit.
    pub(crate) fn is_first(&self, host: &Host, kind: &'static str) -> bool {
        // Nothing here panics.
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warned.len() < MOST_WARNINGS && warned.insert((host.clone(), kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_warned_of_once_and_so_many_only() {
        let warned = Warned::default();
        let host = |n: usize| Host::parse(&format!("h{n}.example.com")).unwrap();
        let first = |n, kind| warned.is_first(&host(n), kind);
        assert!(first(0, "a") && !first(0, "a") && first(0, "b"));
        assert_eq!((0..1000).filter(|n| first(*n, "a")).count(), MOST_WARNINGS - 2);
    }
}
