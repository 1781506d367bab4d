//! The network filter: the four steps of docs/policy.md ("Network rules") over compiled rules.
//!
//! - A rule of names never matches an address and a rule of addresses never matches a name; `*`
//!   matches both. So with an allow list of CIDRs alone, a *name* that resolves into one of them is
//!   refused, which is the stricter reading.
//! - A catch-all deny (`0.0.0.0/0`, `::/0` or `*`, without a port) refuses everything no allow rule
//!   matches, names included. With a port it is a deny rule like any other.
//! - An address is judged together with the addresses embedded in it (see [`super::address`]): a
//!   deny rule that matches any of them denies, and each must be public or covered by an allow rule
//!   that names addresses. `*` covers none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{self, SpecialRange, Views};
use super::decision::Rule;
use super::host::{Host, HostName};
use super::host_map::HostMap;
use super::network_rule::{NetworkRule, Target};

/// Index of a rule in [`RuleSet::rules`].
type RuleIndex = u32;

/// The rules for one target: the first for every port, and the first for each port.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    any: Option<RuleIndex>,
    each: HashMap<u16, RuleIndex>,
}

impl Ports {
    fn add(&mut self, port: Option<u16>, index: RuleIndex) {
        match port {
            None => {
                self.any.get_or_insert(index);
            }
            Some(port) => {
                self.each.entry(port).or_insert(index);
            }
        }
    }

    fn at(&self, port: u16) -> Option<RuleIndex> {
        match (self.any, self.each.get(&port).copied()) {
            (Some(any), Some(each)) => Some(any.min(each)),
            (any, each) => any.or(each),
        }
    }

    fn first(&self) -> Option<RuleIndex> {
        self.any.into_iter().chain(self.each.values().copied()).min()
    }
}

/// Rules by target.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleSet {
    rules: Vec<(NetworkRule, Arc<Rule>)>,
    map: HostMap<Ports>,
}

