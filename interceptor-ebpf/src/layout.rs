//! Keys and values of the maps. No field needs padding, so a value is exactly its words.

use crate::Endpoint;

/// The sandbox shares its network namespace with others: loopback is not its own.
pub const SHARED_NETNS: u32 = 1;

/// User space wants to hear of what is refused: set when the self-test has passed, whose refusals
/// are nobody's business.
pub const REPORTS: u32 = 2;

/// How many refusals of one sandbox are reported in one [`REPORT_WINDOW_SHIFT`]; those beyond are
/// only counted.
pub const REPORT_LIMIT: u64 = 1024;

/// The length of the window as a power of two of nanoseconds: 2^30, a little more than a second.
pub const REPORT_WINDOW_SHIFT: u32 = 30;

/// Bytes of the ring in which reports wait for user space: some five thousand.
pub const REPORT_RING: usize = 256 * 1024;

/// How many connections of one sandbox may be between `connect` and their acceptance. A connection
/// is in this state for microseconds; a sandbox that holds more has stopped listening to the
/// answers, or floods.
pub const HALF_OPEN_LIMIT: u32 = 1024;

/// How many half-open connections all sandboxes together may have: a thousand sandboxes at their
/// limit.
pub const FLOWS_CAPACITY: usize = 1 << 20;

/// How many networks all sandboxes together may deny. Entries cost memory only when they exist.
pub const NETWORKS_CAPACITY: usize = 1 << 22;

/// How many sandboxes one program set serves.
pub const SANDBOXES_CAPACITY: usize = 1 << 16;

/// Words of a network's key: the set it belongs to, the family (4 or 6), then the address. The
/// family keeps `::/1` from covering IPv4, whose addresses are in their mapped form. The LPM trie's
/// own `prefixlen` counts all of it.
pub const NETWORK_WORDS: usize = 7;

/// What the programs know of one sandbox: the value of its cgroup's local storage. All zero (as the
/// kernel makes it at attach) means "not configured": everything is refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Identifies this attachment; never 0 and never used twice, unlike a cgroup's path.
    pub id: u64,
    /// The set of networks that `connect` refuses; 0 when there is none.
    pub denied: u64,
    /// The set of loopback networks that may be asked for in a shared namespace; 0 when there is
    /// none.
    pub allowed_loopback: u64,
    /// Where TCP over IPv4 goes.
    pub tcp4: Endpoint,
    /// Where TCP over IPv6 goes, if there is such a listener.
    pub tcp6: Endpoint,
    /// Where UDP port 53 over IPv4 goes.
    pub dns4: Endpoint,
    /// Where UDP port 53 over IPv6 goes, if there is such a resolver.
    pub dns6: Endpoint,
    /// [`SHARED_NETNS`], [`REPORTS`].
    pub flags: u32,
    /// How many half-open connections it may have.
    pub half_open_limit: u32,
}

impl Sandbox {
    /// How many words it takes in a map.
    pub const WORDS: usize = 6 + 4 * Endpoint::WORDS + 2;

    /// Whether loopback belongs to others too.
    #[inline(always)]
    pub const fn shares_netns(&self) -> bool {
        self.flags & SHARED_NETNS != 0
    }

    /// Whether refusals are reported.
    #[inline(always)]
    pub const fn reports(&self) -> bool {
        self.flags & REPORTS != 0
    }

    /// The words for a map.
    pub fn to_words(&self) -> [u32; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        let endpoints = [self.tcp4, self.tcp6, self.dns4, self.dns6];
        let ids = [self.id, self.denied, self.allowed_loopback];
        let all = ids
            .into_iter()
            .flat_map(split)
            .chain(endpoints.iter().flat_map(Endpoint::to_words))
            .chain([self.flags, self.half_open_limit]);
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        words
    }
}

/// A `u64` as the two words it takes in memory.
#[inline(always)]
pub const fn split(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// The words of a network's key.
#[inline(always)]
pub const fn network_words(set: u64, address: &[u32; 4]) -> [u32; NETWORK_WORDS] {
    let [a, b] = split(set);
    let family = if (Endpoint { address: *address, port: 0 }).is_v4() { 4 } else { 6 };
    [a, b, family, address[0], address[1], address[2], address[3]]
}

/// What was done to a client's socket, in that socket's storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirection {
    /// Where the sandbox wanted to go.
    pub original: Endpoint,
    /// Where it was sent.
    pub target: Endpoint,
}

/// One connection between `connect` and its acceptance, seen from either end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The sandbox of the end that looks.
    pub sandbox: u64,
    /// The network namespace: a sandbox may make nested ones, where the same addresses mean other
    /// sockets.
    pub netns: u64,
    /// The address of the end that called `connect`.
    pub client: [u32; 4],
    /// The address of the listener.
    pub server: [u32; 4],
    /// The client's port, host order.
    pub client_port: u32,
    /// The listener's port, host order.
    pub server_port: u32,
}

impl Flow {
    /// How many words it takes in a map.
    pub const WORDS: usize = 14;

