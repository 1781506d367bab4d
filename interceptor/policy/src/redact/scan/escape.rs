//! Undoes the escapes of URLs, of JSON, JavaScript and other quoted strings, and of HTML, in any
//! mixture.

use std::ops::Range;

use memchr::{memchr3, memchr3_iter};
use zeroize::Zeroizing;

/// The values of hexadecimal digits; more than 15 for other bytes.
pub(super) static HEX: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut at = 0;
    while at < 16 {
        values[b"0123456789abcdef"[at] as usize] = at as u8;
        values[b"0123456789ABCDEF"[at] as usize] = at as u8;
        at += 1;
    }
    values
};

/// Which escapes are undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All. Any number of backslashes counts as one, because JSON nests in JSON.
    All,
    /// For keys that contain such characters themselves: only one kind, and each escape once.
    Percent,
    /// Those that begin with a backslash.
    Backslash,
    /// Character references, `&#107;`.
    Reference,
}

/// A decoded text, and the part of the original that each byte comes from.
#[derive(Default)]
pub struct Decoded {
    /// The decoded bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The original part of each byte in `bytes`.
    pub spans: Vec<Range<u32>>,
}

impl Decoded {
    pub(super) fn push(&mut self, byte: u8, from: usize, to: usize) {
        self.bytes.push(byte);
        self.spans.push(from as u32..to as u32);
    }

    fn copy(&mut self, text: &[u8], part: Range<usize>) {
        self.bytes.extend_from_slice(&text[part.clone()]);
        self.spans.extend((part.start as u32..part.end as u32).map(|at| at..at + 1));
    }
}

/// The text with its escapes undone once; everything else stays.
pub fn unescape(text: &[u8], reading: Reading) -> Decoded {
    let mut decoded = Decoded::default();
    let mut at = 0;
    for escape in memchr3_iter(b'%', b'\\', b'&', text) {
        if escape < at {
            continue;
        }
        decoded.copy(text, at..escape);
        at = escape;
        match read(&text[escape..], reading) {
            Some((byte, length)) => {
                decoded.push(byte, at, at + length);
                at += length;
            }
            None => {
                let same = introducers(&text[escape..]);
                decoded.copy(text, at..at + same);
                at += same;
            }
        }
    }
    decoded.copy(text, at..text.len());
    decoded
}

/// The bytes that are compared at once.
pub(super) const WORD: usize = 8;
pub(super) const ONES: u64 = u64::MAX / 0xff;
pub(super) const HIGH: u64 = 0x80 * ONES;

/// The position of the first byte in a word that begins an escape, or its length.
pub(super) fn next_in(word: [u8; WORD]) -> usize {
    let word = u64::from_le_bytes(word);
    // The lowest bit set is right; those above it need not be.
    let equal = |byte: u8| {
        let zero = word ^ (u64::from(byte) * ONES);
        zero.wrapping_sub(ONES) & !zero
    };
    let any = (equal(b'%') | equal(b'\\') | equal(b'&')) & HIGH;
    any.trailing_zeros() as usize / 8
}

/// The position of the next byte that begins an escape.
pub(super) fn next_escape(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Near ones are found sooner than a function is called.
    while at < 4 * WORD {
        let Some(word) = text[at..].first_chunk() else {
            let begins = |byte: &u8| matches!(byte, b'%' | b'\\' | b'&');
            return Some(at + text[at..].iter().position(begins)?);
        };
        let next = next_in(*word);
        at += next;
        if next < WORD {
            return Some(at);
        }
    }
    Some(at + memchr3(b'%', b'\\', b'&', &text[at..])?)
}

/// Whether the text may contain an escape.
pub fn may_escape(text: &[u8]) -> bool {
    memchr3(b'%', b'\\', b'&', text).is_some()
}

/// The length of an escape's introducer; a run of backslashes counts as one introducer.
pub(super) fn introducers(text: &[u8]) -> usize {
    match text {
        [b'\\', b'\\', ..] => text.iter().take_while(|byte| **byte == b'\\').count(),
        _ => 1,
    }
}

