//! Network sets in the kernel's LPM trie. A set is written completely before anything refers to it;
//! it is replaced, never changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use aya::maps::lpm_trie::Key;
use interceptor_ebpf::endpoint;
use interceptor_ebpf::layout::network_words;
use ipnet::IpNet;

use super::KernelError;
use super::maps::{Maps, NetworkKey};

/// The networks of one set; dropping it removes them from the kernel.
#[derive(Debug)]
pub(super) struct NetworkSet {
    number: u64,
    keys: Vec<NetworkKey>,
    maps: Arc<Maps>,
}

impl NetworkSet {
    /// Writes a set under an unused number. An empty set is number 0, which is never looked up.
    pub(super) fn write(
        maps: &Arc<Maps>,
        number: u64,
        networks: &[IpNet],
    ) -> Result<Self, KernelError> {
        let keys: BTreeSet<_> = networks.iter().map(|network| key(number, network)).collect();
        let mut set = Self { number, keys: Vec::with_capacity(keys.len()), maps: Arc::clone(maps) };
        let mut trie = maps.networks();
        for (length, words) in keys {
            let entry = Key::new(length, words);
            if let Err(source) = trie.insert(&entry, 1, 0) {
                drop(trie);
                // Dropping `set` removes the entries written so far.
                return Err(KernelError::Map { map: "NETWORKS", action: "written", source });
            }
            set.keys.push((length, words));
            maps.note_networks(1, 0);
        }
        drop(trie);
        Ok(set)
    }

    /// Adopts a set that another process wrote.
    pub(super) fn inherit(maps: &Arc<Maps>, number: u64, keys: Vec<NetworkKey>) -> Self {
        Self { number, keys, maps: Arc::clone(maps) }
    }

    /// Keeps the networks in the kernel, for programs that stay.
    pub(super) fn keep(&mut self) {
        self.keys.clear();
    }

    /// The number that a sandbox's configuration refers to.
    pub(super) fn number(&self) -> u64 {
        if self.keys.is_empty() { 0 } else { self.number }
    }
}

impl Drop for NetworkSet {
    fn drop(&mut self) {
        let mut trie = self.maps.networks();
        self.maps.note_networks(0, self.keys.len());
        for (length, words) in self.keys.drain(..) {
            let _ = trie.remove(&Key::new(length, words));
        }
    }
}

/// A network's key: the set's number, the family, the address. IPv4 is stored in its mapped form,
/// which a rule may also use.
fn key(number: u64, network: &IpNet) -> NetworkKey {
    let words = endpoint::words(network.network());
    let mapped = if network.addr().is_ipv4() { 96 } else { 0 };
    (
        u64::BITS + u32::BITS + mapped + u32::from(network.prefix_len()),
        network_words(number, &words),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_network_is_its_ipv4_network() {
        let key = |text: &str| key(7, &text.parse().unwrap());
        assert_eq!(key("::ffff:10.0.0.0/104"), key("10.0.0.0/8"));
        assert_eq!(key("10.1.2.3/8"), key("10.0.0.0/8"));
        assert_ne!(key("::/96"), key("0.0.0.0/0"));
    }
}
