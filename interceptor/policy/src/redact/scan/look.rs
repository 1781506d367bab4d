//! Finds escapes in a text that may matter. It looks at every byte, many at a time.
//!
//! The bytes around an escape dismiss most escapes of usual texts, without a branch:
//! - those of characters that no key contains (`\n`, `\"`, `%20`, `\u00e9`, `&nbsp;`);
//! - those of the few characters that encoders escape in otherwise plain text, which
//!   [`super::grams`] knows as they are.

use memchr::memchr3;

use super::block::{BEFORE, BLOCK, Block, each};
use super::escape::HEX;
use super::run::may_separate;

/// After this many blocks without an escape, the search is for a single one.
const EMPTY: usize = 8;
/// A block with this many escapes is examined more closely.
const MANY: u32 = 3;

/// Calls `at` with the position of each escape that may matter, left to right; with `every`, of
/// each escape. Of several backslashes the last counts. It goes on where `at` says.
pub(super) fn look_for_escapes(text: &[u8], every: bool, mut at: impl FnMut(usize) -> usize) {
    let mut from = 0;
    while let Some(first) = text.get(from..).and_then(|rest| memchr3(b'%', b'\\', b'&', rest)) {
        from += first;
        // Escapes come in groups.
        let mut empty = 0;
        while let Some(block) = from.checked_sub(BEFORE).and_then(|from| text[from..].first_chunk())
            && empty < EMPTY
            && !every
        {
            let mut found = candidates(block);
            empty = if found == 0 { empty + 1 } else { 0 };
            let first = found.trailing_zeros() as usize & (BLOCK - 1);
            if found.count_ones() >= MANY && block[first + BEFORE] == b'\\' {
                found &= !backslashes(block);
            }
            let mut next = from;
            while found != 0 && next < from + BLOCK {
                let place = found.trailing_zeros() as usize & (BLOCK - 1);
                let near = std::array::from_fn(|byte| block[place + byte]);
                let reasons = reasons(near);
                if from + place >= next
                    && reasons != 0
                    && !is_dismissed(text, from + place, reasons)
                {
                    next = at(from + place);
                }
                found &= found - 1;
            }
            from = next.max(from + BLOCK);
        }
        if empty < EMPTY && from < text.len() {
            let reasons = || reasons(at_the_ends(text, from));
            let matters = |reasons| reasons != 0 && !is_dismissed(text, from, reasons);
            let next =
                if begins(text[from]) && (every || matters(reasons())) { at(from) } else { 0 };
            from = next.max(from + 1);
        }
    }
}

/// One bit for each byte of a block that begins an escape, except those of bytes beyond ASCII
/// (`%c3`), `\"`, `\n` and the like.
#[inline(always)]
fn candidates(block: &Block) -> u64 {
    each(block, |[_, _, this, next, _, _]| {
        // Of either case, the letters from `a` to `t` are the 20 least.
        let letter = ((next | 0x20).wrapping_add(0x80 - b'a') as i8) <= i8::MIN + 19;
        let common = letter | (next & 0xfe == b'8') | (next == b'"');
        let escape = (this == b'\\') | (this == b'%');
        escape & !common | (this == b'&')
    })
}

/// The backslashes to dismiss: a single one before `/`, those of `\u` with a non-ASCII character,
/// and all but the last of several.
#[inline(always)]
fn backslashes(block: &Block) -> u64 {
    each(block, |[_, before, this, next, second, third]| {
        let other = (next == b'u') & (second != b'{') & ((second != b'0') | (third != b'0'));
        let slash = (next == b'/') & (before != b'\\');
        (this == b'\\') & (other | slash | (next == b'\\'))
    })
}

/// Whether a byte begins an escape.
#[inline(always)]
fn begins(byte: u8) -> bool {
    (byte == b'%') | (byte == b'\\') | (byte == b'&')
}

/// Why the escape that begins in the middle may be part of a key of usual characters; zero if it
/// cannot be.
#[inline(always)]
fn reasons([two, one, this, first, second]: [u8; 5]) -> u8 {
    let kind = usize::from(this & 3);
    ONE[usize::from(one)]
        & TWO[usize::from(two)]
        & NEXT[kind][usize::from(first)]
        & SECOND[kind][usize::from(second)]
}

