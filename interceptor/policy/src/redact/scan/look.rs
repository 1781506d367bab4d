//! Where a text may have escapes that matter: a look at every byte, many at once.

use memchr::memchr3;

/// How much text is decided on together.
const PART: usize = 512;
/// How many bytes are compared without a branch.
const BLOCK: usize = 64;

const HIGH: u64 = u64::MAX / 0xff * 0x80;

/// Calls `at` with the place of each byte that begins an escape, from left to right; those that
/// are obviously of no account are left out unless `every` is wanted: `\n`, `\"` and the like.
///
/// A spelling with escapes is at least `shortest` bytes long, and all of it is ASCII.
pub(super) fn look_for_escapes(text: &[u8], shortest: usize, every: bool, mut at: impl FnMut(usize)) {
    let step = shortest.saturating_sub(7).clamp(1, 32);
    let mut from = 0;
    while from < text.len() {
        let end = text.len().min(from + PART);
        let around = from.saturating_sub(64)..text.len().min(end + 64);
        let mut ascii = every;
        while from < end {
            let first = memchr3(b'%', b'\\', b'&', &text[from..end]);
            ascii = ascii
                || first.is_some_and(|first| {
                    is_ascii(&text[..from + first]) || has_ascii(&text[around.clone()], step)
                });
            from = match first.map(|first| from + first) {
                Some(escape) if every => {
                    at(escape);
                    escape + 1
                }
                Some(escape) if ascii => part(text, escape, end, &mut at),
                _ => end,
            };
        }
    }
}

/// Whether the last eight bytes are all ASCII.
fn is_ascii(text: &[u8]) -> bool {
    text.last_chunk().is_some_and(|word| u64::from_le_bytes(*word) & HIGH == 0)
}

/// Whether eight bytes in a row, at distances of `step`, are all ASCII.
fn has_ascii(text: &[u8], step: usize) -> bool {
    let mut any = text.len() < 128;
    let mut from = 0;
    while let Some(word) = text.get(from..).and_then(|rest| rest.first_chunk()) {
        any |= u64::from_le_bytes(*word) & HIGH == 0;
        from += step;
    }
    any
}

/// Reports the escapes from `from` on in whole blocks, up to one without any or to `end`, and gives
/// where it stopped.
fn part(text: &[u8], from: usize, end: usize, at: &mut impl FnMut(usize)) -> usize {
    let mut here = from;
    while here < end {
        let block = text[here..].first_chunk::<BLOCK>();
        let next = text[here + 1..].first_chunk::<BLOCK>();
        let (Some(block), Some(next)) = (block, next) else {
            let last =
                (here..text.len()).filter(|at| may_tell(text[*at], text.get(at + 1).copied().unwrap_or(0)));
            last.for_each(&mut *at);
            return text.len();
        };
        // Two loops, since a compiler makes vectors of each and not of both together.
        let seen = here == from || block.iter().fold(0, |seen, byte| seen | u8::from(begins(*byte))) != 0;
        here += BLOCK;
        if !seen {
            return here;
        }
        let mut found = [0_u8; BLOCK];
        let mut any = 0;
        for index in 0..BLOCK {
            found[index] = u8::from(may_tell(block[index], next[index]));
            any |= found[index];
        }
        if any == 0 {
            continue;
        }
        for (word, first) in found.chunks_exact(8).zip((here - BLOCK..).step_by(8)) {
            let mut word = word.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            while word != 0 {
                at(first + word.trailing_zeros() as usize / 8);
                word &= word - 1;
            }
        }
    }
    here
}

/// Whether a byte begins an escape.
#[inline(always)]
fn begins(byte: u8) -> bool {
    (byte == b'%') | (byte == b'\\') | (byte == b'&')
}

/// Whether an escape that begins with these two bytes may stand for one in a key: not `\n`, `\"`
/// and other letters, and not `%a0`. Written so that a compiler makes it one of vectors.
#[inline(always)]
fn may_tell(byte: u8, next: u8) -> bool {
    // The letters from `a` to `t` are the 20 least.
    let other = (next.wrapping_add(0x80 - b'a') as i8 > i8::MIN + 19) & (next != b'"');
    ((byte == b'%') | (byte == b'\\')) & other | (byte == b'&')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_escape_that_may_matter_is_seen_wherever_it_stands() {
        let escapes = [
            r"\u002b", "%2B", "&#43;", r"\/", r"\\u002b", "&plus;", r"\x2b", r"\53", r"\_", r"\]", r"\^",
            r"\`",
        ];
        for escape in escapes {
            for before in (0..140).chain(500..580).chain(1000..1060) {
                for behind in [0, 1, 40, 70, 600] {
                    let text = format!("{}{escape}{}", "a".repeat(before), "b".repeat(behind));
                    let mut seen = Vec::new();
                    look_for_escapes(text.as_bytes(), 20, false, |at| seen.push(at));
                    assert_eq!(seen.first(), Some(&before), "{escape} {before} {behind}");
                }
            }
        }
    }

    #[test]
    fn what_json_is_full_of_is_not_looked_at() {
        let text = r#"{"text":"one\ntwo \"three\"\tfour\r\nfive\b\f"}"#.repeat(40);
        look_for_escapes(text.as_bytes(), 20, false, |at| panic!("at {at}"));
    }
}
