//! Runs: stretches of a text that may be a spelling of a key, recognised by classes of bytes alone.
//!
//! A run at the end of a text must wait for the bytes after it. Nothing here knows a key; the only
//! thing that depends on the keys is the choice between two alphabets.

use super::grams::LINE;

const CORE: u8 = 1;
/// Base64 of either alphabet, and the characters of escapes.
const LINE_BYTE: u8 = 2;
const HEX: u8 = 4;
/// Separators of hexadecimal bytes.
const SEPARATOR: u8 = 8;
/// Both, the x of `0x`, and escaped line breaks and tabs.
const AMONG: u8 = 16;

/// The bytes that a spelling may consist of.
#[derive(Debug)]
pub(super) struct Classes {
    table: [u8; 256],
    least_visible: u8,
}

/// The most by which a line inside a spelling may be indented: [`super::CONTEXT`] has room for it.
const INDENT: usize = 32;

/// The longest separator.
pub(super) const LONGEST_SEPARATOR: usize = 6;

impl Classes {
    /// The usual alphabet of keys plus that of escapes, or all of visible ASCII.
    pub(super) fn new(every_visible: bool) -> Classes {
        let mut table = [0; 256];
        for byte in 0..=255_u8 {
            let class = &mut table[usize::from(byte)];
            let escape = b"%\\&#;".contains(&byte);
            if usual(byte) || escape || (every_visible && byte.is_ascii_graphic()) {
                *class |= CORE;
            }
            if escape || byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte) {
                *class |= LINE_BYTE;
            }
            if byte.is_ascii_hexdigit() {
                *class |= HEX;
            }
            if b" :-,._;\t\n\r".contains(&byte) {
                *class |= SEPARATOR;
            }
            if *class & (HEX | SEPARATOR) != 0 || b"xX\\nrt".contains(&byte) {
                *class |= AMONG;
            }
        }
        Classes { table, least_visible: if every_visible { b'!' } else { b'#' } }
    }

    fn is(&self, byte: u8, class: u8) -> bool {
        self.table[usize::from(byte)] & class != 0
    }

    /// The least of the bytes that a run consists of, line breaks aside.
    pub(super) fn least_visible(&self) -> u8 {
        self.least_visible
    }

    /// Whether a byte is among those, or any other of ASCII that is no less.
    pub(super) fn is_visible(&self, byte: u8) -> bool {
        (self.least_visible..=0x7f).contains(&byte)
    }

    /// Whether more bytes can stand in a spelling than with the other classes.
    pub(super) fn are_wider_than(&self, other: &Classes) -> bool {
        self.least_visible < other.least_visible
    }

    /// Whether the first `passed` bytes of `text`, and `before`, the byte before it, are outside
    /// any suffix that must wait for more, however long that may be. Of the suffixes, only runs
    /// depend on the classes; the others began before `text` only if some of it has passed.
    pub(super) fn wait_behind(&self, passed: usize, text: &[u8], before: Option<u8>) -> bool {
        let run = self.run_before(text, text.len(), 0);
        let goes_on = run == 0 && before.is_some_and(|byte| self.is(byte, CORE));
        !goes_on && run.min(self.separated_tail(text, 0)).min(self.wide_tail(text, 0)) >= passed
    }

    /// The start of the suffix of `text` that must wait for more; at most `most` bytes.
    pub(super) fn tail(&self, text: &[u8], most: usize) -> usize {
        let least = text.len().saturating_sub(most);
        self.run_before(text, text.len(), least)
            .min(self.separated_tail(text, least))
            .min(self.wide_tail(text, least))
            .max(least)
    }

    /// The start of the run that ends at `end`, not before `least`.
    pub(super) fn run_before(&self, text: &[u8], end: usize, least: usize) -> usize {
        let mut at = end;
        while at > least {
            // Walk long runs eight bytes at a time.
            if let Some(eight) = text[least..at].last_chunk::<8>()
                && eight.iter().fold(CORE, |all, byte| all & self.table[usize::from(*byte)]) != 0
            {
                at -= 8;
                continue;
            }
            let byte = text[at - 1];
            if self.is(byte, CORE) {
                at -= 1;
            } else if byte == b'}' {
                match braces(&text[..at]) {
                    Some(length) => at -= length,
                    None => break,
                }
            } else if byte == b'{' {
                if !opens(&text[..at]) || !text[at..end].iter().all(u8::is_ascii_hexdigit) {
                    break;
                }
                at -= 1;
            } else {
                match self.break_before(text, at) {
                    Some(start) => at = start,
                    None => break,
                }
            }
        }
        at.max(least)
    }

    /// The end of the run that contains `from`.
    pub(super) fn run_behind(&self, text: &[u8], from: usize) -> usize {
        let mut at = from;
        while let Some(byte) = text.get(at) {
            if let Some(eight) = text[at..].first_chunk::<8>()
                && eight.iter().fold(CORE, |all, byte| all & self.table[usize::from(*byte)]) != 0
            {
                at += 8;
            } else if self.is(*byte, CORE) || (*byte == b'}' && braces(&text[..=at]).is_some()) {
                at += 1;
            } else if *byte == b'{' && opens(&text[..at + 1]) {
                let digits =
                    text[at + 1..].iter().take(9).take_while(|byte| byte.is_ascii_hexdigit());
                let close = at + 1 + digits.count();
                if text.get(close) != Some(&b'}') || braces(&text[..close + 1]).is_none() {
                    break;
                }
                at = close + 1;
            } else {
                let length = break_length(&text[at..]);
                let indent = indent_length(&text[at..]);
                if length > 0 && self.may_break(text, at) {
                    at += length;
                } else if indent > 0 && self.break_before(text, at + indent).is_some() {
                    // The line break is an escape, and therefore part of the run.
                    at += indent;
                } else {
                    break;
                }
            }
        }
        at
    }

    /// Whether a line of base64 or hexadecimal may be broken at `at`: sixteen of its characters
    /// precede it. A blank line is never inside a spelling.
    pub(super) fn may_break(&self, text: &[u8], at: usize) -> bool {
        let line = at.checked_sub(LINE).map(|from| &text[from..at]);
        line.is_some_and(|line| line.iter().rev().all(|byte| self.is(*byte, LINE_BYTE)))
    }

    /// The start of the line break inside a spelling that ends at `end`.
    pub(super) fn break_before(&self, text: &[u8], end: usize) -> Option<usize> {
        let indent = count_back(&text[end.saturating_sub(INDENT)..end], is_indent);
        let line = end - indent;
        let start = match &text[..line] {
            [.., b'\r', b'\n'] => line - 2,
            [.., b'\n' | b'\r'] => line - 1,
            text if indent > 0 => escaped_break_start(text)?,
            _ => return None,
        };
        self.may_break(text, start).then_some(start)
    }

    /// The same, also as strings escape it.
    pub(super) fn any_break_before(&self, text: &[u8], end: usize) -> Option<usize> {
        self.break_before(text, end).or_else(|| {
            escaped_break_start(&text[..end]).filter(|start| self.may_break(text, *start))
        })
    }

    /// The start of the hexadecimal bytes with separators at the end of `text`.
    fn separated_tail(&self, text: &[u8], least: usize) -> usize {
        let mut at = text.len();
        loop {
            let token = at - count_back(&text[least..at], |byte| self.is(byte, HEX));
            // Between two separators there is an even number of digits.
            if at < text.len() && (at - token) % 2 == 1 {
                return token;
            }
            let prefixed = matches!(&text[least..token], [.., b'0', b'x' | b'X']);
            let start = if prefixed { token - 2 } else { token };
            let between = count_back(&text[least..start], |byte| {
                self.is(byte, SEPARATOR) || b"\\nrt".contains(&byte)
            });
            let separator = &text[start - between..start];
            let digits = start - between;
            if !is_separator(separator) || !ends_in_pair(&text[least..digits]) {
                return if token == text.len() { text.len() } else { start };
            }
            at = digits;
        }
    }

    /// The start of the UTF-16 at the end of `text`.
    fn wide_tail(&self, text: &[u8], least: usize) -> usize {
        let mut nul = text.last() == Some(&0);
        let alternate = count_back(&text[least..], |byte| {
            let fits = if nul { byte == 0 } else { byte.is_ascii_graphic() };
            nul = !nul;
            fits
        });
        if alternate < 2 { text.len() } else { text.len() - alternate }
    }

    /// Nonzero if each of eight bytes can occur among hexadecimal bytes with separators and one is
    /// an octal digit, like the first digit of every visible character. No branches.
    pub(super) fn looks_separated(&self, window: &[u8; 8]) -> u8 {
        const ONES: u64 = u64::MAX / 0xff;
        // A byte of this is zero for 0x30 to 0x37; the borrow shows whether any byte is.
        let digits = (u64::from_le_bytes(*window) & (0xf8 * ONES)) ^ (0x30 * ONES);
        let octal = digits.wrapping_sub(ONES) & !digits & (0x80 * ONES);
        let among = window.iter().fold(AMONG, |all, byte| all & self.table[usize::from(*byte)]);
        among * u8::from(octal != 0)
    }

    /// Whether `byte` may separate hexadecimal bytes at `at`.
    pub(super) fn separates(&self, text: &[u8], at: usize, byte: u8) -> bool {
        self.is(byte, SEPARATOR) && may_separate(text, at)
    }

    /// The length of what stands between two hexadecimal digits at `at`, a little more than the
    /// longest at most.
    pub(super) fn gap(&self, text: &[u8], at: usize) -> usize {
        let mut end = at;
        while let Some(byte) = text.get(end)
            && end <= at + LONGEST_SEPARATOR + 2
        {
            if *byte == b'0' && matches!(text.get(end + 1), Some(b'x' | b'X')) {
                end += 2;
            } else if self.is(*byte, AMONG) && !self.is(*byte, HEX) {
                end += 1;
            } else {
                break;
            }
        }
        end - at
    }

    /// Whether a byte may stand among hexadecimal bytes with separators.
    pub(super) fn is_among(&self, byte: u8) -> bool {
        self.is(byte, AMONG)
    }

    /// The stretch of hexadecimal bytes with separators that contains `at`.
    pub(super) fn separated(&self, text: &[u8], at: usize, least: usize) -> (usize, usize) {
        let fits = |byte: u8| self.is(byte, AMONG);
        let start = at - count_back(&text[least..at], fits);
        let length = text[at..].iter().take_while(|byte| fits(**byte)).count();
        (start, at + length)
    }
}

