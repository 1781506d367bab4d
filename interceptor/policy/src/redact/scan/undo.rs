//! Undoes the escapes of a text once, keeping nothing but its bytes.
//!
//! What begins like an escape and is none stays, and may be one in a later layer: `%%34` is `%4`.
//! For that, an escape within it must be undone first, the next one in the text. So it is one in
//! the next layer only if what begins like an escape after it is one in this layer, and so on, one
//! layer for each. What can be none in any layer that is undone is marked: no spelling of a key of
//! usual characters contains it, so a run ends there.

use super::escape::{
    HEX, Reading, WORD, introducers, may_be_named, next_escape, next_in, read, unescape,
};

/// What becomes of the first byte of what can be no escape in any layer. No spelling contains it.
const NEVER: u8 = 1;

/// What becomes of what begins like an escape and is none.
#[derive(Clone, Copy)]
pub(super) enum Junk {
    /// It stays.
    Stays,
    /// It is marked if it can be no escape after as many more layers either.
    Marked0,
    Marked1,
    Marked2,
}

impl Junk {
    /// If this many more layers are undone.
    pub(super) fn of(later: usize) -> Junk {
        match later {
            0 => Junk::Marked0,
            1 => Junk::Marked1,
            _ => Junk::Marked2,
        }
    }
}

/// Appends `text` with its escapes undone once.
pub(super) fn undo(text: &[u8], reading: Reading, junk: Junk, out: &mut Vec<u8>) {
    match junk {
        _ if reading != Reading::All => out.extend_from_slice(&unescape(text, reading).bytes),
        Junk::Stays => undo_all::<STAYS>(text, out),
        Junk::Marked0 => undo_all::<0>(text, out),
        Junk::Marked1 => undo_all::<1>(text, out),
        Junk::Marked2 => undo_all::<2>(text, out),
    }
}

const STAYS: usize = 3;

fn undo_all<const LATER: usize>(text: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    // With room for a whole word behind the last byte.
    out.resize(from + text.len() + WORD, 0);
    let into = &mut out[from..];
    let mut waiting = Waiting::<LATER>::new(into.len() - 1);
    let (mut at, mut end) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        // The shortest escape, of which a text can have the most.
        if let Some([b'%', high, low]) = rest.first_chunk()
            && HEX[usize::from(*high)] | HEX[usize::from(*low)] < 16
        {
            into[end] = HEX[usize::from(*high)] << 4 | HEX[usize::from(*low)];
            (end, at) = (end + 1, at + 3);
            waiting.clear();
            continue;
        }
        let four = rest.first_chunk().copied().unwrap_or_else(|| padded(rest));
        match kind(four) {
            Kind::Plain => {
                let length = copy_plain(rest, &mut into[end..]);
                (end, at) = (end + length, at + length);
            }
            Kind::Hex(value) => {
                // Beyond ASCII it stays as it is. Nothing can guess which it is, so no branch.
                let ascii = value.is_ascii();
                let beyond = if LATER == STAYS { b'\\' } else { NEVER };
                into[end..end + 4].copy_from_slice(&four);
                into[end] = if ascii { value } else { beyond };
                end += if ascii { 1 } else { 4 };
                at += 4;
                waiting.clear();
            }
            Kind::Unknown if let Some((byte, length)) = read(rest, Reading::All) => {
                into[end] = byte;
                (end, at) = (end + 1, at + length);
                waiting.clear();
            }
            Kind::Unknown if four[..2] == *b"\\\\" => {
                let same = introducers(rest);
                into[end..end + same].fill(b'\\');
                (end, at) = (end + same, at + same);
            }
            Kind::Unknown | Kind::None => {
                into[end] = four[0];
                into[waiting.push(end, rest, four)] = NEVER;
                (end, at) = (end + 1, at + 1);
            }
        }
    }
    out.truncate(from + end);
}

/// Copies what is before the next escape, or a part of it. Returns its length.
#[inline(always)]
fn copy_plain(rest: &[u8], into: &mut [u8]) -> usize {
    let Some(word) =
        rest.first_chunk::<WORD>().filter(|word| !matches!(word[1], b'%' | b'\\' | b'&'))
    else {
        into[0] = rest[0];
        return 1;
    };
    into[..WORD].copy_from_slice(word);
    let mut plain = next_in(*word);
    if plain == WORD {
        plain = next_escape(rest).unwrap_or(rest.len());
        into[..plain].copy_from_slice(&rest[..plain]);
    }
    plain
}

/// The last of what begins like an escape and is none yet.
struct Waiting<const LATER: usize> {
    /// The positions of the last two, the latest first.
    last: [usize; 2],
    /// A position behind the text, for none.
    nowhere: usize,
}

impl<const LATER: usize> Waiting<LATER> {
    fn new(nowhere: usize) -> Waiting<LATER> {
        Waiting { last: [nowhere; 2], nowhere }
    }

    /// An escape was undone.
    #[inline(always)]
    fn clear(&mut self) {
        self.last = [self.nowhere; 2];
    }

    /// Takes what begins `rest` and is none, at `end`. Returns the position of what can be none.
    #[inline(always)]
    fn push(&mut self, end: usize, rest: &[u8], four: [u8; 4]) -> usize {
        match LATER {
            STAYS => self.nowhere,
            _ if four[0] == b'\\' && is_none_in_any(rest, four) => end,
            _ if four[0] == b'\\' && may_separate(four) => self.nowhere,
            0 => end,
            1 => std::mem::replace(&mut self.last[0], end),
            _ => {
                let oldest = self.last[1];
                self.last = [end, self.last[0]];
                oldest
            }
        }
    }
}

