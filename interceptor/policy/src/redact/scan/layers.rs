//! Undoes the escapes of a run, layer by layer, and tells whether any layer shows part of a key.
//!
//! Nearly always none does, so this keeps nothing but the bytes of each layer; only a run that
//! shows something is read again with the origin of each byte ([`super::find`]). It may only err on
//! the side of showing: everything that [`super::find`] searches in is searched here too.
//!
//! # Cost
//! Each layer is at most as long as the one before it, there are at most [`LEVELS`], and each byte
//! of each takes a constant number of steps. So no text is much dearer than any other, whoever
//! wrote it.

use std::ops::Range;

use zeroize::Zeroize;

use super::escape::{HEX, Reading, WORD, introducers, next_escape, next_in, read};
use super::{LEVELS, Scanner};

/// Room for the text of each layer, used again for each run.
#[derive(Default)]
pub(super) struct Layers {
    texts: [Vec<u8>; LEVELS],
}

impl Layers {
    /// Overwrites all of it. Without any part of a key there is no need to.
    pub(super) fn wipe(&mut self) {
        self.texts.iter_mut().for_each(Zeroize::zeroize);
    }
}

impl Scanner {
    /// Whether a run shows part of a key when its escapes are undone.
    pub(super) fn run_shows(
        &self,
        text: &[u8],
        run: Range<usize>,
        (reading, level): (Reading, usize),
        layers: &mut Layers,
    ) -> bool {
        self.shows_in(text, run, (reading, level), &mut layers.texts[level..])
    }

    /// Whether a text in single bytes shows part of a key, as it is or with its escapes undone.
    pub(super) fn shows(&self, text: &[u8], layers: &mut Layers) -> bool {
        let own = [Reading::Percent, Reading::Backslash, Reading::Reference];
        let own = own.iter().filter(|_| self.own_escapes);
        self.shows_at(text, (Reading::All, 0), &mut layers.texts)
            || own.copied().any(|one| self.shows_escaped(text, (one, 0), &mut layers.texts))
    }

    fn shows_at(
        &self,
        text: &[u8],
        (reading, level): (Reading, usize),
        layers: &mut [Vec<u8>],
    ) -> bool {
        let mut shows = false;
        self.grams.each(text, |hit| shows |= self.stands(text, hit));
        if !shows {
            self.each_separated(text, |_| {
                shows = true;
                text.len()
            });
        }
        shows || self.shows_escaped(text, (reading, level), layers)
    }

    fn shows_escaped(
        &self,
        text: &[u8],
        reading: (Reading, usize),
        layers: &mut [Vec<u8>],
    ) -> bool {
        let mut shows = false;
        if !layers.is_empty() {
            self.each_escaped_run(text, reading.0, &mut |run| {
                shows = shows || self.shows_in(text, run, reading, layers);
            });
        }
        shows
    }

    fn shows_in(
        &self,
        text: &[u8],
        run: Range<usize>,
        (reading, level): (Reading, usize),
        layers: &mut [Vec<u8>],
    ) -> bool {
        let Some((layer, deeper)) = layers.split_first_mut() else { return false };
        layer.clear();
        undo(&text[run], reading, layer);
        layer.len() >= self.shortest && self.shows_at(layer, (reading, level + 1), deeper)
    }
}

/// Appends `text` with its escapes undone once.
fn undo(text: &[u8], reading: Reading, out: &mut Vec<u8>) {
    let from = out.len();
    // With room for a whole word behind the last byte.
    out.resize(from + text.len() + WORD, 0);
    let into = &mut out[from..];
    let (mut at, mut end) = (0, 0);
    let percent = matches!(reading, Reading::All | Reading::Percent);
    let backslash = matches!(reading, Reading::All | Reading::Backslash);
    while let Some(byte) = text.get(at) {
        // The shortest escape, of which a text can have the most.
        if percent
            && let Some([b'%', high, low]) = text[at..].first_chunk()
            && HEX[usize::from(*high)] | HEX[usize::from(*low)] < 16
        {
            into[end] = HEX[usize::from(*high)] << 4 | HEX[usize::from(*low)];
            end += 1;
            at += 3;
        } else if backslash
            && let Some(escape @ [b'\\', b'x', high, low]) = text[at..].first_chunk()
            && HEX[usize::from(*high)] | HEX[usize::from(*low)] < 16
        {
            // Beyond ASCII it stays as it is. Nothing can guess which it is, so no branch.
            let value = HEX[usize::from(*high)] << 4 | HEX[usize::from(*low)];
            let ascii = value.is_ascii();
            into[end..end + 4].copy_from_slice(escape);
            into[end] = if ascii { value } else { b'\\' };
            end += if ascii { 1 } else { 4 };
            at += 4;
        } else if matches!(byte, b'%' | b'\\' | b'&') {
            let rest = &text[at..];
            match read(rest, reading) {
                Some((byte, length)) => {
                    into[end] = byte;
                    end += 1;
                    at += length;
                }
                None => {
                    for _ in 0..introducers(rest) {
                        into[end] = *byte;
                        end += 1;
                        at += 1;
                    }
                }
            }
        } else if let Some(word) = text[at..].first_chunk::<WORD>()
            && !matches!(word[1], b'%' | b'\\' | b'&')
        {
            into[end..end + WORD].copy_from_slice(word);
            let mut plain = next_in(*word);
            if plain == WORD {
                plain = next_escape(&text[at..]).unwrap_or(text.len() - at);
                into[end..end + plain].copy_from_slice(&text[at..at + plain]);
            }
            end += plain;
            at += plain;
        } else {
            into[end] = *byte;
            end += 1;
            at += 1;
        }
    }
    out.truncate(from + end);
}

#[cfg(test)]
mod tests {
    use super::super::escape::unescape;
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
                let mut out = Vec::new();
                undo(text.as_bytes(), reading, &mut out);
                assert_eq!(out, **unescape(text.as_bytes(), reading).bytes, "{text}");
            }
        }
    }
}