/// Whether this may stand between two hexadecimal bytes, `0x` aside.
pub(super) fn is_separator(between: &[u8]) -> bool {
    let lines = between.iter().filter(|byte| **byte == b'\n').count();
    (1..=LONGEST_SEPARATOR).contains(&between.len()) && lines <= 1
}

/// Whether a byte is in the usual alphabet of keys, which includes base64 and hexadecimal.
pub(super) fn usual(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

/// Whether a hexadecimal byte ends at `at`, so that a separator may follow.
pub(super) fn may_separate(text: &[u8], at: usize) -> bool {
    let digits = &text[..at];
    // An escape's own digits do not count; the digit that it may stand for does.
    let of_escape = matches!(digits, [.., b'%', _, _] | [.., b'\\', b'u', _, _, _, _]);
    ends_in_pair(digits) && !of_escape
}

/// The first digit of a visible character's code is from 2 to 7.
fn ends_in_pair(text: &[u8]) -> bool {
    matches!(text, [.., b'2'..=b'7', low] if low.is_ascii_hexdigit())
}

/// The length of a line break at the start of `text`, with the white space at the start of the next
/// line if it is folded (MIME, LDIF) or indented (YAML).
pub(super) fn break_length(text: &[u8]) -> usize {
    let length = match text {
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        _ => return 0,
    };
    length + indent_length(&text[length..])
}

/// The length of the white space at the start of a line.
fn indent_length(text: &[u8]) -> usize {
    text.iter().take(INDENT).take_while(|byte| is_indent(**byte)).count()
}

fn is_indent(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The length of an escaped line break, `\n` or `\r\n`, at the start of `text`; JSON within JSON
/// has more backslashes.
pub(super) fn escaped_break_length(text: &[u8]) -> usize {
    let one = |text: &[u8]| {
        let before = text.iter().take_while(|byte| **byte == b'\\').count();
        (before > 0).then(|| text.get(before).map(|kind| (*kind, before + 1))).flatten()
    };
    let length = match one(text) {
        Some((b'n', length)) => length,
        Some((b'r', length)) => match one(&text[length..]) {
            Some((b'n', more)) => length + more,
            _ => length,
        },
        _ => return 0,
    };
    length + indent_length(&text[length..])
}

/// The start of an escaped line break at the end of `text`.
fn escaped_break_start(text: &[u8]) -> Option<usize> {
    let one = |end: usize, kinds: &[u8]| {
        let kind = end.checked_sub(1).filter(|at| kinds.contains(&text[*at]))?;
        let before = count_back(&text[..kind], |byte| byte == b'\\');
        (before > 0).then_some(kind - before)
    };
    let last = one(text.len(), b"nr")?;
    if text.last() == Some(&b'n') { one(last, b"r").or(Some(last)) } else { Some(last) }
}

/// Whether `text` ends with the beginning of `\u{…}`.
fn opens(text: &[u8]) -> bool {
    matches!(text, [.., b'\\', b'u' | b'x', b'{'])
}

/// The length of `{…}` at the end of `text`, if it belongs to `\u{…}`.
fn braces(text: &[u8]) -> Option<usize> {
    let inside = text.len() - 1;
    let digits = count_back(&text[inside.saturating_sub(8)..inside], |b| b.is_ascii_hexdigit());
    let open = inside - digits;
    (digits > 0 && opens(&text[..open])).then_some(digits + 2)
}

pub(super) fn count_back(text: &[u8], mut fits: impl FnMut(u8) -> bool) -> usize {
    text.iter().rev().take_while(|byte| fits(**byte)).count()
}