/// What the next bytes of a text are.
enum Kind {
    Plain,
    /// `\x41`, which is one if the value is ASCII.
    Hex(u8),
    /// What begins like an escape and is none.
    None,
    /// What must be read.
    Unknown,
}

/// If it is not `%41`.
#[inline(always)]
fn kind([this, first, second, third]: [u8; 4]) -> Kind {
    let pair = |high: u8, low: u8| {
        let (high, low) = (HEX[usize::from(high)], HEX[usize::from(low)]);
        (high | low < 16).then_some(high << 4 | low)
    };
    match this {
        b'%' if first | 0x20 == b'u' => Kind::Unknown,
        b'%' => Kind::None,
        b'&' if first == b'#' => {
            let number = second.is_ascii_digit() || second | 0x20 == b'x';
            if number { Kind::Unknown } else { Kind::None }
        }
        b'&' if may_be_named(first, second) => Kind::Unknown,
        b'&' => Kind::None,
        b'\\' if first == b'x' => match pair(second, third) {
            Some(value) => Kind::Hex(value),
            None if second == b'{' => Kind::Unknown,
            None => Kind::None,
        },
        b'\\' if first == b'u' => {
            let digits = second == b'{' || HEX[usize::from(second)] < 16;
            if digits { Kind::Unknown } else { Kind::None }
        }
        b'\\' if NOTHING[usize::from(first)] => Kind::None,
        b'\\' => Kind::Unknown,
        _ => Kind::Plain,
    }
}

/// The bytes before which a single backslash begins no escape in any layer, and separates no
/// hexadecimal bytes.
static NOTHING: [bool; 256] = {
    let mut nothing = [false; 256];
    let letters = b"ghijklmopqsvwyzGHIJKLMNOPQRSTVWYZ";
    let mut at = 0;
    while at < letters.len() {
        nothing[letters[at] as usize] = true;
        at += 1;
    }
    nothing
};

/// Whether a backslash that begins no escape begins none in any layer, and separates nothing:
/// `\q`, and `\u00e9` or another character beyond ASCII.
fn is_none_in_any(rest: &[u8], four: [u8; 4]) -> bool {
    let digits = |digits: &[u8; 4]| digits.iter().all(u8::is_ascii_hexdigit);
    match four[1] {
        b'u' => rest.get(2..).and_then(|rest| rest.first_chunk()).is_some_and(digits),
        first => NOTHING[usize::from(first)],
    }
}

/// Whether a backslash that begins no escape may stand in a separator of hexadecimal bytes, now or
/// when what follows is undone. Neither `u` does, nor `\x` before a single digit.
fn may_separate([_, first, second, third]: [u8; 4]) -> bool {
    match first {
        b'u' | b'U' => false,
        b'x' => {
            let single = second.is_ascii_hexdigit() && !matches!(third, b'%' | b'\\' | b'&');
            !single && second != b'{'
        }
        _ => true,
    }
}

#[cold]
fn padded(rest: &[u8]) -> [u8; 4] {
    let mut four = [0; 4];
    four[..rest.len()].copy_from_slice(rest);
    four
}

#[cfg(test)]
mod tests {
    use super::super::LEVELS;
    use super::*;

    #[test]
    fn a_layer_is_what_the_slow_reading_has() {
        let pieces = [
            r"\x41",
            r"\xe9",
            r"\u0041",
            "%41",
            "%25",
            "&amp;#65;",
            "\\\\",
            "\\/",
            "&",
            "%4",
            "plain",
            r"\u{41}",
            "&lt;",
            "a long stretch of other bytes, which is copied as a whole",
        ];
        for (first, second) in pieces.iter().flat_map(|one| pieces.map(|two| (one, two))) {
            for reading in [Reading::All, Reading::Percent, Reading::Backslash, Reading::Reference]
            {
                let text = format!("{first}{second}{first}");
                let slow = unescape(text.as_bytes(), reading).bytes;
                assert_eq!(undone(&text, reading, Junk::Stays), **slow, "{text}");
                // Of what is no escape, only the first byte differs.
                for later in 0..LEVELS {
                    let out = undone(&text, reading, Junk::of(later));
                    let differs = |(out, slow): (&u8, &u8)| out != slow && *out != NEVER;
                    assert!(out.len() == slow.len() && !out.iter().zip(&**slow).any(differs));
                }
            }
        }
    }

    #[test]
    fn what_can_become_no_escape_in_time_is_marked() {
        for (text, later, layer) in [
            ("a%b&c", 0, "a\u{1}b\u{1}c"),
            ("%%%%%41", 2, "\u{1}\u{1}%%A"),
            ("%%%%%41", 1, "\u{1}\u{1}\u{1}%A"),
            ("&#&#&%23%36", 1, "\u{1}#\u{1}#&#6"),
            (r"\q\u00e9\xe9\u{4\x%34", 2, "\u{1}q\u{1}u00e9\u{1}xe9\\u{4\\x4"),
            (r"\u\u0\u{4\x4z\x4&\x:\x%34", 1, "\u{1}u\u{1}u0\u{1}u{4\u{1}x4z\\x4&\\x:\\x4"),
            (r"\\x%34", 0, r"\\x4"),
        ] {
            let out = undone(text, Reading::All, Junk::of(later));
            assert_eq!(String::from_utf8_lossy(&out), layer, "{text} {later}");
        }
    }

    fn undone(text: &str, reading: Reading, junk: Junk) -> Vec<u8> {
        let mut out = Vec::new();
        undo(text.as_bytes(), reading, junk, &mut out);
        out
    }
}
