//! The table of names and the synthetic addresses that stand for them.
//!
//! Every name a sandbox looks up gets a place in the table, and with it one address in each family: the same offset into
//! 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180), ranges that no real host has. The address leads back to the name
//! when a connection to it arrives. A sandbox has a table of its own; nothing in it is shared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::policy::{Host, HostName};

/// 198.18.0.0/15.
const V4: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const V4_MASK: u32 = u32::MAX << 17;
/// 2001:2::/48.
const V6: u128 = 0x2001_0002 << 96;
const V6_MASK: u128 = u128::MAX << 80;

/// The first and the last 256 addresses are the product's own (the self-test, the resolver's address).
const RESERVED: u32 = 256;
/// How many places the range has.
const PLACES: u32 = (1 << 17) - 2 * RESERVED;

/// How many names a sandbox may use within [`RETENTION`].
const CAPACITY: u32 = 32_768;
/// How long a name keeps its place after it was last looked up or connected to: far longer than the answer's time to live,
/// because clients keep addresses longer than they are told to.
const RETENTION: Duration = Duration::from_secs(3600);

/// Which synthetic address stands for which name, for one sandbox.
pub struct Names {
    table: Mutex<Table>,
    capacity: u32,
}

struct Table {
    /// The least recently used first to go.
    by_name: LruCache<HostName, u32>,
    places: Vec<Place>,
}

struct Place {
    name: HostName,
    used: Instant,
}

impl Names {
    /// An empty table.
    pub fn new() -> Names {
        Names::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: u32) -> Names {
        let table = Table { by_name: LruCache::unbounded(), places: Vec::new() };
        Names { table: Mutex::new(table), capacity: capacity.min(PLACES) }
    }

    /// The addresses that stand for `name`, the same each time. `None` when the table is full of names that were used
    /// within the last hour.
    pub fn addresses(&self, name: &HostName) -> Option<(Ipv4Addr, Ipv6Addr)> {
        self.addresses_at(name, Instant::now())
    }

    fn addresses_at(&self, name: &HostName, now: Instant) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let mut guard = self.lock();
        let table = &mut *guard;
        if let Some(&place) = table.by_name.get(name) {
            table.places[place as usize].used = now;
            return Some(addresses_of(place));
        }
        let taken = Place { name: name.clone(), used: now };
        let used = table.places.len() as u32; // at most PLACES
        let place = if used < self.capacity {
            table.places.push(taken);
            used
        } else {
            let (_, &place) = table.by_name.peek_lru()?;
            if now.saturating_duration_since(table.places[place as usize].used) < RETENTION {
                return None;
            }
            table.by_name.pop_lru();
            table.places[place as usize] = taken;
            place
        };
        table.by_name.put(name.clone(), place);
        Some(addresses_of(place))
    }

    /// The name that `address` was given out for. `None` when it was not.
    pub fn name_of(&self, address: IpAddr) -> Option<HostName> {
        self.name_of_at(address, Instant::now())
    }

    fn name_of_at(&self, address: IpAddr, now: Instant) -> Option<HostName> {
        let place = place_of(address)?;
        let mut guard = self.lock();
        let table = &mut *guard;
        let found = table.places.get_mut(place as usize)?;
        found.used = now;
        table.by_name.promote(&found.name);
        Some(found.name.clone())
    }

    /// The names in the order of their places, each with the time since it was last used: what [`Names::restore`] takes.
    pub(crate) fn snapshot(&self) -> Vec<(String, Duration)> {
        let table = self.lock();
        let now = Instant::now();
        let row = |place: &Place| (place.name.as_str().to_owned(), now.saturating_duration_since(place.used));
        table.places.iter().map(row).collect()
    }

    /// The table that gives every name the addresses it had. `None` where that is not possible: too many names, one that is none,
    /// or one twice.
    pub(crate) fn restore(rows: Vec<(String, Duration)>) -> Option<Names> {
        if rows.len() > CAPACITY as usize {
            return None;
        }
        let now = Instant::now();
        let mut table = Table { by_name: LruCache::unbounded(), places: Vec::with_capacity(rows.len()) };
        let mut by_age = Vec::with_capacity(rows.len());
        for (place, (text, age)) in (0_u32..).zip(rows) {
            let Ok(Host::Name(name)) = Host::parse(&text) else { return None };
            by_age.push((age, name.clone(), place));
            // A machine that has been up for less than that has a clock that does not reach back so far.
            table.places.push(Place { name, used: now.checked_sub(age).unwrap_or(now) });
        }
        by_age.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        for (_, name, place) in by_age {
            if table.by_name.put(name, place).is_some() {
                return None;
            }
        }
        Some(Names { table: Mutex::new(table), capacity: CAPACITY })
    }

    /// Whether `address` lies in the ranges of synthetic addresses, given out or not. Such an address is never dialled.
    pub fn is_synthetic(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits() & V4_MASK == V4,
            IpAddr::V6(address) => address.to_bits() & V6_MASK == V6,
        }
    }

    // Nothing panics while it holds the lock; were it to, a name would at worst be missing.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Names {
    fn default() -> Names {
        Names::new()
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("used", &self.lock().places.len()).finish_non_exhaustive()
    }
}

fn addresses_of(place: u32) -> (Ipv4Addr, Ipv6Addr) {
    let offset = place + RESERVED;
    (Ipv4Addr::from_bits(V4 + offset), Ipv6Addr::from_bits(V6 + u128::from(offset)))
}

