//! Why a source has no key.

use std::time::Duration;

/// Why a source has no key. Never holds anything that the source said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceProblem {
    /// Programs are not run here.
    #[error("is not run: {0}")]
    Refused(&'static str),
    /// There is no such program.
    #[error("was not found in PATH")]
    NotFound,
    /// The sandbox could put another program in its place.
    #[error(
        "is not run, because the sandbox's user can change {0}: put it where only root can write, \
         or run the sandbox as another user (--user)"
    )]
    Changeable(String),
    /// It could not be started.
    #[error("could not be started: {0}")]
    Unstarted(String),
    /// It took too long.
    #[error("did not end within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It printed too much.
    #[error("printed more than 64 KiB")]
    TooLong,
    /// It ended with an error.
    #[error("ended with status {0}")]
    Status(i32),
    /// A signal killed it.
    #[error("was killed by signal {0}")]
    Killed(i32),
    /// It printed JSON of no known form.
    #[error("printed JSON in which no key is recognised")]
    Form,
    /// Its key had expired before it came.
    #[error("gave a key that has expired")]
    Expired,
    /// Too many of its keys live already.
    #[error("gave {0} other keys that have not expired yet")]
    TooMany(usize),
    /// It is no key.
    #[error("gave what is no key: it {0}")]
    Key(String),
}
