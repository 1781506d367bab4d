//! The maps, and the few ways in which the programs use them.

use core::arch::asm;
use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::{
    BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE,
    bpf_map_type::BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED,
};
use aya_ebpf::btf_maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::btf_maps::{HashMap, RingBuf, SkStorage};
use aya_ebpf::helpers::{
    bpf_get_local_storage, bpf_ktime_get_ns, bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::macros::btf_map;
use interceptor_ebpf::layout::{
    FLOWS_CAPACITY, NETWORK_WORDS, NETWORKS_CAPACITY, REPORT_LIMIT, REPORT_RING,
    REPORT_WINDOW_SHIFT, SANDBOXES_CAPACITY, network_words,
};
use interceptor_ebpf::{Endpoint, Flow, Redirection, Refusal, Reported, Sandbox};

/// The definition of a cgroup storage map whose key is the cgroup's id alone, so that all programs
/// attached to one cgroup share one value (Linux 5.9; `Documentation/bpf/map_cgroup_storage.rst`).
/// aya-ebpf defines only the older key, with which every hook has a value of its own.
#[repr(C)]
pub(crate) struct CgroupStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED as usize],
    key: *const u64,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 0],
}

// SAFETY: the pointers are never followed: they only carry types into the BTF from which the loader
// makes the map.
unsafe impl<T> Sync for CgroupStorage<T> {}

/// What user space says of each sandbox.
///
/// The kernel gives a program the storage of the cgroup *it was attached to*, not of the task that
/// runs nor of the cgroup, however deep below, in which a socket was born. So a sandbox may nest
/// cgroups as it likes, hand its sockets to whom it likes, and the hook that runs in soft-interrupt
/// context (`sock_ops`) finds the same value as `connect`.
#[btf_map]
static SANDBOX: CgroupStorage<Sandbox> = CgroupStorage {
    r#type: ptr::null(),
    key: ptr::null(),
    value: ptr::null(),
    max_entries: ptr::null(),
    map_flags: ptr::null(),
};

/// Networks that are denied, and loopback networks that are allowed: which, the set's number says.
#[btf_map]
static NETWORKS: LpmTrie<
    [u32; NETWORK_WORDS],
    u32,
    NETWORKS_CAPACITY,
    { BPF_F_NO_PREALLOC as usize },
> = LpmTrie::new();

/// Where a client's socket wanted to go, and was sent.
#[btf_map]
static REDIRECTED: SkStorage<Redirection> = SkStorage::new();

/// Where an accepted connection wanted to go: what the proxy reads.
#[btf_map]
static ACCEPTED: SkStorage<Endpoint> = SkStorage::new();

/// The interceptor's own sockets in the sandbox's cgroup, marked by user space with the sandbox's
/// id: its resolver may answer.
#[btf_map]
static OWN: SkStorage<u64> = SkStorage::new();

/// Connections between `connect` and their acceptance. Not an LRU: an evicted entry would be a
/// wrong answer.
#[btf_map]
static FLOWS: HashMap<Flow, Endpoint, FLOWS_CAPACITY, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// How many entries of FLOWS each sandbox has.
#[btf_map]
static HALF_OPEN: HashMap<u64, u64, SANDBOXES_CAPACITY, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// What was refused, on its way to user space.
#[btf_map]
static REFUSALS: RingBuf<Refusal, REPORT_RING> = RingBuf::new();

/// How much of each sandbox was reported, so that one that is refused in a loop neither fills the
/// ring nor keeps user space busy.
#[btf_map]
static REPORTED: HashMap<u64, Reported, SANDBOXES_CAPACITY, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The sandbox this program runs for; `None` until user space has configured it, and after it has
/// revoked it.
#[inline(always)]
pub(crate) fn sandbox<'a>() -> Option<&'a Sandbox> {
    // SAFETY: the helper never fails: the kernel gives every program that names the map a value at
    // attach. The value stays until the program ends (it is freed by RCU), and user space replaces
    // it as a whole.
    let sandbox = unsafe {
        &*bpf_get_local_storage(ptr::from_ref(&SANDBOX).cast_mut().cast(), 0).cast::<Sandbox>()
    };
    if sandbox.id == 0 { None } else { Some(sandbox) }
}

/// Whether a set of networks covers an address. Set 0 covers nothing.
#[inline(always)]
pub(crate) fn covers(set: u64, address: &[u32; 4]) -> bool {
    if set == 0 {
        return false;
    }
    NETWORKS.get(&Key::new(NETWORK_WORDS as u32 * u32::BITS, network_words(set, address))).is_some()
}

