//! Addresses: which other addresses one embeds, and which are special-purpose.
//!
//! The table is `data/special-purpose.json`, taken from the IANA registries it names. The most
//! specific entry that contains an address decides (RFC 6890 section 2.2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;
use serde::Deserialize;

/// One range of the special-purpose table.
#[derive(Debug, Deserialize)]
pub(crate) struct SpecialRange {
    /// The range.
    pub(crate) net: IpNet,
    /// What the registry calls it.
    pub(crate) name: String,
    /// Whether the registry says that it is globally reachable.
    pub(crate) global: bool,
}

#[derive(Deserialize)]
struct Table {
    ranges: Vec<SpecialRange>,
}

static TABLE: LazyLock<Vec<SpecialRange>> = LazyLock::new(|| {
    // The file is embedded in this crate, and a test parses it.
    #[expect(clippy::expect_used, reason = "embedded data, read by a test")]
    let table: Table = serde_json::from_str(include_str!("../data/special-purpose.json"))
        .expect("the embedded table of special-purpose addresses is valid");
    let mut ranges = table.ranges;
    ranges.sort_by_key(|range| std::cmp::Reverse(range.net.prefix_len()));
    ranges
});

/// The special-purpose range that contains `address` itself, ignoring embedded addresses; `None` if
/// it is globally reachable.
pub(crate) fn special(address: IpAddr) -> Option<&'static SpecialRange> {
    TABLE.iter().find(|range| range.net.contains(&address)).filter(|range| !range.global)
}

/// Whether a network holds an address that is not globally reachable. One that is embedded in an
/// address of it needs a rule that covers it too.
pub(crate) fn holds_special(net: IpNet) -> bool {
    let net = canonical_net(net);
    let special = |range: &&SpecialRange| !range.global;
    let inside = TABLE.iter().filter(special).any(|range| net.contains(&range.net));
    let around = TABLE.iter().find(|range| range.net.contains(&net));
    inside || around.is_some_and(|range| !range.global)
}

/// An address and the addresses embedded in it: a packet to the first may reach any of the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Views {
    all: [IpAddr; 3],
    count: usize,
}

impl Views {
    /// Unwraps IPv4-mapped (which *is* the IPv4 address), IPv4-compatible and -translated, NAT64
    /// (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380) and ISATAP (RFC 5214).
    pub(crate) fn of(address: IpAddr) -> Views {
        let canonical = address.to_canonical();
        let mut views = Views { all: [canonical; 3], count: 1 };
        let IpAddr::V6(v6) = canonical else { return views };
        let segments = v6.segments();
        let low = ipv4(segments[6], segments[7]);
        match segments {
            // `::` and `::1` are addresses of their own.
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => {}
            [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => views.add(low),
            [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0x64, 0xff9b, 1, _, _, _, _, _] => views.add(low),
            [0x2002, high, next, ..] => views.add(ipv4(high, next)),
            [0x2001, 0, high, next, ..] => {
                views.add(ipv4(high, next));
                views.add(ipv4(!segments[6], !segments[7]));
            }
            [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => views.add(low),
            _ => {}
        }
        views
    }

    fn add(&mut self, address: Ipv4Addr) {
        self.all[self.count] = IpAddr::V4(address);
        self.count += 1;
    }

    /// The addresses, the outer one first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.all[..self.count].iter().copied()
    }
}

fn ipv4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

/// The network in the form addresses are compared in: IPv4-mapped becomes IPv4, and host bits are
/// cleared.
pub(crate) fn canonical_net(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.network().to_ipv4_mapped()
        && let Ok(mapped) = ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96)
    {
        return IpNet::V4(mapped);
    }
    net.trunc()
}

/// 127.0.0.0/8 and ::1/128.
pub(crate) fn loopback_nets() -> [IpNet; 2] {
    [
        IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::from(ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    ]
}

#[cfg(test)]
mod special_tests {
    use super::*;

    #[test]
    fn p8_a_network_holds_special_addresses_if_it_lies_in_them_or_around_them() {
        let holds = |text: &str| holds_special(text.parse().unwrap());
        for text in [
            "10.1.0.0/16",
            "127.0.0.1/32",
            "0.0.0.0/0",
            "8.0.0.0/5",
            "169.254.169.254/32",
            "::/0",
            "fd00::1/128",
            "::ffff:10.0.0.0/104",
            "2002:a00:1::/48",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["8.8.8.0/24", "1.1.1.1/32", "2606:4700::/32", "192.0.0.9/32"] {
            assert!(!holds(text), "{text}");
        }
    }
}
