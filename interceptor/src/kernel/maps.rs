//! The maps as user space sees them: every key and value is an array of words, laid out by
//! `interceptor_ebpf`.

use std::collections::HashMap as StdHashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, SkStorage};
use interceptor_ebpf::layout::{NETWORK_WORDS, split};
use interceptor_ebpf::{Endpoint, Flow, Reported, Sandbox};

use super::KernelError;

type SandboxMap = HashMap<MapData, [u32; 2], [u32; Sandbox::WORDS]>;
type HalfOpenMap = HashMap<MapData, [u32; 2], [u32; 2]>;
type ReportMap = HashMap<MapData, [u32; 2], [u32; Reported::WORDS]>;
type FlowMap = HashMap<MapData, [u32; Flow::WORDS], [u32; Endpoint::WORDS]>;
type NetworkMap = LpmTrie<MapData, [u32; NETWORK_WORDS], u32>;
type OwnMap = SkStorage<MapData, [u32; 2]>;
type AcceptedMap = SkStorage<MapData, [u32; Endpoint::WORDS]>;

/// The maps user space accesses, in the order in which a hand-over passes their descriptors.
const NAMES: [&str; 7] =
    ["SANDBOX", "HALF_OPEN", "REPORTED", "FLOWS", "NETWORKS", "OWN", "ACCEPTED"];

/// A network's key in the trie: prefix length and words.
pub(super) type NetworkKey = (u32, [u32; NETWORK_WORDS]);