    /// The sandbox of a key in words.
    pub const fn sandbox_of(words: &[u32; Self::WORDS]) -> [u32; 2] {
        [words[0], words[1]]
    }
}

/// Why a hook refused.
pub mod cause {
    /// A deny network covers the address, or it is loopback that is not the sandbox's own.
    pub const NETWORK: u32 = 1;
    /// What the socket speaks is neither TCP nor DNS over UDP.
    pub const PROTOCOL: u32 = 2;
    /// A socket of a protocol that cannot be redirected; there is no destination yet.
    pub const SOCKET: u32 = 3;
    /// The sandbox has as many half-open connections as it may have.
    pub const LIMIT: u32 = 4;
    /// Nobody of the interceptor listens at the target, or the kernel has no memory for the record.
    pub const UNSERVED: u32 = 5;
}

/// One refusal, as the ring carries it to user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Of which attachment.
    pub sandbox: u64,
    /// Why: a constant of [`cause`].
    pub cause: u32,
    /// `SOCK_STREAM` …
    pub kind: u32,
    /// `IPPROTO_TCP` …
    pub protocol: u32,
    /// Where to; nothing for a socket that was not made.
    pub destination: Endpoint,
}

impl Refusal {
    /// How many words it takes.
    pub const WORDS: usize = 5 + Endpoint::WORDS;

    /// From the bytes of the ring; `None` for a size of another build.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut words = [0; Self::WORDS];
        let (chunks, rest) = bytes.as_chunks::<4>();
        if chunks.len() != Self::WORDS || !rest.is_empty() {
            return None;
        }
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u32::from_ne_bytes(*chunk);
        }
        let [low, high, cause, kind, protocol, a, b, c, d, port] = words;
        Some(Self {
            sandbox: join([low, high]),
            cause,
            kind,
            protocol,
            destination: Endpoint { address: [a, b, c, d], port },
        })
    }
}

/// How much of a sandbox was reported lately.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// The window's number.
    pub window: u64,
    /// Reports in this window.
    pub reported: u64,
    /// Refusals that were not reported, since the attachment began.
    pub dropped: u64,
}

impl Reported {
    /// How many words it takes in a map.
    pub const WORDS: usize = 6;
}

/// The `u64` of two words.
#[inline(always)]
pub const fn join(words: [u32; 2]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (words[0].to_ne_bytes(), words[1].to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let words: [u32; Refusal::WORDS] = [1, 0, cause::NETWORK, 1, 6, 10, 11, 12, 13, 443];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let refusal = Refusal::from_bytes(&bytes).unwrap();
        assert_eq!(
            (split(refusal.sandbox), refusal.cause, refusal.protocol),
            ([1, 0], cause::NETWORK, 6)
        );
        assert_eq!(refusal.destination, Endpoint { address: [10, 11, 12, 13], port: 443 });
        for length in [0, 4, bytes.len() - 1] {
            assert_eq!(Refusal::from_bytes(&bytes[..length]), None);
        }
        assert_eq!(join(split(0x0102_0304_0506_0708)), 0x0102_0304_0506_0708);
    }

    #[test]
    fn no_value_has_padding() {
        assert_eq!(size_of::<Endpoint>(), 4 * Endpoint::WORDS);
        assert_eq!(size_of::<Sandbox>(), 4 * Sandbox::WORDS);
        assert_eq!(size_of::<Redirection>(), 8 * Endpoint::WORDS);
        assert_eq!(size_of::<Flow>(), 4 * Flow::WORDS);
        assert_eq!(size_of::<Refusal>(), 4 * Refusal::WORDS);
        assert_eq!(size_of::<Reported>(), 4 * Reported::WORDS);
    }

    #[test]
    fn a_network_of_one_family_is_none_of_the_other() {
        let v4 = network_words(1, &Endpoint::v4(0, 0).address);
        let v6 = network_words(1, &[0; 4]);
        assert_ne!(v4[..3], v6[..3]);
    }

    #[test]
    fn words_stand_where_the_fields_stand() {
        let sandbox = Sandbox {
            id: 0x0102_0304_0506_0708,
            denied: 9,
            tcp4: Endpoint { address: [10, 11, 12, 13], port: 14 },
            dns6: Endpoint { address: [20, 21, 22, 23], port: 24 },
            flags: SHARED_NETNS,
            half_open_limit: 99,
            ..Sandbox::default()
        };
        let words = sandbox.to_words();
        let word = |offset: usize| words[offset / 4];
        assert_eq!([word(0), word(4)], split(sandbox.id));
        assert_eq!([word(core::mem::offset_of!(Sandbox, denied)), 0], split(9));
        assert_eq!(
            word(core::mem::offset_of!(Sandbox, tcp4) + core::mem::offset_of!(Endpoint, port)),
            14
        );
        assert_eq!(word(core::mem::offset_of!(Sandbox, dns6)), 20);
        assert_eq!(word(core::mem::offset_of!(Sandbox, flags)), SHARED_NETNS);
        assert_eq!(word(core::mem::offset_of!(Sandbox, half_open_limit)), 99);
    }
}