/// Whether an escape is dismissed by more of the bytes around it.
#[inline]
fn is_dismissed(text: &[u8], at: usize, reasons: u8) -> bool {
    let separates = reasons & SEPARATOR != 0 && may_separate(text, at);
    if reasons == SEPARATOR && !separates {
        return true;
    }
    let kept = |value: u8| match VALUES[usize::from(value)] {
        Value::Key => true,
        Value::Separator => separates,
        Value::Other => false,
    };
    match &text[at..] {
        [b'%', high, low, ..]
        | [b'\\', b'x', high, low, ..]
        | [b'\\', b'u', b'0', b'0', high, low, ..] => {
            let value = HEX[usize::from(*high)] << 4 | HEX[usize::from(*low)];
            HEX[usize::from(*high)] | HEX[usize::from(*low)] < 16 && !kept(value)
        }
        [b'&', b'#', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b';', ..] => {
            !kept((tens - b'0') * 10 + ones - b'0')
        }
        // Not ASCII.
        [b'&', b'#', b'1'..=b'9', rest @ ..] => {
            rest.first_chunk::<3>().is_some_and(|rest| rest.iter().all(u8::is_ascii_digit))
        }
        [b'&', b'#', b'x', b'1'..=b'9' | b'a'..=b'f' | b'A'..=b'F', rest @ ..] => {
            rest.first_chunk::<2>().is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit))
        }
        [b'&', b'a', b'm', b'p', b';', next, ..] => {
            !next.is_ascii_alphanumeric() && *next != b'#' && !begins(*next)
        }
        _ => false,
    }
}

/// What a character may be in a spelling of a key.
#[derive(Clone, Copy)]
enum Value {
    /// One of the key's, or one of a further escape.
    Key,
    /// A separator of hexadecimal bytes, and nothing else.
    Separator,
    Other,
}

static VALUES: [Value; 256] = {
    let mut values = [Value::Other; 256];
    let mut at = 0;
    while at < 128 {
        values[at] = match at as u8 {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => Value::Key,
            b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=' => Value::Key,
            b'%' | b'\\' | b'&' | b'#' | 0 => Value::Key,
            b' ' | b':' | b',' | b';' | b'\t' | b'\n' | b'\r' => Value::Separator,
            _ => Value::Other,
        };
        at += 1;
    }
    values
};

/// The bytes around `at`; zeros beyond the ends.
#[cold]
fn at_the_ends(text: &[u8], at: usize) -> [u8; 5] {
    let byte = |place: usize| place.checked_sub(2).and_then(|place| text.get(place)).copied();
    std::array::from_fn(|place| byte(at + place).unwrap_or(0))
}

/// The kind of escape, given by its two lowest bits.
const PERCENT: usize = (b'%' & 3) as usize;
const AMPERSAND: usize = (b'&' & 3) as usize;
const BACKSLASH: usize = (b'\\' & 3) as usize;

/// Each bit is a reason why an escape may matter. A byte has it unless the byte rules that reason
/// out at its position.
type Reasons = [u8; 256];

/// A hexadecimal byte of a visible character ends before it, so this may be a separator.
const SEPARATOR: u8 = 0x40;
/// A backslash precedes this one.
const DOUBLED: u8 = 0x80;
const OTHERS: u8 = 0x3f;

const DIGITS: &[u8] = b"0123456789";
const HEXADECIMAL: &[u8] = b"0123456789abcdefABCDEF";

static ONE: Reasons = with(with([OTHERS; 256], SEPARATOR, HEXADECIMAL), DOUBLED, b"\\");
static TWO: Reasons = with([OTHERS | DOUBLED; 256], SEPARATOR, b"234567");

/// By the byte after the introducer. The first bit means that it matters whatever follows, except
/// in a reference, where digits must.
static NEXT: [Reasons; 3] = {
    let mut next = [[0; 256]; 3];
    let percent = with(next[PERCENT], 0x01 | SEPARATOR, b"46uU");
    let percent = with(with(percent, 0x02 | SEPARATOR, b"2"), 0x04 | SEPARATOR, b"3");
    next[PERCENT] = with(with(percent, 0x08 | SEPARATOR, b"57"), 0x10 | SEPARATOR, b"0");
    let backslash = with(next[BACKSLASH], SEPARATOR, b"\\u01234567xU#%&+,-.:;=^_`{|}~[]()<>*!?$@");
    let backslash = with(backslash, 0x01, b"01234567xU#%&+,-.:;=^_`{|}~[]()<>*!?$@");
    next[BACKSLASH] = with(with(backslash, 0x02, b"u"), DOUBLED, b"/");
    let ampersand = with(next[AMPERSAND], SEPARATOR, b"#cplsTNUa");
    let ampersand = with(with(ampersand, 0x01, b"#"), 0x02, b"p");
    let ampersand = with(with(ampersand, 0x04, b"slba"), 0x08, b"e");
    next[AMPERSAND] = with(ampersand, 0x10, b"Un");
    next
};

