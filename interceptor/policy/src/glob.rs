//! One glob over a canonical path or a part of it. Matching carries the set of reachable positions
//! from character to character instead of backtracking, so the product of the two lengths bounds
//! the time (attack X6).
//!
//! A character is a raw byte, or the run of escapes that encodes one character. `%2F` is a
//! character of its own, equal to no raw slash, and no one-segment wildcard takes it.

/// One character of a canonical path: the code point, with [`ESCAPED`] set if it was
/// percent-encoded.
type Unit = u32;

/// Marks a unit that was percent-encoded: `%3B` is not `;`.
const ESCAPED: u32 = 1 << 31;
const SLASH: Unit = b'/' as u32;
const ENCODED_SLASH: Unit = SLASH | ESCAPED;

/// One element of a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Token {
    /// This character.
    Literal(Unit),
    /// One character of a segment (`?`).
    One,
    /// Any number of characters of a segment (`*`).
    Star,
    /// Any one character.
    Any,
    /// Any number of any characters (`**`).
    Deep,
    /// Nothing, or any characters that end in a slash (`**/` after a slash).
    DeepSegments,
}

/// A compiled glob, anchored at both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Glob {
    tokens: Vec<Token>,
}

/// Positions kept without allocating: four words hold a glob of 255 elements.
const WORDS: usize = 4;

impl Glob {
    pub(super) fn new(tokens: Vec<Token>) -> Glob {
        Glob { tokens }
    }

    /// Appends the characters of a canonical literal.
    pub(super) fn push_literal(tokens: &mut Vec<Token>, canonical: &str) {
        tokens.extend(units(canonical).map(Token::Literal));
    }

    /// Whether the whole of `text` matches.
    pub(super) fn matches(&self, text: &str) -> bool {
        let words = self.tokens.len() / 64 + 1;
        if words <= WORDS {
            self.run(text, &mut [0; WORDS], &mut [0; WORDS])
        } else {
            self.run(text, &mut vec![0; words], &mut vec![0; words])
        }
    }

    fn run(&self, text: &str, current: &mut [u64], next: &mut [u64]) -> bool {
        self.reach(current, 0);
        for unit in units(text) {
            next.fill(0);
            let mut alive = false;
            for (word, bits) in current.iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    let position = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let Some(token) = self.tokens.get(position) else { continue };
                    let (stays, moves) = step(*token, unit);
                    alive |= stays || moves;
                    match (stays, token) {
                        // Once inside a segment, only a slash ends it.
                        (true, Token::DeepSegments) => next[position / 64] |= 1 << (position % 64),
                        (true, _) => self.reach(next, position),
                        (false, _) => {}
                    }
                    if moves {
                        self.reach(next, position + 1);
                    }
                }
            }
            if !alive {
                return false;
            }
            current.copy_from_slice(next);
        }
        let end = self.tokens.len();
        current[end / 64] >> (end % 64) & 1 == 1
    }

    /// Marks `position` and, across elements that may match nothing, those after it.
    fn reach(&self, set: &mut [u64], mut position: usize) {
        loop {
            set[position / 64] |= 1 << (position % 64);
            match self.tokens.get(position) {
                Some(Token::Star | Token::Deep | Token::DeepSegments) => position += 1,
                _ => return,
            }
        }
    }
}

/// Whether a token can consume this unit and stay, and whether it can end with it.
fn step(token: Token, unit: Unit) -> (bool, bool) {
    let in_segment = unit != SLASH && unit != ENCODED_SLASH;
    match token {
        Token::Literal(literal) => (false, literal == unit),
        Token::One => (false, in_segment),
        Token::Star => (in_segment, false),
        Token::Any => (false, true),
        Token::Deep => (true, false),
        Token::DeepSegments => (true, unit == SLASH),
    }
}

/// The characters of a canonical text.
fn units(canonical: &str) -> impl Iterator<Item = Unit> + '_ {
    let bytes = canonical.as_bytes();
    let mut position = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(position)?;
        if byte != b'%' {
            position += 1;
            return Some(u32::from(byte));
        }
        let mut code = u32::from(escaped(bytes, position));
        position += 3;
        let more = match code {
            0..0xc0 => 0,
            0xc0..0xe0 => 1,
            0xe0..0xf0 => 2,
            _ => 3,
        };
        if more > 0 {
            code &= 0x3f >> more;
        }
        for _ in 0..more {
            code = code << 6 | u32::from(escaped(bytes, position) & 0x3f);
            position += 3;
        }
        Some(code | ESCAPED)
    })
}

/// The byte of the escape at `position`; 0 if there is none, and canonical text has no 0.
fn escaped(bytes: &[u8], position: usize) -> u8 {
    let digit = |index: usize| {
        let byte = bytes.get(position + index).copied().unwrap_or(b'0');
        char::from(byte).to_digit(16).unwrap_or(0) as u8
    };
    digit(1) << 4 | digit(2)
}
