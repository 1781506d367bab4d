//! WebSocket frames from an origin: however they are cut, the output is the same, consists of
//! frames, carries the original messages, and contains no key.

use std::sync::LazyLock;

use bytes::Bytes;
use interceptor_policy::redact::{Ended, Redactor};

use crate::pieces;

const KEY: &str = "sk-Rx8~c1f0/b6d2e+A9zQ77==";
const PLACEHOLDER: &str = "sk-proxy-managed-0123456ab";

static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| {
    Redactor::of([(KEY.as_bytes(), PLACEHOLDER.as_bytes())].into_iter()).expect("one key")
});

/// Checks bytes from an origin. 0xff stands for a key, and 0xfe with a length for the beginning of
/// one.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let Some((lengths, data)) = pieces::read(data) else { return };
    let mut sent = Vec::new();
    let mut rest = data.iter();
    while let Some(byte) = rest.next() {
        match byte {
            0xff => sent.extend_from_slice(KEY.as_bytes()),
            0xfe => {
                let length = usize::from(*rest.next().unwrap_or(&0)).min(KEY.len());
                sent.extend_from_slice(&KEY.as_bytes()[..length]);
            }
            other => sent.push(*other),
        }
    }
    let (whole, ended) = guarded(&sent, &[usize::MAX]);
    let passed = messages(&whole);
    for lengths in [&lengths[..], &[1]] {
        let (cut, again) = guarded(&sent, lengths);
        let cut = messages(&cut);
        assert_eq!(ended, again);
        // A message may be cut into other frames but has the same payload. If the connection ends,
        // more of it may have passed before.
        for (one, other) in [(&passed.data, &cut.data), (&passed.control, &cut.control)] {
            assert!(ended.is_some() || one == other, "{one:?} {other:?}");
            for ((kind, _, one), (other_kind, _, other)) in one.iter().zip(other) {
                assert_eq!(kind, other_kind);
                assert!(one.starts_with(other) || other.starts_with(one), "{one:?} {other:?}");
            }
        }
    }
    for (_, _, payload) in passed.data.iter().chain(&passed.control) {
        assert!(!payload.windows(KEY.len()).any(|part| part == KEY.as_bytes()));
    }
    if ended.is_none() {
        assert_eq!(passed, messages(&sent));
    }
}

fn guarded(sent: &[u8], lengths: &[usize]) -> (Vec<u8>, Option<Ended>) {
    let mut guard = REDACTOR.web_socket();
    let mut passed = Vec::new();
    for piece in pieces::cut(sent, lengths) {
        match guard.push(Bytes::copy_from_slice(piece)) {
            Ok(bytes) => passed.extend_from_slice(&bytes),
            Err(ended) => return (passed, Some(ended)),
        }
    }
    match guard.finish() {
        Ok(bytes) => passed.extend_from_slice(&bytes),
        Err(ended) => return (passed, Some(ended)),
    }
    (passed, None)
}

/// The messages in order, and the control frames: kind, whether it is complete, payload.
#[derive(Debug, Default, PartialEq)]
struct Messages {
    data: Vec<(u8, bool, Vec<u8>)>,
    control: Vec<(u8, bool, Vec<u8>)>,
}

fn messages(mut bytes: &[u8]) -> Messages {
    let mut all = Messages::default();
    let mut open: Option<(u8, Vec<u8>)> = None;
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            (126 | 127, _) => break,
            (length, rest) => (u64::from(length), rest),
        };
        let there = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        let cut = (there as u64) < length;
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        if opcode & 8 != 0 {
            if !cut {
                all.control.push((opcode, true, rest[..there].to_vec()));
            }
        } else {
            let (_, payload) = open.get_or_insert_with(|| (opcode, Vec::new()));
            payload.extend_from_slice(&rest[..there]);
            if last && !cut {
                all.data.extend(open.take().map(|(opcode, payload)| (opcode, true, payload)));
            }
        }
        bytes = &rest[there..];
    }
    let broken = open.filter(|(_, payload)| !payload.is_empty());
    all.data.extend(broken.map(|(opcode, payload)| (opcode, false, payload)));
    all
}
