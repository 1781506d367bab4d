//! The table of names and the synthetic addresses that stand for them.
//!
//! Every name a sandbox looks up gets a place in the table, and with it one address in each family: the same offset into
//! 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180), ranges that no real host has. The address leads back to the name
//! when a connection to it arrives. A sandbox has a table of its own; nothing in it is shared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use interceptor_policy::{Host, HostName};
use lru::LruCache;

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

/// Names that the policy denies have places too, so that the refusal can be explained to whoever
/// connects. The two kinds are kept apart: a sandbox can make up denied names as fast as it likes,
/// and they must not take the places of names that it may use.
struct Table {
    /// Names that the policy permitted when they were last looked up. The least recently used is
    /// the first to go, and only when it has been unused for [`RETENTION`].
    permitted: LruCache<HostName, u32>,
    /// The others. The least recently used goes as soon as its place is wanted.
    denied: LruCache<HostName, u32>,
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
        Names { table: Mutex::new(Table::new(Vec::new())), capacity: capacity.min(PLACES) }
    }

    /// The addresses that stand for `name`, the same each time. `permits` says whether the policy
    /// in force permits a name. `None` when every place belongs to a permitted name that was used
    /// within the last hour.
    pub fn addresses(
        &self,
        name: &HostName,
        permits: impl Fn(&HostName) -> bool,
    ) -> Option<(Ipv4Addr, Ipv6Addr)> {
        self.addresses_at(name, permits, Instant::now())
    }

    fn addresses_at(
        &self,
        name: &HostName,
        permits: impl Fn(&HostName) -> bool,
        now: Instant,
    ) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let permitted = permits(name);
        let mut guard = self.lock();
        let table = &mut *guard;
        if let Some(place) = table.find(name, permitted) {
            table.places[place as usize].used = now;
            return Some(addresses_of(place));
        }
        let taken = Place { name: name.clone(), used: now };
        let used = table.places.len() as u32; // at most PLACES
        let place = if used < self.capacity {
            table.places.push(taken);
            used
        } else {
            let place = table.evict(&permits, now)?;
            table.places[place as usize] = taken;
            place
        };
        table.list(permitted).put(name.clone(), place);
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
        table.permitted.promote(&found.name);
        table.denied.promote(&found.name);
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
        let mut table = Table::new(Vec::with_capacity(rows.len()));
        let mut by_age = Vec::with_capacity(rows.len());
        for (place, (text, age)) in (0_u32..).zip(rows) {
            let Ok(Host::Name(name)) = Host::parse(&text) else { return None };
            by_age.push((age, name.clone(), place));
            // A machine that has been up for less than that has a clock that does not reach back so far.
            table.places.push(Place { name, used: now.checked_sub(age).unwrap_or(now) });
        }
        by_age.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        for (_, name, place) in by_age {
            // Which of them the policy permits is asked before one is evicted.
            if table.denied.put(name, place).is_some() {
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

impl Table {
    fn new(places: Vec<Place>) -> Table {
        Table { permitted: LruCache::unbounded(), denied: LruCache::unbounded(), places }
    }

    fn list(&mut self, permitted: bool) -> &mut LruCache<HostName, u32> {
        if permitted { &mut self.permitted } else { &mut self.denied }
    }

    /// The place of a name, which counts as used and as what the policy says of it now.
    fn find(&mut self, name: &HostName, permitted: bool) -> Option<u32> {
        if let Some(&place) = self.list(permitted).get(name) {
            return Some(place);
        }
        let place = self.list(!permitted).pop(name)?;
        self.list(permitted).put(name.clone(), place);
        Some(place)
    }

    /// Frees the place of a denied name, or else of a permitted one that is long unused.
    fn evict(&mut self, permits: impl Fn(&HostName) -> bool, now: Instant) -> Option<u32> {
        while let Some((name, place)) = self.denied.pop_lru() {
            if !permits(&name) {
                return Some(place);
            }
            // The policy was replaced, or the table restored, since it was looked up.
            self.permitted.put(name, place);
        }
        let (_, &place) = self.permitted.peek_lru()?;
        let unused = now.saturating_duration_since(self.places[place as usize].used);
        if unused < RETENTION {
            return None;
        }
        self.permitted.pop_lru();
        Some(place)
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
mod tests;