/// The escape at the start of `text`: the byte it stands for, and its length.
#[inline]
pub(super) fn read(text: &[u8], reading: Reading) -> Option<(u8, usize)> {
    if reading == Reading::All {
        // What dense texts consist of, first.
        match *text {
            [b'%', high, low, ..] => {
                let (high, low) = (HEX[usize::from(high)], HEX[usize::from(low)]);
                if high | low < 16 {
                    return Some((high << 4 | low, 3));
                }
            }
            // What begins like an escape only.
            [b'&', b'#', next, ..] if !next.is_ascii_digit() && !matches!(next, b'x' | b'X') => {
                return None;
            }
            [b'&', next, ..] if !next.is_ascii_alphabetic() && next != b'#' => return None,
            [b'&', first, second, ..] if first != b'#' && !may_be_named(first, second) => {
                return None;
            }
            [b'\\', b'x', high, low, ..] => {
                let (high, low) = (HEX[usize::from(high)], HEX[usize::from(low)]);
                if high | low < 16 {
                    return byte(u32::from(high << 4 | low)).map(|byte| (byte, 4));
                }
            }
            [b'\\', b'u', first, second, high, low, ..] => {
                let (high, low) = (HEX[usize::from(high)], HEX[usize::from(low)]);
                if (first, second) == (b'0', b'0') && high | low < 16 {
                    return byte(u32::from(high << 4 | low)).map(|byte| (byte, 6));
                }
            }
            _ => {}
        }
    }
    read_any(text, reading)
}

fn read_any(text: &[u8], reading: Reading) -> Option<(u8, usize)> {
    let all = reading == Reading::All;
    match text {
        [b'%', rest @ ..] if all || reading == Reading::Percent => after_percent(rest),
        [b'\\', rest @ ..] if reading == Reading::Backslash => match rest {
            [b'\\', ..] => Some((b'\\', 2)),
            _ => after_backslash(rest, 1),
        },
        [b'\\', ..] if all => {
            let before = introducers(text);
            after_backslash(&text[before..], before)
        }
        [b'&', rest @ ..] if all || reading == Reading::Reference => after_ampersand(rest),
        _ => None,
    }
}

fn after_percent(rest: &[u8]) -> Option<(u8, usize)> {
    match rest {
        [b'u' | b'U', digits @ ..] => Some((byte(hexadecimal(digits.get(..4)?)?)?, 6)),
        [high, low, ..] => Some((hexadecimal(&[*high, *low])? as u8, 3)),
        _ => None,
    }
}

/// The escape after `before` backslashes.
fn after_backslash(rest: &[u8], before: usize) -> Option<(u8, usize)> {
    let (kind, digits) = rest.split_first()?;
    let fixed = |length: usize| {
        let value = hexadecimal(digits.get(..length)?)?;
        Some((byte(value)?, before + 1 + length))
    };
    match kind {
        b'u' | b'x' if digits.first() == Some(&b'{') => {
            let (value, length) = number(&digits[1..], 8, 16)?;
            (digits.get(1 + length) == Some(&b'}')).then_some(())?;
            Some((byte(value)?, before + 3 + length))
        }
        b'u' => fixed(4),
        b'U' => fixed(8),
        b'x' => fixed(2),
        b'n' => Some((b'\n', before + 1)),
        b'r' => Some((b'\r', before + 1)),
        b't' => Some((b'\t', before + 1)),
        b'0'..=b'7' => {
            let most = if *kind <= b'3' { 3 } else { 2 };
            let (value, length) = number(rest, most, 8)?;
            Some((byte(value)?, before + length))
        }
        other if other.is_ascii_punctuation() => Some((*other, before + 1)),
        _ => None,
    }
}

/// The escape after `&`. `&amp;#43;`, escaped twice, is read at once.
fn after_ampersand(rest: &[u8]) -> Option<(u8, usize)> {
    if !rest.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'#') {
        return None;
    }
    let mut before = 0;
    while before < 4 * 8 && rest[before..].starts_with(b"amp;") {
        before += 4;
    }
    let inner = |rest: &[u8]| {
        let (value, length, radix) = match rest {
            [b'#', b'x' | b'X', digits @ ..] => {
                let (value, length) = number(digits, 8, 16)?;
                (value, 2 + length, 16)
            }
            [b'#', digits @ ..] => {
                let (value, length) = number(digits, 8, 10)?;
                (value, 1 + length, 10)
            }
            _ => {
                let letters = rest.iter().take(20).take_while(|byte| byte.is_ascii_alphabetic());
                let length = letters.count();
                // Cheaper than the name.
                (rest.get(length) == Some(&b';')).then_some(())?;
                (named(&rest[..length])?.into(), length, 0)
            }
        };
        match rest.get(length) {
            Some(b';') => Some((byte(value)?, length + 1)),
            // Browsers end a number at any character that is not a digit (HTML 13.2.5.80).
            next if radix > 0 && next.is_none_or(|next| HEX[usize::from(*next)] >= radix) => {
                Some((byte(value)?, length))
            }
            _ => None,
        }
    };
    match inner(&rest[before..]) {
        Some((byte, length)) => Some((byte, 1 + before + length)),
        None => (before > 0).then_some((b'&', 5)),
    }
}

