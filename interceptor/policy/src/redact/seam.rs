//! Finds keys that the end of a message cuts in two. Each message is searched by itself, so that
//! nothing waits at its end; this searches across the ends.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::LateKey;
use super::scan::Scanner;

/// The last bytes of a stream's messages so far.
pub(super) struct Seam {
    scanner: Arc<Scanner>,
    tail: Zeroizing<Vec<u8>>,
    /// The number of bytes of the tail that belong to finished messages.
    ended: usize,
}

impl Seam {
    pub(super) fn new(scanner: Arc<Scanner>) -> Seam {
        Seam { scanner, tail: Zeroizing::default(), ended: 0 }
    }

    /// Searches with another scanner from here on.
    ///
    /// # Errors
    /// Its spellings may have begun before the bytes that are kept.
    pub(super) fn renew(&mut self, scanner: &Arc<Scanner>) -> Result<(), LateKey> {
        let kept = self.scanner.reach().saturating_sub(1);
        if self.tail.len() >= kept && scanner.longest().saturating_sub(1) > kept {
            return Err(LateKey);
        }
        self.scanner = Arc::clone(scanner);
        Ok(())
    }

    /// Marks the end of a message.
    pub(super) fn end(&mut self) {
        self.ended = self.tail.len();
    }

    /// Takes the next bytes of a message. Returns whether a key begins in an earlier message and
    /// ends in these bytes.
    #[must_use]
    pub(super) fn completes(&mut self, bytes: &[u8]) -> bool {
        let reach = self.scanner.reach().saturating_sub(1);
        let mut found = false;
        if self.ended > 0 {
            let mut text = Zeroizing::new(Vec::with_capacity(self.tail.len() + reach));
            text.extend_from_slice(&self.tail);
            text.extend_from_slice(&bytes[..bytes.len().min(reach)]);
            found = self.scanner.straddles(&text, self.ended);
        }
        let fresh = &bytes[bytes.len().saturating_sub(reach)..];
        let surplus = (self.tail.len() + fresh.len()).saturating_sub(reach).min(self.tail.len());
        self.tail.drain(..surplus);
        self.ended = self.ended.saturating_sub(surplus);
        self.tail.extend_from_slice(fresh);
        found
    }
}

/// Shows how much is kept, never the bytes.
impl fmt::Debug for Seam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seam").field("bytes", &self.tail.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"sk-real0123456789abcdefgh";

    fn seam() -> Seam {
        let keys = [(KEY, &b"sk-proxy-managed-01234567"[..])];
        Seam::new(Arc::new(Scanner::new(keys.into_iter())))
    }

    #[test]
    fn a_key_over_any_number_of_messages_is_seen_when_it_is_whole() {
        for cut in 1..KEY.len() {
            let mut seam = seam();
            assert!(!seam.completes(b"before ") && !seam.completes(&KEY[..cut]));
            seam.end();
            assert!(seam.completes(&[&KEY[cut..], b" behind"].concat()), "cut at {cut}");
        }
        let mut seam = seam();
        let mut found = 0;
        for byte in KEY {
            found += usize::from(seam.completes(&[*byte]));
            seam.end();
        }
        assert_eq!(found, 1);
    }

    #[test]
    fn a_key_within_one_message_is_ignored_and_bytes_between_two_halves_count() {
        let mut seam = seam();
        for _ in 0..3 {
            assert!(!seam.completes(KEY));
            seam.end();
        }
        assert!(!seam.completes(&KEY[..10]));
        seam.end();
        assert!(!seam.completes(&[b".", &KEY[10..]].concat()));
        assert!(seam.tail.len() < seam.scanner.reach());
    }
}
