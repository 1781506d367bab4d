//! The process in which somebody typed a run that another process supervises: it has the terminal,
//! receives the signals, and stops with the command.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::signal::Signal;

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Send the command a signal; with `true`, its whole process group.
    Signal(Signal, bool),
    /// Give the command the terminal, and continue it.
    Lend,
}

/// A caller at the other end of a connection.
pub(crate) trait Caller {
    /// Is readable when the caller asks for something.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// What the caller asks for next. Waits for it.
    ///
    /// # Errors
    /// If the caller has gone, or talks nonsense.
    fn next(&self) -> io::Result<Ask>;

    /// Whether the caller is in the foreground of its own terminal.
    fn is_in_foreground(&self) -> bool;

    /// Tells the caller that job control stopped the command.
    fn stopped(&self, signal: i32);
}
