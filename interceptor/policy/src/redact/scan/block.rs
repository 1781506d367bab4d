//! Compares the bytes of a text many at a time: one bit for each.

/// The number of bytes compared without a branch.
pub(super) const BLOCK: usize = 64;

/// The number of bytes before a block that belong to it.
pub(super) const BEFORE: usize = 2;

/// A block with two bytes before it and three behind it.
pub(super) type Block = [u8; BLOCK + 5];

/// One bit for each byte of a block for which `holds` is true, given two bytes before and three
/// after it. Written so that the compiler vectorises it.
#[inline(always)]
pub(super) fn each(block: &Block, holds: impl Fn([u8; 6]) -> bool) -> u64 {
    let mut found = [0_u8; BLOCK];
    for (place, found) in found.iter_mut().enumerate() {
        // Not by `map`, which is not always inlined.
        *found = u8::from(holds([
            block[place],
            block[place + 1],
            block[place + 2],
            block[place + 3],
            block[place + 4],
            block[place + 5],
        ]));
    }
    if found.iter().fold(0, |any, found| any | found) == 0 {
        return 0;
    }
    let words = found.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    // Pack the lowest bits of eight bytes.
    words.zip((0..).step_by(8)).fold(0, |bits, (word, place)| {
        bits | word.wrapping_mul(0x0102_0408_1020_4080) >> 56 << place
    })
}