/// Remembers what is done to a client's socket; `false` when the kernel has no memory for it.
#[inline(always)]
pub(crate) fn remember(socket: *mut c_void, redirection: &Redirection) -> bool {
    // SAFETY: `socket` comes from the context, and the verifier checks it; the value has the map's
    // size.
    let stored = unsafe {
        bpf_sk_storage_get(
            map(&REDIRECTED),
            socket,
            ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    }
    .cast::<Redirection>();
    if stored.is_null() {
        return false;
    }
    // SAFETY: not null, so it is this socket's value. A program on another CPU may write it at the
    // same time (two threads of the sandbox on one socket): each word is one that one of them asked
    // for, and only they are affected.
    unsafe { *stored = *redirection };
    true
}

/// What was done to a client's socket.
#[inline(always)]
pub(crate) fn remembered<'a>(socket: *mut c_void) -> Option<&'a Redirection> {
    // SAFETY: as in `remember`; without the create flag no value is passed.
    let stored = unsafe { bpf_sk_storage_get(map(&REDIRECTED), socket, ptr::null_mut(), 0) }
        .cast::<Redirection>();
    // SAFETY: null, or this socket's value.
    unsafe { stored.as_ref() }
}

/// Forgets what was done to a client's socket.
#[inline(always)]
pub(crate) fn forget(socket: *mut c_void) {
    // SAFETY: as in `remember`. That there was nothing to forget is no error.
    unsafe { bpf_sk_storage_delete(map(&REDIRECTED), socket) };
}

/// Whether user space has marked the socket as the interceptor's own in this sandbox.
#[inline(always)]
pub(crate) fn is_own(socket: *mut c_void, sandbox: &Sandbox) -> bool {
    // SAFETY: as in `remember`.
    let stored = unsafe { bpf_sk_storage_get(map(&OWN), socket, ptr::null_mut(), 0) }.cast::<u64>();
    // SAFETY: null, or this socket's value.
    unsafe { stored.as_ref() }.is_some_and(|mark| *mark == sandbox.id)
}

/// Gives an accepted socket its original destination.
#[inline(always)]
pub(crate) fn hand_over(socket: *mut c_void, original: &Endpoint) {
    let mut value = *original;
    // SAFETY: as in `remember`; the value is copied. If there is no memory, no record is there, and
    // the proxy closes.
    unsafe {
        bpf_sk_storage_get(
            map(&ACCEPTED),
            socket,
            ptr::from_mut(&mut value).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
}

/// A sandbox's count of half-open connections.
pub(crate) struct HalfOpen(*mut u64);

impl HalfOpen {
    /// Of a sandbox; `None` for one that user space has removed.
    #[inline(always)]
    pub(crate) fn of(sandbox: u64) -> Option<Self> {
        HALF_OPEN.get_ptr_mut(sandbox).map(Self)
    }

    /// The count at this moment.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        // SAFETY: a value of the map, aligned, valid until the program ends.
        unsafe { ptr::read_volatile(self.0) }
    }

    /// Adds atomically.
    #[inline(always)]
    fn add(&self, number: i64) {
        // SAFETY: as in `get`.
        unsafe { add(self.0, number) }
    }
}

/// Adds to a word of a map's value atomically. By hand, since `core` has no read-modify-write for
/// this target.
///
/// # Safety
///
/// `word` lies in a value of a map, aligned.
#[inline(always)]
unsafe fn add(word: *mut u64, number: i64) {
    // SAFETY: the caller's promise; the instruction is atomic (`BPF_XADD`, Linux 3.18).
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) word, number = in(reg) number,
             options(nostack, preserves_flags));
    }
}

/// Reports a refusal, or counts it as one that was not.
#[inline(always)]
pub(crate) fn report(refusal: &Refusal) {
    let Some(reported) = REPORTED.get_ptr_mut(refusal.sandbox) else { return };
    // SAFETY: the helper takes nothing.
    let window = unsafe { bpf_ktime_get_ns() } >> REPORT_WINDOW_SHIFT;
    // SAFETY: the fields of a value of the map, aligned, valid until the program ends. Two CPUs
    // that begin a window at the same time may let a few more through than the limit: it bounds, it
    // does not count.
    unsafe {
        if ptr::read_volatile(&raw const (*reported).window) != window {
            ptr::write_volatile(&raw mut (*reported).window, window);
            ptr::write_volatile(&raw mut (*reported).reported, 0);
        }
        if ptr::read_volatile(&raw const (*reported).reported) < REPORT_LIMIT {
            add(&raw mut (*reported).reported, 1);
            if REFUSALS.output(refusal, 0).is_ok() {
                return;
            }
        }
        add(&raw mut (*reported).dropped, 1);
    }
}

/// Enters a connection into FLOWS, or writes over the entry of one whose addresses it took over.
#[inline(always)]
pub(crate) fn open_flow(flow: &Flow, original: &Endpoint) {
    let Some(count) = HalfOpen::of(flow.sandbox) else { return };
    if FLOWS.insert(flow, original, BPF_NOEXIST.into()).is_ok() {
        count.add(1);
    } else {
        // It exists, or the map is full: then this fails too, no record is there, and the proxy
        // closes.
        let _ = FLOWS.insert(flow, original, aya_ebpf::bindings::BPF_EXIST.into());
    }
}

/// The original destination of a connection in FLOWS.
#[inline(always)]
pub(crate) fn flow(flow: &Flow) -> Option<Endpoint> {
    // SAFETY: the value is copied at once. An entry is removed and reused only by the connection
    // with these very addresses.
    unsafe { FLOWS.get(flow) }.copied()
}

/// Removes a connection from FLOWS; whoever removes the entry, and only they, takes it off the
/// count.
#[inline(always)]
pub(crate) fn close_flow(flow: &Flow) {
    if FLOWS.remove(flow).is_ok()
        && let Some(count) = HalfOpen::of(flow.sandbox)
    {
        count.add(-1);
    }
}

/// The pointer by which the helpers know a map.
#[inline(always)]
fn map<T>(map: &SkStorage<T>) -> *mut c_void {
    ptr::from_ref(map).cast_mut().cast()
}
