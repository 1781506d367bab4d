//! Undoes the escapes of a run, layer by layer, and tells whether any layer shows part of a key.
//!
//! Nearly always none does, so this keeps nothing but the bytes of each layer; only a run that
//! shows something is read again with the origin of each byte ([`super::find`]). It may only err on
//! the side of showing: everything that [`super::find`] searches in is searched here too, except
//! what no spelling contains ([`super::undo`]).
//!
//! # Cost
//! Each layer is at most as long as the one before it, there are at most [`LEVELS`], and each byte
//! of each takes a constant number of steps. So no text, however chosen, is much more expensive
//! than any other.

use std::ops::Range;

use zeroize::Zeroize;

use super::escape::Reading;
use super::undo::{Junk, undo};
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
        let junk = if self.every_escape { Junk::Stays } else { Junk::of(deeper.len()) };
        undo(&text[run], reading, junk, layer);
        layer.len() >= self.shortest && self.shows_at(layer, (reading, level + 1), deeper)
    }
}
