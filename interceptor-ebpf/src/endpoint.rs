//! An address and a port as the programs see them, and what kind of address it is.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The third word of every IPv4-mapped address: `::ffff:0:0/96`.
const MAPPED: u32 = 0xffff_u32.to_be();

/// An address with a port. IPv4 is kept in its mapped form, so one layout and one comparison serve
/// both families.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The 16 bytes of the address in network order, as four words.
    pub address: [u32; 4],
    /// The port in host order.
    pub port: u32,
}

impl Endpoint {
    /// How many words it takes in a map.
    pub const WORDS: usize = 5;

    /// An IPv4 endpoint from the word in network order that the kernel shows.
    #[inline(always)]
    pub const fn v4(address: u32, port: u32) -> Self {
        Self { address: [0, 0, MAPPED, address], port }
    }

    /// Whether this is IPv4, mapped or not.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.address[0] == 0 && self.address[1] == 0 && self.address[2] == MAPPED
    }

    /// Whether a connection to it stays on this host's `lo`: 127.0.0.0/8, `::1`, and the
    /// unspecified addresses, which Linux takes for loopback in `connect` and `sendto`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let last = u32::from_be(self.address[3]);
        if self.is_v4() {
            last >> 24 == 127 || last == 0
        } else {
            self.address[0] == 0 && self.address[1] == 0 && self.address[2] == 0 && last <= 1
        }
    }

    /// Whether it lies in a range from which synthetic addresses are handed out: 198.18.0.0/15
    /// (RFC 2544) and 2001:2::/48 (RFC 5180). They stand for names, never for a machine.
    #[inline(always)]
    pub const fn is_synthetic(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.address[3]) >> 17 == 0xc612_0000 >> 17
        } else {
            u32::from_be(self.address[0]) == 0x2001_0002 && u32::from_be(self.address[1]) >> 16 == 0
        }
    }

    /// Whether the endpoint is there at all: port 0 stands for "none" in a [`crate::Sandbox`].
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        self.port != 0
    }

    /// The words for a map.
    pub const fn to_words(&self) -> [u32; Self::WORDS] {
        [self.address[0], self.address[1], self.address[2], self.address[3], self.port]
    }

    /// From the words of a map.
    pub const fn from_words(words: [u32; Self::WORDS]) -> Self {
        Self { address: [words[0], words[1], words[2], words[3]], port: words[4] }
    }
}

/// The four words of an address, IPv4 mapped.
pub const fn words(address: IpAddr) -> [u32; 4] {
    let bytes = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address: words(address.ip()), port: u32::from(address.port()) }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        let [a, b, c, d] = endpoint.address.map(u32::from_be);
        let address = Ipv6Addr::from_bits(
            (a as u128) << 96 | (b as u128) << 64 | (c as u128) << 32 | d as u128,
        );
        Self::new(IpAddr::V6(address).to_canonical(), endpoint.port as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::from(text.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn an_endpoint_is_the_same_after_its_way_through_a_map() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443", "0.0.0.0:1", "[::]:65535"] {
            let original = endpoint(text);
            assert_eq!(Endpoint::from_words(original.to_words()), original, "{text}");
            assert_eq!(SocketAddr::from(original).to_string(), text);
        }
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        assert_eq!(endpoint("[::ffff:192.0.2.1]:80"), endpoint("192.0.2.1:80"));
        assert_eq!(endpoint("192.0.2.1:80"), Endpoint::v4(u32::from_ne_bytes([192, 0, 2, 1]), 80));
    }

    #[test]
    fn loopback_is_what_linux_sends_to_lo() {
        for text in [
            "127.0.0.1:1",
            "127.255.0.9:1",
            "0.0.0.0:1",
            "[::]:1",
            "[::1]:1",
            "[::ffff:127.0.0.53]:1",
            "[::ffff:0.0.0.0]:1",
        ] {
            assert!(endpoint(text).is_loopback(), "{text}");
        }
        for text in [
            "128.0.0.1:1",
            "126.255.255.255:1",
            "0.0.0.1:1",
            "[::2]:1",
            "[::127.0.0.1]:1",
            "[fe80::1]:1",
            "[::1:0:1]:1",
        ] {
            assert!(!endpoint(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn synthetic_is_exactly_the_two_ranges() {
        for text in [
            "198.18.0.0:1",
            "198.19.255.255:1",
            "[::ffff:198.18.3.4]:1",
            "[2001:2::]:1",
            "[2001:2:0:ffff::1]:1",
        ] {
            assert!(endpoint(text).is_synthetic(), "{text}");
        }
        for text in
            ["198.17.255.255:1", "198.20.0.0:1", "[2001:2:1::]:1", "[2001:3::]:1", "[2001::2]:1"]
        {
            assert!(!endpoint(text).is_synthetic(), "{text}");
        }
    }
}