/// The maps of one program set.
#[derive(Debug)]
pub(super) struct Maps {
    /// In the order of [`NAMES`]; kept because aya's typed maps do not expose their descriptors.
    descriptors: Vec<OwnedFd>,
    sandboxes: Mutex<SandboxMap>,
    half_open: Mutex<HalfOpenMap>,
    reported: Mutex<ReportMap>,
    flows: Mutex<FlowMap>,
    networks: Mutex<NetworkMap>,
    own: Mutex<OwnMap>,
    accepted: AcceptedMap,
    /// Entries in NETWORKS; counting them in the kernel takes a system call each.
    networks_written: AtomicU64,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, KernelError> {
        let mut maps = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            maps.push(take(object, name)?);
        }
        Self::of(maps)
    }

    /// Opens another process's maps from their descriptors; refuses a different layout.
    pub(super) fn open(descriptors: Vec<OwnedFd>) -> Result<Self, KernelError> {
        let failed = |map, source| KernelError::Map {
            map,
            action: "opened from a descriptor handed over",
            source,
        };
        if descriptors.len() != NAMES.len() {
            return Err(KernelError::Incomplete { part: "the maps of the other process" });
        }
        let maps = NAMES.into_iter().zip(descriptors).map(|(name, descriptor)| {
            MapData::from_fd(descriptor)
                .and_then(Map::from_map_data)
                .map_err(|source| failed(name, source))
        });
        Self::of(maps.collect::<Result<_, _>>()?)
    }

    /// From maps in the order of [`NAMES`].
    fn of(maps: Vec<Map>) -> Result<Self, KernelError> {
        let descriptors = maps.iter().zip(NAMES).map(|(map, name)| duplicate(map, name));
        let descriptors = descriptors.collect::<Result<_, _>>()?;
        let mut maps = maps.into_iter();
        let mut next = |part| maps.next().ok_or(KernelError::Incomplete { part });
        // aya supports cgroup storage only with its older key. With the cgroup's id as the key,
        // lookup and update work as for a hash map.
        let sandboxes = match next("SANDBOX")? {
            Map::CgroupStorage(data) => Map::HashMap(data),
            other => other,
        };
        Ok(Self {
            descriptors,
            sandboxes: Mutex::new(typed("SANDBOX", sandboxes)?),
            half_open: Mutex::new(typed("HALF_OPEN", next("HALF_OPEN")?)?),
            reported: Mutex::new(typed("REPORTED", next("REPORTED")?)?),
            flows: Mutex::new(typed("FLOWS", next("FLOWS")?)?),
            networks: Mutex::new(typed("NETWORKS", next("NETWORKS")?)?),
            own: Mutex::new(typed("OWN", next("OWN")?)?),
            accepted: typed("ACCEPTED", next("ACCEPTED")?)?,
            networks_written: AtomicU64::new(0),
        })
    }

    /// The descriptors another process needs to adopt these maps: see [`Self::open`].
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.descriptors.iter().map(|descriptor| descriptor.as_fd()).collect()
    }

    /// The configuration of a cgroup's programs.
    pub(super) fn configuration(&self, cgroup_id: u64) -> Result<Sandbox, KernelError> {
        let words = lock(&self.sandboxes)
            .get(&split(cgroup_id), 0)
            .map_err(|source| KernelError::Map { map: "SANDBOX", action: "read", source })?;
        Ok(sandbox(&words))
    }

    /// The keys of every network set, by set number.
    pub(super) fn network_sets(&self) -> StdHashMap<u64, Vec<NetworkKey>> {
        let mut sets: StdHashMap<u64, Vec<NetworkKey>> = StdHashMap::new();
        for key in lock(&self.networks).keys().filter_map(Result::ok) {
            let words = key.data();
            sets.entry(join(words[0], words[1])).or_default().push((key.prefix_len(), words));
        }
        sets
    }

    /// Atomically configures the programs on a cgroup, which must have one of them attached.
    pub(super) fn configure(&self, cgroup_id: u64, sandbox: &Sandbox) -> Result<(), KernelError> {
        lock(&self.sandboxes)
            .insert(split(cgroup_id), sandbox.to_words(), 0)
            .map_err(|source| KernelError::Map { map: "SANDBOX", action: "written", source })
    }

    /// Creates a sandbox's counter of half-open connections; without it the sandbox can open none.
    pub(super) fn admit(&self, sandbox: u64) -> Result<(), KernelError> {
        lock(&self.half_open)
            .insert(split(sandbox), [0, 0], 0)
            .map_err(|source| KernelError::Map { map: "HALF_OPEN", action: "written", source })?;
        lock(&self.reported)
            .insert(split(sandbox), [0; Reported::WORDS], 0)
            .map_err(|source| KernelError::Map { map: "REPORTED", action: "written", source })
    }

    /// The number of a sandbox's refusals that were not reported.
    pub(super) fn dropped_reports(&self, sandbox: u64) -> u64 {
        lock(&self.reported).get(&split(sandbox), 0).map_or(0, dropped)
    }

    /// The number of half-open connections of a sandbox.
    pub(super) fn half_open(&self, sandbox: u64) -> Option<u64> {
        let [first, second] = lock(&self.half_open).get(&split(sandbox), 0).ok()?;
        Some(join(first, second))
    }

    /// Removes every entry of a sandbox that is gone. A missing entry is no error.
    pub(super) fn dismiss(&self, sandbox: u64) {
        let left_open = self.half_open(sandbox).unwrap_or(0);
        let _ = lock(&self.half_open).remove(&split(sandbox));
        let _ = lock(&self.reported).remove(&split(sandbox));
        if left_open == 0 {
            return;
        }
        let mut flows = lock(&self.flows);
        // Collect first, then remove: removing an entry restarts the iteration.
        let keys: Vec<_> = flows
            .keys()
            .filter_map(Result::ok)
            .filter(|key| Flow::sandbox_of(key) == split(sandbox))
            .collect();
        for key in keys {
            let _ = flows.remove(&key);
        }
    }

    /// The number of sandboxes, and the half-open connections of all of them.
    pub(super) fn half_open_of_all(&self) -> (u64, u64) {
        let keys: Vec<_> = lock(&self.half_open).keys().filter_map(Result::ok).collect();
        let open = keys.iter().filter_map(|[low, high]| {
            let [a, b] = [low.to_ne_bytes(), high.to_ne_bytes()];
            self.half_open(u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]))
        });
        (keys.len() as u64, open.sum())
    }

    /// The number of networks this process's sets have in the kernel.
    pub(super) fn networks_written(&self) -> u64 {
        self.networks_written.load(Ordering::Relaxed)
    }

    /// Counts networks that a set wrote or removed.
    pub(super) fn note_networks(&self, written: usize, removed: usize) {
        self.networks_written.fetch_add(written as u64, Ordering::Relaxed);
        self.networks_written.fetch_sub(removed as u64, Ordering::Relaxed);
    }

    /// The networks of all sets.
    pub(super) fn networks(&self) -> MutexGuard<'_, NetworkMap> {
        lock(&self.networks)
    }

    /// Marks a socket as the interceptor's own in a sandbox.
    pub(super) fn mark_own(&self, socket: BorrowedFd<'_>, sandbox: u64) -> Result<(), KernelError> {
        lock(&self.own).insert(&socket, split(sandbox), 0).map_err(|source| KernelError::Map {
            map: "OWN",
            action: "written",
            source,
        })
    }

    /// The original destination of an accepted socket; costs one system call.
    pub(super) fn accepted(&self, socket: BorrowedFd<'_>) -> Result<Option<SocketAddr>, MapError> {
        match self.accepted.get(&socket, 0) {
            Ok(words) => Ok(Some(Endpoint::from_words(words).into())),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of networks in all sets.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        lock(&self.networks).keys().filter_map(Result::ok).count()
    }

    /// The number of entries in FLOWS, across all sandboxes.
    #[cfg(test)]
    pub(super) fn flows(&self) -> usize {
        lock(&self.flows).keys().filter_map(Result::ok).count()
    }
}

