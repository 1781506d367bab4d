//! Writes a placeholder in the spelling that the key had.
//!
//! If key and placeholder are equally long, the replacement is exactly as long as the original:
//! separators and line breaks keep their positions, and escapes become escapes of the placeholder's
//! characters. Escapes move to the front, so that their positions do not reveal which characters of
//! the key need one. An escape that can only stand for one character (`\/`) is dropped, and `-` at
//! the end pads the difference.

use std::ops::Range;

use zeroize::Zeroizing;

use super::escape::{Reading, may_escape, unescape};
use super::pattern::{Encoding, Pattern};
use super::wide;

/// Appends to `out` the replacement for a match whose characters are at `spans` of `text`.
pub(super) fn write(out: &mut Vec<u8>, text: &[u8], spans: &[Range<usize>], pattern: &Pattern) {
    if wide::is_wide(text, spans) {
        let (text, spans) = wide::narrowed(text, spans);
        let mut narrow = Zeroizing::new(Vec::new());
        write(&mut narrow, &text, &spans, pattern);
        return wide::widen(out, &narrow);
    }
    let gaps: Vec<&[u8]> = spans.windows(2).map(|pair| &text[pair[0].end..pair[1].start]).collect();
    let raw: Zeroizing<Vec<u8>> = Zeroizing::new(
        spans.iter().filter(|span| span.len() == 1).map(|span| text[span.start]).collect(),
    );
    let with = &pattern.replacement(&raw);
    if with.len() != spans.len() {
        for (at, byte) in with.iter().enumerate() {
            out.push(*byte);
            if at + 1 < with.len() && !gaps.is_empty() {
                out.extend_from_slice(gaps[at % gaps.len()]);
            }
        }
        return;
    }
    let mut order: Vec<&[u8]> = spans.iter().map(|span| &text[span.clone()]).collect();
    order.sort_by_key(|raw| std::cmp::Reverse(raw.len()));
    let mut spare = 0;
    for (at, (raw, byte)) in order.iter().zip(with.iter()).enumerate() {
        match respelt(raw, *byte) {
            Some(escape) => out.extend_from_slice(&escape),
            // A different base64 character (`\/`) does no harm to the text after it; an additional
            // one would.
            None if pattern.encoding == Encoding::Base64 && raw.len() == 2 => {
                out.extend_from_slice(raw)
            }
            None => {
                out.push(*byte);
                spare += raw.len() - 1;
            }
        }
        out.extend_from_slice(gaps.get(at).copied().unwrap_or_default());
    }
    out.extend(std::iter::repeat_n(b'-', spare));
}

/// `byte` as an escape like `raw`, of the same length.
fn respelt(raw: &[u8], byte: u8) -> Option<Vec<u8>> {
    if raw.len() == 1 {
        return Some(vec![byte]);
    }
    // What follows is unknown here, and might continue a reference without a semicolon.
    if raw.starts_with(b"&") && !raw.ends_with(b";") {
        return None;
    }
    let mut escape = raw.to_vec();
    let end = raw.len() - usize::from(matches!(raw.last(), Some(b';' | b'}')));
    let upper = raw.iter().any(|digit| (b'A'..=b'F').contains(digit));
    let hex = if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
    if end > 2 {
        escape[end - 2..end].copy_from_slice(hex.as_bytes());
        if means(&escape, byte) {
            return Some(escape);
        }
    }
    let reference = format!("&#{byte:0width$};", width = raw.len().saturating_sub(3));
    let fits = raw.starts_with(b"&") && reference.len() == raw.len();
    (fits && means(reference.as_bytes(), byte)).then(|| reference.into_bytes())
}

/// Whether undoing escapes, at any depth, leaves just this.
fn means(escape: &[u8], byte: u8) -> bool {
    let mut text = unescape(escape, Reading::All).bytes;
    for _ in 1..super::LEVELS {
        if !may_escape(&text) {
            break;
        }
        text = unescape(&text, Reading::All).bytes;
    }
    **text == [byte]
}
