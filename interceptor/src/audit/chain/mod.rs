//! The hash chain over an audit file: each line carries a MAC of its content and of the MAC of the
//! line before.
//!
//! A sealed line is a record's line with two more fields at its end: `seq`, which counts from 0 in
//! each chain, and `mac`, the HMAC-SHA256 in lower-case hex over the 32 bytes of the previous
//! line's MAC followed by the bytes of this line before `,"mac"`. Records of kind `lifecycle` and
//! sandbox `-` mark where a chain starts, continues and ends:
//!
//! | `type` | stands | its MAC binds to |
//! | --- | --- | --- |
//! | `audit_chain_started` | first in a file | nothing: 32 zero bytes; `seq` is 0 |
//! | `audit_chain_rotated` | first in a file, after a rotation | the last line of the file before, whose MAC it repeats as `prev` |
//! | `audit_chain_resumed` | within a file, after a restart | the line before |
//! | `audit_chain_ended` | last, when the writer ended in good order | the line before |
//!
//! A chain cannot show that lines were cut off its end, unless it is known to have a closing
//! record.

mod key;
mod seal;
#[cfg(test)]
mod tests;
mod verify;

pub use key::{ChainKey, ChainKeyError};
pub(super) use seal::{Chain, Position};
pub use verify::{ChainVerifier, Chained, Fault, Flaw, Note};

/// A MAC, in bytes.
type Mac = [u8; 32];

/// What the first record of a chain binds to.
const ORIGIN: Mac = [0; 32];
/// The sandbox field of the chain's own records.
const NO_SANDBOX: &str = "-";

const STARTED: &str = "audit_chain_started";
const ROTATED: &str = "audit_chain_rotated";
const RESUMED: &str = "audit_chain_resumed";
const ENDED: &str = "audit_chain_ended";

/// The text between a line's content and its MAC.
const BEFORE_MAC: &[u8] = b",\"mac\":\"";
/// The text after the MAC, without the line feed.
const AFTER_MAC: &[u8] = b"\"}";

/// Splits a line, without its line feed, into the content that its MAC covers and the MAC. `None`
/// unless the MAC has exactly the written form.
fn split(line: &[u8]) -> Option<(&[u8], Mac)> {
    let (rest, digits) = line.strip_suffix(AFTER_MAC)?.split_last_chunk::<64>()?;
    Some((rest.strip_suffix(BEFORE_MAC)?, from_hex(digits)?))
}

/// Appends a MAC in hex.
fn push_hex(out: &mut String, mac: &Mac) {
    for byte in mac {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
}

/// Parses a MAC: 64 lower-case digits, so that each MAC has one form.
fn from_hex(digits: &[u8; 64]) -> Option<Mac> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut mac = ORIGIN;
    for (byte, pair) in mac.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(mac)
}