/// Duplicates a map's descriptor.
fn duplicate(map: &Map, name: &'static str) -> Result<OwnedFd, KernelError> {
    use Map::{CgroupStorage, HashMap, LpmTrie, SkStorage};
    let (CgroupStorage(data) | HashMap(data) | LpmTrie(data) | SkStorage(data)) = map else {
        return Err(KernelError::Incomplete { part: name });
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| KernelError::Io { action: "copy a map's descriptor", source })
}

/// Joins the two words of a `u64` in a map; the inverse of [`split`].
fn join(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Decodes the drop count from the words of [`Reported`].
fn dropped(words: [u32; Reported::WORDS]) -> u64 {
    let [.., low, high] = words;
    join(low, high)
}

/// The inverse of [`Sandbox::to_words`].
fn sandbox(words: &[u32; Sandbox::WORDS]) -> Sandbox {
    let number = |index: usize| join(words[2 * index], words[2 * index + 1]);
    let endpoint = |index: usize| {
        let first = 6 + index * Endpoint::WORDS;
        let mut of = [0; Endpoint::WORDS];
        of.copy_from_slice(&words[first..first + Endpoint::WORDS]);
        Endpoint::from_words(of)
    };
    let last = 6 + 4 * Endpoint::WORDS;
    Sandbox {
        id: number(0),
        denied: number(1),
        allowed_loopback: number(2),
        tcp4: endpoint(0),
        tcp6: endpoint(1),
        dns4: endpoint(2),
        dns6: endpoint(3),
        flags: words[last],
        half_open_limit: words[last + 1],
    }
}

/// A map of the object.
fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    object.take_map(name).ok_or(KernelError::Incomplete { part: name })
}

/// Gives a map its key and value types; aya compares their sizes with the kernel's.
fn typed<T: TryFrom<Map, Error = MapError>>(
    name: &'static str,
    map: Map,
) -> Result<T, KernelError> {
    T::try_from(map).map_err(|source| KernelError::Map {
        map: name,
        action: "read with the types of this build",
        source,
    })
}

/// Locks a map. A panic leaves nothing half done between two system calls, so poisoning is ignored.
fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_are_told_can_be_read_back() {
        let mut words = [0; Sandbox::WORDS];
        words.iter_mut().zip(1_u32..).for_each(|(word, number)| *word = number * 0x0101_0101);
        assert_eq!(sandbox(&words).to_words(), words);
    }
}
