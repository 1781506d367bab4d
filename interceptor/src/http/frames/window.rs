//! Flow control for responses that h2 does not know of (RFC 9113 section 5.2). h2 assumes that it
//! alone uses the connection's window, so a little of what the client grants is withheld from it.

use super::scan::{Frame, SEEN, number};

/// How much to withhold: more than the length of one response.
const RESERVE: u32 = 4096;
/// The initial window of a connection, and of a stream before any SETTINGS.
const INITIAL: u32 = 65_535;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The client's flow-control windows.
#[derive(Debug)]
pub(super) struct Window {
    /// Granted by the client and withheld from h2.
    reserve: u32,
    /// What h2 may still send on the connection.
    left: i64,
    /// The window of a new stream.
    initial: u32,
}

impl Window {
    pub(super) fn new() -> Window {
        Window { reserve: 0, left: i64::from(INITIAL), initial: INITIAL }
    }

    /// Whether more must be withheld.
    pub(super) fn is_short(&self) -> bool {
        self.reserve < RESERVE
    }

    /// Withholds part of an increment of the connection's window. Leaves at least one byte, since
    /// an increment of zero is an error (RFC 9113 section 6.9).
    pub(super) fn withhold(&mut self, increment: &mut [u8; 4]) {
        let granted = u32::from_be_bytes(*increment) & 0x7fff_ffff;
        let withheld = (RESERVE - self.reserve).min(granted.saturating_sub(1));
        self.reserve += withheld;
        *increment = (granted - withheld).to_be_bytes();
    }

    /// Reads an increment of the connection's window.
    pub(super) fn granted(&mut self, frame: Frame<'_>) {
        self.left += i64::from(number(frame.seen, 0).unwrap_or_default() & 0x7fff_ffff);
    }

    /// Notes that h2 has sent this much.
    pub(super) fn spent(&mut self, bytes: usize) {
        self.left -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Reads the client's settings.
    pub(super) fn settings(&mut self, frame: Frame<'_>) {
        if frame.length > SEEN {
            // The rest of it is not seen.
            self.initial = 0;
        }
        for setting in frame.seen.as_chunks::<6>().0 {
            let [a, b, value @ ..] = *setting;
            if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                self.initial = u32::from_be_bytes(value);
            }
        }
    }

    /// Takes the window for a response on a new stream, if there is enough. `is_last` means that h2
    /// sends nothing afterwards, so what is left of its window may be used too.
    pub(super) fn take(&mut self, length: usize, is_last: bool) -> bool {
        let Ok(length) = u32::try_from(length) else { return false };
        let rest = if is_last { self.left.max(0) } else { 0 };
        if length > self.initial || i64::from(length) > i64::from(self.reserve) + rest {
            return false;
        }
        self.reserve = self.reserve.saturating_sub(length);
        true
    }
}