/// By the byte after that.
static SECOND: [Reasons; 3] = {
    let mut second = [[0x01 | SEPARATOR | DOUBLED; 256]; 3];
    // Of those that begin with 2: `#`, `%`, `&`, `-` and `.`; the digits; not the brackets.
    let percent = with(second[PERCENT], 0x02, b"356dDeE");
    let percent = with(percent, 0x04, DIGITS);
    second[PERCENT] = with(with(percent, 0x08, b"0123456789acefACEF"), 0x10, b"0");
    second[BACKSLASH] = with(second[BACKSLASH], 0x02, b"0{");
    let ampersand = with([SEPARATOR | DOUBLED; 256], 0x01, b"0123456789xX");
    let ampersand = with(with(ampersand, 0x02, b"le"), 0x04, b"osm");
    second[AMPERSAND] = with(with(ampersand, 0x08, b"q"), 0x10, b"nu");
    second
};

/// The table with the bits also set for these bytes.
const fn with(mut reasons: Reasons, bits: u8, bytes: &[u8]) -> Reasons {
    let mut at = 0;
    while at < bytes.len() {
        reasons[bytes[at] as usize] |= bits;
        at += 1;
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::super::escape::{Reading, read};
    use super::super::grams::spelt;
    use super::super::run::usual;
    use super::*;

    fn seen(text: &str) -> Vec<usize> {
        let mut seen = Vec::new();
        look_for_escapes(text.as_bytes(), false, |at| {
            seen.push(at);
            at
        });
        seen
    }

    #[test]
    fn every_escape_that_may_matter_is_seen_at_every_position() {
        let escapes = [
            r"\u002b",
            "%41",
            "&#43;",
            r"\x2f",
            "&plus;",
            r"\x2b",
            r"\53",
            r"\_",
            r"\]",
            r"\^",
            r"\`",
            "%25",
            "%5c",
            "%u002b",
            "&period;",
            "&lowbar;",
            "&amp;#43;",
            r"\u{2b}",
        ];
        for escape in escapes {
            for before in (0..140).chain(500..580) {
                for behind in [0, 1, 40, 70, 600] {
                    let text = format!("{}{escape}{}", "z".repeat(before), "b".repeat(behind));
                    assert_eq!(seen(&text).first(), Some(&before), "{escape} {before} {behind}");
                }
            }
        }
    }

    #[test]
    fn escapes_common_in_usual_texts_are_dismissed() {
        for text in [
            r#"{"text":"one\ntwo \"three\"\tfour\r\nfive\b\f caf\/e"}"#,
            "a%20b%2Fc%3Ad%3fe=caz%C3%A9%5Bx%5D",
            "<p>fish &nbsp; &lt;b&gt; &quot;x&quot;&copy;",
        ] {
            assert!(seen(&text.repeat(40)).is_empty(), "{text}");
        }
    }

    /// Every character of a key, in every way of writing it, is seen or is in the samples.
    #[test]
    fn no_escape_of_a_key_character_is_dismissed() {
        for byte in (0..128).filter(|byte| usual(*byte) || b"\0%\\&#".contains(byte)) {
            let code = u32::from(byte);
            let c = char::from(byte);
            for escape in [
                format!("%{code:02x}"),
                format!("%{code:02X}"),
                format!("%u{code:04x}"),
                format!("\\u{code:04x}"),
                format!("\\x{code:02x}"),
                format!("\\u{{{code:x}}}"),
                format!("\\{code:o}"),
                format!("\\{c}"),
                format!("\\\\{c}"),
                format!("&#{code};"),
                format!("&#x{code:x}"),
                "&plus;".into(),
                "&sol;".into(),
                "&equals;".into(),
                "&lowbar;".into(),
                "&period;".into(),
                "&UnderBar;".into(),
                "&percnt;".into(),
                "&num;".into(),
                "&bsol;".into(),
            ] {
                let last = escape.rfind('\\').unwrap_or(0);
                let of = |text: &str| read(text.as_bytes(), Reading::All).map(|(byte, _)| byte);
                let stands = of(&escape).filter(|byte| usual(*byte) || b"\0%\\&#".contains(byte));
                let lower = escape.to_ascii_lowercase();
                let known = spelt(byte).contains(&lower.as_bytes());
                if stands.is_some() && of(&escape[last..]) == stands && !known {
                    assert_eq!(seen(&format!("zz{escape}zz")), [2 + last], "{escape}");
                }
            }
        }
    }

    #[test]
    fn separators_are_seen_after_hexadecimal_bytes() {
        for separator in ["%20", "%3a", "%2C", "&#58;", "&colon;", r"\u0020", "%0A", "%2d", "%5f"] {
            assert_eq!(seen(&format!("73{separator}6b")), [2], "{separator}");
        }
    }
}