fn place_of(address: IpAddr) -> Option<u32> {
    let offset = match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().checked_sub(V4)?,
        IpAddr::V6(address) => u32::try_from(address.to_bits().checked_sub(V6)?).ok()?,
    };
    offset.checked_sub(RESERVED).filter(|&place| place < PLACES)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(text: &str) -> HostName {
        match Host::parse(text).unwrap() {
            Host::Name(name) => name,
            Host::Ip(address) => panic!("{address} is no name"),
        }
    }

    #[test]
    fn a_name_keeps_its_addresses_and_they_lead_back_to_it() {
        let names = Names::new();
        let (four, six) = names.addresses(&name("api.example.com")).unwrap();
        assert_eq!(four, Ipv4Addr::new(198, 18, 1, 0));
        assert_eq!(six, "2001:2::100".parse::<Ipv6Addr>().unwrap());
        let other = names.addresses(&name("other.example.com")).unwrap();
        assert_eq!(names.addresses(&name("API.example.com.")).unwrap(), (four, six));
        for address in [IpAddr::V4(four), IpAddr::V6(six), IpAddr::V6(four.to_ipv6_mapped())] {
            assert_eq!(names.name_of(address).unwrap().as_str(), "api.example.com", "{address}");
        }
        assert_eq!(names.name_of(other.0.into()).unwrap().as_str(), "other.example.com");
    }

    #[test]
    fn a_restored_table_gives_out_the_same_addresses_and_goes_on_where_it_ended() {
        let names = Names::new();
        let start = Instant::now();
        let known: Vec<_> = ["a.example", "b.example", "c.example"]
            .into_iter()
            .zip([20, 0, 10])
            .map(|(text, seconds)| {
                (text, names.addresses_at(&name(text), start + Duration::from_secs(seconds)))
            })
            .collect();
        let restored = Names::restore(names.snapshot()).unwrap();
        for (text, addresses) in known {
            assert_eq!(restored.addresses(&name(text)), addresses, "{text}");
        }
        assert_eq!(restored.addresses(&name("d.example")), names.addresses(&name("d.example")));
        let row = |text: &str| (text.to_owned(), Duration::ZERO);
        assert!(Names::restore(vec![row("a.example"), row("a.example")]).is_none());
        assert!(Names::restore(vec![row("127.0.0.1")]).is_none());
        assert!(Names::restore(vec![row("a.example"); CAPACITY as usize + 1]).is_none());
    }

    #[test]
    fn the_product_s_own_addresses_and_those_not_given_out_lead_nowhere() {
        let names = Names::new();
        names.addresses(&name("api.example.com")).unwrap();
        for text in [
            "198.18.0.0",
            "198.18.0.255",
            "198.18.1.1",
            "198.19.255.0",
            "198.19.255.254",
            "198.19.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "0.0.0.0",
            "255.255.255.255",
            "2001:2::",
            "2001:2::ff",
            "2001:2::101",
            "2001:2:0:1::100",
            "2001:2:1::100",
            "2001:1:ffff::100",
            "::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert_eq!(names.name_of(text.parse().unwrap()).map(|name| name.to_string()), None, "{text}");
        }
    }

    #[test]
    fn the_whole_of_both_ranges_is_synthetic_and_nothing_else_is() {
        let names = Names::new();
        for (text, synthetic) in [
            ("198.18.0.0", true),
            ("198.19.255.255", true),
            ("::ffff:198.18.1.0", true),
            ("2001:2::", true),
            ("2001:2:0:ffff:ffff:ffff:ffff:ffff", true),
            ("198.17.255.255", false),
            ("198.20.0.0", false),
            ("2001:2:1::", false),
            ("2001:1:ffff:ffff::", false),
        ] {
            assert_eq!(names.is_synthetic(text.parse().unwrap()), synthetic, "{text}");
        }
    }

    #[test]
    fn every_place_has_addresses_of_its_own_within_the_ranges() {
        let names = Names::new();
        let mut seen = HashSet::new();
        for place in 0..PLACES {
            let (four, six) = addresses_of(place);
            assert!(seen.insert(four) && names.is_synthetic(four.into()) && names.is_synthetic(six.into()));
            assert_eq!(place_of(four.into()), Some(place));
            assert_eq!(place_of(six.into()), Some(place));
        }
        assert_eq!(addresses_of(PLACES - 1).0, Ipv4Addr::new(198, 19, 254, 255));
    }

    #[test]
    fn x4_a_full_table_refuses_new_names_until_old_ones_are_long_unused() {
        let names = Names::with_capacity(3);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = names.addresses_at(&name("a.example"), at(0)).unwrap();
        let second = names.addresses_at(&name("b.example"), at(1)).unwrap();
        names.addresses_at(&name("c.example"), at(2)).unwrap();
        assert_eq!(names.addresses_at(&name("d.example"), at(3)), None);
        // Those that have a place keep it; a connection to an address counts as use.
        assert_eq!(names.addresses_at(&name("b.example"), at(4)), Some(second));
        assert_eq!(names.name_of_at(first.0.into(), at(3000)).unwrap().as_str(), "a.example");
        // c has been unused for an hour: its place, and only its, is given away.
        let reused = names.addresses_at(&name("d.example"), at(3603)).unwrap();
        assert_ne!(reused, first);
        assert_ne!(reused, second);
        assert_eq!(names.name_of_at(reused.0.into(), at(3603)).unwrap().as_str(), "d.example");
        assert_eq!(names.addresses_at(&name("a.example"), at(3603)), Some(first));
        assert_eq!(
            names.addresses_at(&name("c.example"), at(3603)),
            None,
            "b was used less than an hour ago"
        );
    }
}
