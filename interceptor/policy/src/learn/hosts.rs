//! The network rules that permit the hosts that were used.

use std::collections::{BTreeMap, BTreeSet};

use super::Usage;
use super::observed::Observations;
use crate::Policy;
use crate::address;
use crate::host::Host;
use crate::message::bracketed;
use crate::recorded::{Subject, Traffic};

/// Ports that a rule without a port is written for.
const USUAL: [u16; 2] = [80, 443];

/// What is learnt about the network.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// Rules, each with its use.
    pub(super) allow: Vec<(String, Usage)>,
    pub(super) passthrough: Vec<String>,
}

/// How one host was used.
#[derive(Default)]
struct Used {
    all: Usage,
    ports: BTreeMap<u16, Usage>,
    /// Ports that need a `tcp://` rule.
    tcp: BTreeMap<u16, Usage>,
    passthrough: BTreeSet<u16>,
    /// Special-purpose addresses that need rules of their own.
    addresses: BTreeSet<String>,
}

/// The rules for `permitted`, which permit none of `refused` at another port.
pub(super) fn hosts(
    permitted: &[(&Subject, &Usage)],
    refused: &[&Subject],
    observed: &Observations,
    base: Option<&Policy>,
    is_governed: impl Fn(&Host) -> bool,
) -> Hosts {
    let raw = |host: &Host, port: u16| {
        refused
            .iter()
            .any(|one| one.traffic == Traffic::Raw && one.host == *host && one.port == port)
    };
    let mut used: BTreeMap<&Host, Used> = BTreeMap::new();
    for (subject, usage) in permitted {
        let (host, port) = (&subject.host, subject.port);
        let known = used.entry(host).or_default();
        known.all.add(usage);
        let destination = (host.clone(), port);
        let unopened =
            subject.traffic == Traffic::Connection && observed.unopened.contains(&destination);
        let by_tcp_rule = observed.by_tcp_rule.contains(&destination) && !raw(host, port);
        if subject.traffic == Traffic::Raw || (unopened && by_tcp_rule) {
            known.tcp.entry(port).or_default().add(usage);
            continue;
        }
        if unopened && !is_governed(host) {
            known.passthrough.insert(port);
        }
        known.ports.entry(port).or_default().add(usage);
        // An address that a refusal named, and one that the base permits.
        known.addresses.extend(subject.address.map(|address| address.to_string()));
        let dialled = observed.addresses.get(host).into_iter().flatten();
        known.addresses.extend(
            dialled
                .filter(|dialled| address::special(**dialled).is_some())
                .filter(|dialled| base.is_some_and(|base| base.allows_address(**dialled, port)))
                .map(ToString::to_string),
        );
    }
    let mut found = Hosts::default();
    let mut addresses = BTreeMap::<String, Usage>::new();
    for (host, mut used) in used {
        // A `tcp://` rule permits everything at its port.
        used.ports.retain(|port, _| !used.tcp.contains_key(port));
        let elsewhere = refused.iter().any(|one| {
            one.host == *host && one.address.is_none() && !used.ports.contains_key(&one.port)
        });
        let usual = !host.is_own_host() && used.ports.keys().all(|port| USUAL.contains(port));
        if usual && !elsewhere && !used.ports.is_empty() {
            let mut usage = Usage::default();
            used.ports.values().for_each(|one| usage.add(one));
            found.allow.push((host.to_string(), usage));
            if !used.passthrough.is_empty() {
                found.passthrough.push(host.to_string());
            }
        } else {
            let rule = |(port, usage): (u16, Usage)| (bracketed(host, port), usage);
            found.passthrough.extend(used.passthrough.iter().map(|port| bracketed(host, *port)));
            found.allow.extend(used.ports.into_iter().map(rule));
        }
        let tcp = |(port, usage)| (format!("tcp://{}", bracketed(host, port)), usage);
        found.allow.extend(used.tcp.into_iter().map(tcp));
        for address in used.addresses {
            addresses.entry(address).or_default().add(&used.all);
        }
    }
    // An address that is a host itself has its rule.
    addresses.retain(|address, _| found.allow.iter().all(|(rule, _)| rule != address));
    found.allow.extend(addresses);
    found
}
