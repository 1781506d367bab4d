//! A quick test whether a text may contain any of some patterns; most texts then need no search.
//!
//! The text is sampled so densely that an occurrence of any pattern contains a whole sample of four
//! bytes. A bit table tells whether the patterns contain these four bytes.

/// Bytes of a sample.
const SAMPLE: usize = 4;
/// Bits of the table for each sample of the patterns, and so the inverse of the rate of false
/// positives.
const BITS_EACH: usize = 16;

/// The table of some patterns.
#[derive(Debug)]
pub(super) struct Glance {
    /// The distance between two samples; 0 if a pattern is too short for this.
    stride: usize,
    /// Shifting a hash right by this gives the index of its bit.
    shift: u32,
    bits: Box<[u64]>,
}

impl Glance {
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a [u8]> + Clone) -> Glance {
        let shortest = patterns.clone().map(<[u8]>::len).min().unwrap_or(SAMPLE);
        let samples: usize = patterns.clone().map(|pattern| pattern.len()).sum();
        let size = (samples * BITS_EACH).next_power_of_two().clamp(64, 1 << 20);
        let mut glance = Glance {
            stride: (shortest + 1).saturating_sub(SAMPLE),
            shift: u32::BITS - size.trailing_zeros(),
            bits: vec![0; size / 64].into(),
        };
        for sample in patterns.flat_map(|pattern| pattern.windows(SAMPLE)) {
            let bit = glance.bit(sample);
            glance.bits[bit / 64] |= 1 << (bit % 64);
        }
        glance
    }

    /// `false` if no pattern is in the text, whatever the case of its ASCII letters.
    pub(super) fn may_hold(&self, text: &[u8]) -> bool {
        // `windows` yields whole samples only.
        self.stride == 0
            || text.windows(SAMPLE).step_by(self.stride).any(|sample| {
                let bit = self.bit(sample);
                self.bits[bit / 64] & 1 << (bit % 64) != 0
            })
    }

    /// The index of a sample's bit. It ignores the case of letters.
    fn bit(&self, sample: &[u8]) -> usize {
        let number = sample.iter().fold(0, |number, byte| number << 8 | u32::from(byte | 0x20));
        (number.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERNS: [&[u8]; 3] = [b"Zr8tQ1vB6nXw", b"wm8n3kqs7y\xff\x00abc", b"k4q9"];

    #[test]
    fn what_is_there_is_seen_at_every_place() {
        for shortest in 0..PATTERNS.len() {
            let patterns = &PATTERNS[..=shortest];
            let glance = Glance::new(patterns.iter().copied());
            for pattern in patterns {
                for (before, after) in (0..50).flat_map(|n| [(n, 0), (n, 3), (0, n)]) {
                    let text = [&b"-".repeat(before)[..], pattern, &b"-".repeat(after)].concat();
                    assert!(glance.may_hold(&text), "{}", text.escape_ascii());
                    assert!(glance.may_hold(&text.to_ascii_lowercase()));
                    assert!(glance.may_hold(&text.to_ascii_uppercase()));
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_hardly_seen() {
        let glance = Glance::new(PATTERNS[..2].iter().copied());
        let numbers = (1..1000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let texts = numbers.map(|number| format!("application/{number:x}"));
        let seen = texts.filter(|text| glance.may_hold(text.as_bytes())).count();
        assert!(seen < 300, "{seen}");
        assert!(!glance.may_hold(b"") && !glance.may_hold(b"Zr8"));
    }

    #[test]
    fn patterns_too_short_for_it_are_seen_everywhere() {
        let glance = Glance::new([&b"abc"[..], b"a longer one"].into_iter());
        assert!(glance.may_hold(b"xyz") && glance.may_hold(b""));
        let none = Glance::new(std::iter::empty());
        assert!(!none.may_hold(b"anything at all"));
    }
}
