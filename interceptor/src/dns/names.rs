//! The table of names and the synthetic addresses that stand for them.
//!
//! Every name a sandbox looks up gets a slot in the table, and with it one address per family: the
//! same offset into 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180), ranges without real hosts.
//! When a connection to the address arrives, it maps back to the name. Each sandbox has its own
//! table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use interceptor_policy::{Host, HostName};
use lru::LruCache;

/// 198.18.0.0/15.
const V4: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// 2001:2::/48.
const V6: u128 = 0x2001_0002 << 96;

/// The first and last 256 addresses are reserved (self-test, resolver).
const RESERVED: u32 = 256;
/// The number of slots in the range.
const SLOTS: u32 = (1 << 17) - 2 * RESERVED;

/// The maximum number of names in use within [`RETENTION`].
const CAPACITY: u32 = 32_768;
/// How long a name keeps its slot after its last lookup or connection: far longer than the TTL,
/// because clients cache addresses beyond it.
const RETENTION: Duration = Duration::from_secs(3600);

/// Which synthetic address stands for which name, for one sandbox.
pub(crate) struct Names {
    table: Mutex<NameTable>,
    capacity: u32,
}

/// Denied names have slots too, so that the refusal can be explained over HTTP. They are kept
/// apart: a sandbox can invent denied names quickly, and they must not displace permitted ones.
struct NameTable {
    /// Names permitted at their last lookup. The least recently used is evicted first, and only
    /// after [`RETENTION`].
    permitted: LruCache<HostName, u32>,
    /// The other names. The least recently used is evicted as soon as a slot is needed.
    denied: LruCache<HostName, u32>,
    slots: Vec<AddressSlot>,
}

struct AddressSlot {
    name: HostName,
    used: Instant,
}

impl Names {
    /// An empty table.
    pub(crate) fn new() -> Names {
        Names::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: u32) -> Names {
        Names { table: Mutex::new(NameTable::new(Vec::new())), capacity: capacity.min(SLOTS) }
    }

    /// The stable addresses that stand for `name`. `permits` tells whether the current policy
    /// permits a name. `None` if every slot belongs to a permitted name used within the last hour.
    pub(crate) fn addresses(
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
        if let Some(slot) = table.find(name, permitted) {
            table.slots[slot as usize].used = now;
            return Some(addresses_of(slot));
        }
        let taken = AddressSlot { name: name.clone(), used: now };
        let used = table.slots.len() as u32; // at most SLOTS
        let slot = if used < self.capacity {
            table.slots.push(taken);
            used
        } else {
            let slot = table.evict(&permits, now)?;
            table.slots[slot as usize] = taken;
            slot
        };
        table.list(permitted).put(name.clone(), slot);
        Some(addresses_of(slot))
    }

    /// The name that `address` stands for; `None` if it was not assigned.
    pub(crate) fn name_of(&self, address: IpAddr) -> Option<HostName> {
        self.name_of_at(address, Instant::now())
    }

    fn name_of_at(&self, address: IpAddr, now: Instant) -> Option<HostName> {
        let slot = slot_of(address)?;
        let mut guard = self.lock();
        let table = &mut *guard;
        let found = table.slots.get_mut(slot as usize)?;
        found.used = now;
        table.permitted.promote(&found.name);
        table.denied.promote(&found.name);
        Some(found.name.clone())
    }

    /// The names by slot, each with the time since its last use, for [`Names::restore`].
    pub(crate) fn snapshot(&self) -> Vec<(String, Duration)> {
        let table = self.lock();
        let now = Instant::now();
        let row = |slot: &AddressSlot| {
            (slot.name.as_str().to_owned(), now.saturating_duration_since(slot.used))
        };
        table.slots.iter().map(row).collect()
    }

    /// Restores a table in which every name keeps its addresses. `None` if there are too many
    /// names, an invalid one or a duplicate.
    pub(crate) fn restore(rows: Vec<(String, Duration)>) -> Option<Names> {
        if rows.len() > CAPACITY as usize {
            return None;
        }
        let now = Instant::now();
        let mut table = NameTable::new(Vec::with_capacity(rows.len()));
        let mut by_age = Vec::with_capacity(rows.len());
        for (slot, (text, age)) in (0_u32..).zip(rows) {
            let Ok(Host::Name(name)) = Host::parse(&text) else { return None };
            by_age.push((age, name.clone(), slot));
            // The monotonic clock may not reach back that far after a boot.
            table.slots.push(AddressSlot { name, used: now.checked_sub(age).unwrap_or(now) });
        }
        by_age.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        for (_, name, slot) in by_age {
            // The policy is consulted before any of them is evicted.
            if table.denied.put(name, slot).is_some() {
                return None;
            }
        }
        Some(Names { table: Mutex::new(table), capacity: CAPACITY })
    }

    // After a panic under the lock, at worst a name is missing.
    fn lock(&self) -> MutexGuard<'_, NameTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameTable {
    fn new(slots: Vec<AddressSlot>) -> NameTable {
        NameTable { permitted: LruCache::unbounded(), denied: LruCache::unbounded(), slots }
    }

    fn list(&mut self, permitted: bool) -> &mut LruCache<HostName, u32> {
        if permitted { &mut self.permitted } else { &mut self.denied }
    }

    /// The slot of a name. Marks it as used, and as permitted or denied.
    fn find(&mut self, name: &HostName, permitted: bool) -> Option<u32> {
        if let Some(&slot) = self.list(permitted).get(name) {
            return Some(slot);
        }
        let slot = self.list(!permitted).pop(name)?;
        self.list(permitted).put(name.clone(), slot);
        Some(slot)
    }

    /// Frees the slot of a denied name, or of a permitted one unused for [`RETENTION`].
    fn evict(&mut self, permits: impl Fn(&HostName) -> bool, now: Instant) -> Option<u32> {
        while let Some((name, slot)) = self.denied.pop_lru() {
            if !permits(&name) {
                return Some(slot);
            }
            // The policy changed, or the table was restored, since its lookup.
            self.permitted.put(name, slot);
        }
        let (_, &slot) = self.permitted.peek_lru()?;
        let unused = now.saturating_duration_since(self.slots[slot as usize].used);
        if unused < RETENTION {
            return None;
        }
        self.permitted.pop_lru();
        Some(slot)
    }
}

impl Default for Names {
    fn default() -> Names {
        Names::new()
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("used", &self.lock().slots.len()).finish_non_exhaustive()
    }
}

fn addresses_of(slot: u32) -> (Ipv4Addr, Ipv6Addr) {
    let offset = slot + RESERVED;
    (Ipv4Addr::from_bits(V4 + offset), Ipv6Addr::from_bits(V6 + u128::from(offset)))
}

fn slot_of(address: IpAddr) -> Option<u32> {
    let offset = match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().checked_sub(V4)?,
        IpAddr::V6(address) => u32::try_from(address.to_bits().checked_sub(V6)?).ok()?,
    };
    offset.checked_sub(RESERVED).filter(|&slot| slot < SLOTS)
}

#[cfg(test)]
mod tests;