/// The first two letters of the names below and of `amp`: for each first letter, one bit for each
/// second one of either case.
static NAMES: [u32; 128] = {
    let pairs = b"DiGTHaLTNeQUTaUnVeamapasbscodoeqexgrgtlblclolplsltminupeplqurbrcrprssesove";
    let (mut seconds, mut at) = ([0; 128], 0);
    while at < pairs.len() {
        seconds[pairs[at] as usize] |= 1 << (pairs[at + 1] & 31);
        at += 2;
    }
    seconds
};

/// Whether a name may begin with these two letters. Cheaper than reading it.
#[inline(always)]
pub(super) fn may_be_named(first: u8, second: u8) -> bool {
    second.is_ascii_alphabetic() && NAMES[usize::from(first & 127)] >> (second & 31) & 1 != 0
}

/// The ASCII characters that have a name (HTML 13.5).
fn named(name: &[u8]) -> Option<u8> {
    Some(match name {
        b"Tab" => b'\t',
        b"NewLine" => b'\n',
        b"excl" => b'!',
        b"quot" | b"QUOT" => b'"',
        b"num" => b'#',
        b"dollar" => b'$',
        b"percnt" => b'%',
        b"apos" => b'\'',
        b"lpar" => b'(',
        b"rpar" => b')',
        b"ast" | b"midast" => b'*',
        b"plus" => b'+',
        b"comma" => b',',
        b"period" => b'.',
        b"sol" => b'/',
        b"colon" => b':',
        b"semi" => b';',
        b"lt" | b"LT" => b'<',
        b"equals" => b'=',
        b"gt" | b"GT" => b'>',
        b"quest" => b'?',
        b"commat" => b'@',
        b"lsqb" | b"lbrack" => b'[',
        b"bsol" => b'\\',
        b"rsqb" | b"rbrack" => b']',
        b"Hat" => b'^',
        b"lowbar" | b"UnderBar" => b'_',
        b"grave" | b"DiacriticalGrave" => b'`',
        b"lcub" | b"lbrace" => b'{',
        b"verbar" | b"vert" | b"VerticalLine" => b'|',
        b"rcub" | b"rbrace" => b'}',
        _ => return None,
    })
}

/// The value of up to eight digits.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let add = |sum: u32, digit: &u8| {
        let value = HEX[usize::from(*digit)];
        (value < 16).then_some(sum << 4 | u32::from(value))
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, add)).flatten()
}

/// The number that `text` begins with, at most eight digits; and the number of digits.
fn number(text: &[u8], most: usize, radix: u8) -> Option<(u32, usize)> {
    let (mut value, mut length) = (0, 0);
    for byte in text.iter().take(most) {
        let digit = HEX[usize::from(*byte)];
        if digit >= radix {
            break;
        }
        value = value * u32::from(radix) + u32::from(digit);
        length += 1;
    }
    (length > 0).then_some((value, length))
}

/// An ASCII code point.
fn byte(value: u32) -> Option<u8> {
    u8::try_from(value).ok().filter(u8::is_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_escape_is_undone() {
        for (text, read) in [
            (r"a%2Bb%2fc", "a+b/c"),
            (r"\u002b\u002F\/\x3d\x3D\u{3d}\u{00003D}\x{2b}\53\075\U0000002b", "+//====++=+"),
            (r"\\u003d\\\\\\\\u003d\\\/", "==/"),
            ("&#43;&#x2F;&#X2f;&#0000043;&plus;&sol;&equals;&lowbar;", "+//++/=_"),
            ("&#43&#x2F &amp;#61&#", "+/ =&#"),
            ("&amp;#43;&amp;amp;#43;&amp;lt;&amp;", "++<&"),
            ("%%41%u002B%25%3", "%A+%%3"),
            (r"\q\u12\u{}\u{3d &#; &bogus; &plus \", r"\q\u12\u{}\u{3d &#; &bogus; &plus \"),
            (r"100% & \u00e9 \ud83d", r"100% & \u00e9 \ud83d"),
        ] {
            let decoded = unescape(text.as_bytes(), Reading::All);
            assert_eq!(String::from_utf8_lossy(&decoded.bytes), read, "{text}");
            let mut end = 0;
            for span in &decoded.spans {
                assert_eq!(span.start, end, "{text}");
                end = span.end;
            }
            assert_eq!(end as usize, text.len());
        }
        let once = unescape(br"\\u003d%41", Reading::Backslash);
        assert_eq!(&**once.bytes, br"\u003d%41");
    }
}