impl RuleSet {
    pub(super) fn add(&mut self, parsed: NetworkRule, rule: Arc<Rule>) {
        // A document of 1 MiB cannot hold more rules than this can count.
        let index = RuleIndex::try_from(self.rules.len()).unwrap_or(RuleIndex::MAX);
        self.map.entry(&parsed.target).add(parsed.port, index);
        self.rules.push((parsed, rule));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(NetworkRule, Arc<Rule>)> {
        self.rules.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn rule(&self, index: RuleIndex) -> &Arc<Rule> {
        &self.rules[index as usize].1
    }

    /// The first rule, in the order of the document, that matches.
    pub(super) fn first(&self, host: &Host, port: u16) -> Option<&Arc<Rule>> {
        self.lowest(|visit| self.map.matching(host, visit), port)
    }

    /// The first rule that permits it. A name of the host itself needs a rule of its own, with the
    /// port.
    pub(super) fn permitting(&self, host: &Host, port: u16) -> Option<&Arc<Rule>> {
        match host {
            Host::Name(name) if name.is_own_host() => {
                let ports = self.map.name(name.as_str())?;
                ports.each.get(&port).map(|index| self.rule(*index))
            }
            host => self.first(host, port),
        }
    }

    /// The first address rule that contains this address itself; embedded addresses do not count.
    fn first_covering(&self, address: IpAddr, port: u16) -> Option<&Arc<Rule>> {
        self.lowest(|visit| self.map.nets(address, visit), port)
    }

    fn lowest<'a>(
        &'a self,
        matching: impl FnOnce(&mut dyn FnMut(&'a Ports)),
        port: u16,
    ) -> Option<&'a Arc<Rule>> {
        let mut lowest: Option<RuleIndex> = None;
        matching(&mut |ports: &Ports| {
            if let Some(index) = ports.at(port) {
                lowest = Some(lowest.map_or(index, |known| known.min(index)));
            }
        });
        lowest.map(|index| self.rule(index))
    }

    /// The rule for exactly this name (or, with `below`, for `*.name`), whatever its port.
    pub(super) fn named(&self, name: &str, below: bool) -> Option<&(NetworkRule, Arc<Rule>)> {
        let ports = if below { self.map.below(name) } else { self.map.name(name) };
        ports.and_then(Ports::first).map(|index| &self.rules[index as usize])
    }

    /// A rule that matches the host at another port.
    pub(super) fn at_any_port(&self, host: &Host) -> Option<&(NetworkRule, Arc<Rule>)> {
        let mut lowest: Option<RuleIndex> = None;
        self.map.matching(host, |ports| {
            if let Some(index) = ports.first() {
                lowest = Some(lowest.map_or(index, |known| known.min(index)));
            }
        });
        lowest.map(|index| &self.rules[index as usize])
    }

    /// The rules that match everything `rule` matches: for each target, the first for every port
    /// and the first for the port of `rule`.
    pub(super) fn covering(&self, rule: &NetworkRule) -> Vec<(usize, &(NetworkRule, Arc<Rule>))> {
        let mut found = Vec::new();
        self.map.covering(&rule.target, |ports| {
            found.extend(ports.any);
            found.extend(rule.port.and_then(|port| ports.each.get(&port).copied()));
        });
        found.into_iter().map(|index| (index as usize, &self.rules[index as usize])).collect()
    }

    /// The ports at which a rule permits the name: `None` for all of them.
    fn permitted_ports(&self, name: &HostName) -> Option<Vec<u16>> {
        if name.is_own_host() {
            let ports = self.map.name(name.as_str());
            return Some(ports.into_iter().flat_map(|ports| ports.each.keys().copied()).collect());
        }
        self.ports(&Host::Name(name.clone()))
    }

    /// The ports at which a rule matches the name: `None` for all of them.
    fn ports(&self, host: &Host) -> Option<Vec<u16>> {
        let mut every = false;
        let mut each = Vec::new();
        self.map.matching(host, |ports| {
            every |= ports.any.is_some();
            each.extend(ports.each.keys().copied());
        });
        (!every).then_some(each)
    }
}

/// The network filter's verdict on a destination.
#[derive(Clone, Debug)]
pub(super) enum NetworkVerdict<'a> {
    /// Step 2 (with the rule) or step 4.
    Allowed(Option<&'a Arc<Rule>>),
    /// Step 1.
    Denied(&'a Arc<Rule>),
    /// Step 3: no allow rule matches. Has the catch-all deny rule, if any.
    NotAllowed(Option<&'a Arc<Rule>>),
    /// The address, or one embedded in it, is special-purpose and no allow rule names it.
    Special(&'static SpecialRange),
}

/// The compiled `network` of a policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    pub(super) allow: RuleSet,
    pub(super) allow_tcp: RuleSet,
    pub(super) deny: RuleSet,
    pub(super) catch_all: Option<Arc<Rule>>,
    /// Whether an allow list was given. It may be empty (a profile whose groups are empty).
    pub(super) closed: bool,
}

impl Network {
    pub(super) fn add_allow(&mut self, parsed: NetworkRule, rule: Arc<Rule>) {
        self.closed = true;
        if parsed.tcp {
            self.allow_tcp.add(parsed.clone(), Arc::clone(&rule));
        }
        self.allow.add(parsed, rule);
    }

    pub(super) fn add_deny(&mut self, parsed: NetworkRule, rule: Arc<Rule>) {
        if parsed.is_catch_all() {
            self.catch_all.get_or_insert(rule);
        } else {
            self.deny.add(parsed, rule);
        }
    }

    /// Whether what no rule matches is permitted.
    pub(super) fn is_open(&self) -> bool {
        !self.closed && self.catch_all.is_none()
    }

    /// The four steps, plus the guard for addresses.
    pub(super) fn judge(&self, host: &Host, port: u16) -> NetworkVerdict<'_> {
        if let Some(rule) = self.deny.first(host, port) {
            return NetworkVerdict::Denied(rule);
        }
        let allowed = self.allow.permitting(host, port);
        if allowed.is_none() && (!self.is_open() || host.is_own_host()) {
            return NetworkVerdict::NotAllowed(self.catch_all.as_ref());
        }
        match host {
            Host::Ip(address) => match self.guard(*address, port) {
                Some(range) => NetworkVerdict::Special(range),
                None => NetworkVerdict::Allowed(allowed),
            },
            Host::Name(_) => NetworkVerdict::Allowed(allowed),
        }
    }

    /// Judges an address that a permitted host resolved to.
    pub(super) fn judge_address(&self, address: IpAddr, port: u16) -> NetworkVerdict<'_> {
        if let Some(rule) = self.deny_address(address, port) {
            return NetworkVerdict::Denied(rule);
        }
        match self.guard(address, port) {
            Some(range) => NetworkVerdict::Special(range),
            None => NetworkVerdict::Allowed(None),
        }
    }

    /// The deny rule that names an address, catch-alls aside.
    pub(super) fn deny_address(&self, address: IpAddr, port: u16) -> Option<&Arc<Rule>> {
        Views::of(address).iter().find_map(|view| self.deny.first_covering(view, port))
    }

    /// The special-purpose range that forbids an address. The address and each embedded one must be
    /// public or covered by an allow rule.
    fn guard(&self, address: IpAddr, port: u16) -> Option<&'static SpecialRange> {
        Views::of(address)
            .iter()
            .filter(|view| self.allow.first_covering(*view, port).is_none())
            .find_map(address::special)
    }

    /// Whether allow rules name the address, and every address embedded in it, at this port.
    pub(super) fn allows_address(&self, address: IpAddr, port: u16) -> bool {
        Views::of(address).iter().all(|view| self.allow.first_covering(view, port).is_some())
    }

    /// Whether any port of the name could be permitted.
    pub(super) fn may_resolve(&self, name: &HostName) -> bool {
        let host = Host::Name(name.clone());
        let Some(denied) = self.deny.ports(&host) else { return false };
        if self.is_open() && !name.is_own_host() {
            return true;
        }
        match self.allow.permitted_ports(name) {
            None => true,
            Some(allowed) => allowed.iter().any(|port| !denied.contains(port)),
        }
    }

    /// Networks denied at every port, catch-alls aside.
    pub(super) fn denied_networks(&self) -> Vec<IpNet> {
        self.deny
            .iter()
            .filter(|(rule, _)| rule.port.is_none())
            .filter_map(|(rule, _)| match rule.target {
                Target::Net(net) => Some(net),
                _ => None,
            })
            .collect()
    }

    /// The allow rules that name addresses which are not public, or the host itself.
    pub(super) fn allowed_special(&self) -> Vec<String> {
        let special = |rule: &NetworkRule| match rule.target {
            Target::Net(net) => address::holds_special(net),
            _ => rule.names_own_host(),
        };
        let rules = self.allow.iter().filter(|(rule, _)| special(rule));
        rules.map(|(_, rule)| rule.text.to_string()).collect()
    }

    /// The loopback networks that allow rules name, at any port.
    pub(super) fn allowed_loopback(&self) -> Vec<IpNet> {
        let mut allowed: Vec<IpNet> = Vec::new();
        for (rule, _) in self.allow.iter() {
            let Target::Net(net) = rule.target else { continue };
            for loopback in address::loopback_nets() {
                if net.contains(&loopback) {
                    allowed.push(loopback);
                } else if loopback.contains(&net) {
                    allowed.push(net);
                }
            }
        }
        allowed.sort();
        allowed.dedup();
        allowed
    }
}
