//! A map from rule targets ([`Target`]) to values, queried by host. A query costs a hash look-up
//! for the name and each of its parents, or for each distinct prefix length, however many rules
//! there are.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::Views;
use super::host::{Host, HostName};
use super::network_rule::Target;

/// A map keyed by target.
#[derive(Clone, Debug)]
pub(super) struct HostMap<V> {
    any: Option<V>,
    names: HashMap<HostName, V>,
    below: HashMap<HostName, V>,
    v4: BTreeMap<u8, HashMap<u32, V>>,
    v6: BTreeMap<u8, HashMap<u128, V>>,
}

impl<V> Default for HostMap<V> {
    fn default() -> Self {
        HostMap {
            any: None,
            names: HashMap::new(),
            below: HashMap::new(),
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
        }
    }
}

impl<V: Default> HostMap<V> {
    /// The value of exactly this target, created if there is none.
    pub(super) fn entry(&mut self, target: &Target) -> &mut V {
        match target {
            Target::Any => self.any.get_or_insert_default(),
            Target::Name(name) => self.names.entry(name.clone()).or_default(),
            Target::Below(name) => self.below.entry(name.clone()).or_default(),
            Target::Net(IpNet::V4(net)) => self
                .v4
                .entry(net.prefix_len())
                .or_default()
                .entry(u32::from(net.network()))
                .or_default(),
            Target::Net(IpNet::V6(net)) => self
                .v6
                .entry(net.prefix_len())
                .or_default()
                .entry(u128::from(net.network()))
                .or_default(),
        }
    }
}

impl<V> HostMap<V> {
    /// Shows `visit` the value of every target that matches `host`.
    pub(super) fn matching<'a>(&'a self, host: &Host, mut visit: impl FnMut(&'a V)) {
        if let Some(value) = &self.any {
            visit(value);
        }
        match host {
            Host::Name(name) => self.matching_name(name, visit),
            Host::Ip(address) => {
                Views::of(*address).iter().for_each(|view| self.nets(view, &mut visit))
            }
        }
    }

    /// As [`HostMap::matching`], but ignores embedded addresses: credentials use this.
    pub(super) fn matching_exactly<'a>(&'a self, host: &Host, mut visit: impl FnMut(&'a V)) {
        if let Some(value) = &self.any {
            visit(value);
        }
        match host {
            Host::Name(name) => self.matching_name(name, visit),
            Host::Ip(address) => self.nets(*address, visit),
        }
    }

    /// As [`HostMap::matching`] for a name, without `*`.
    fn matching_name<'a>(&'a self, name: &HostName, mut visit: impl FnMut(&'a V)) {
        if let Some(value) = self.names.get(name) {
            visit(value);
        }
        if !self.below.is_empty() {
            for value in name.suffixes().skip(1).filter_map(|suffix| self.below.get(suffix)) {
                visit(value);
            }
        }
    }

    /// The values of the networks that contain this address itself; embedded addresses do not
    /// count.
    pub(super) fn nets<'a>(&'a self, address: IpAddr, mut visit: impl FnMut(&'a V)) {
        match address {
            IpAddr::V4(address) => {
                for (length, nets) in &self.v4 {
                    if let Some(value) = nets.get(&(u32::from(address) & mask_v4(*length))) {
                        visit(value);
                    }
                }
            }
            IpAddr::V6(address) => {
                for (length, nets) in &self.v6 {
                    if let Some(value) = nets.get(&(u128::from(address) & mask_v6(*length))) {
                        visit(value);
                    }
                }
            }
        }
    }

    /// Shows `visit` the value of every target that matches whatever `target` matches, itself
    /// included.
    pub(super) fn covering<'a>(&'a self, target: &Target, mut visit: impl FnMut(&'a V)) {
        if let Some(value) = &self.any {
            visit(value);
        }
        match target {
            Target::Any => {}
            Target::Name(name) => self.matching_name(name, visit),
            Target::Below(name) => {
                name.suffixes().filter_map(|suffix| self.below.get(suffix)).for_each(visit)
            }
            Target::Net(IpNet::V4(net)) => {
                for length in 0..=net.prefix_len() {
                    let nets = self.v4.get(&length);
                    let wider = nets
                        .and_then(|nets| nets.get(&(u32::from(net.network()) & mask_v4(length))));
                    wider.into_iter().for_each(&mut visit);
                }
            }
            Target::Net(IpNet::V6(net)) => {
                for length in 0..=net.prefix_len() {
                    let nets = self.v6.get(&length);
                    let wider = nets
                        .and_then(|nets| nets.get(&(u128::from(net.network()) & mask_v6(length))));
                    wider.into_iter().for_each(&mut visit);
                }
            }
        }
    }

    /// The value of exactly this name.
    pub(super) fn name(&self, name: &str) -> Option<&V> {
        self.names.get(name)
    }

    /// The value of exactly `*.name`.
    pub(super) fn below(&self, name: &str) -> Option<&V> {
        self.below.get(name)
    }
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}
