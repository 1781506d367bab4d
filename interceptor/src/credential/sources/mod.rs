//! Keys that live: each comes from a source, lasts for a while, and is fetched again before it
//! ends.
//!
//! A [`Living`] source is shared by all sandboxes whose policies name it and that read it with the
//! same rights. It is fetched once for all who wait, again at four fifths of its key's life, and
//! once after an origin refused the key. The last good key is used until it expires; after that,
//! requests fail with the source's error. A fetch has a thread to itself, since it waits for
//! programs. What fetches is given from outside ([`Programs`]); here is no process and no socket.

mod living;
mod printed;
mod registry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::ExecSource;
use zeroize::Zeroizing;

use super::key::KeyProblem;

pub(crate) use self::living::{Living, Value};
pub(crate) use self::registry::{Measured, measured};

/// The most that a program may print.
pub(crate) const MOST_PRINTED: usize = 64 * 1024;

/// Runs the programs that print keys.
pub(crate) trait Programs: fmt::Debug + Send + Sync {
    /// Whose rights a program has; sources are shared among those with the same.
    fn whose(&self) -> &str;

    /// What a program prints, at most [`MOST_PRINTED`] bytes, once it has ended without an error.
    /// Waits for it.
    ///
    /// # Errors
    /// Why there is nothing; never anything that the program said.
    fn run(&self, program: &ExecSource) -> Result<Zeroizing<Vec<u8>>, SourceProblem>;
}

/// What runs programs; or why none is run.
pub(crate) type Runs = Result<Arc<dyn Programs>, &'static str>;

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
    /// It is no key.
    #[error("gave what is no key: it {0}")]
    Key(String),
}

impl From<KeyProblem> for SourceProblem {
    fn from(problem: KeyProblem) -> SourceProblem {
        match problem {
            KeyProblem::Source(problem) => problem,
            other => SourceProblem::Key(other.to_string()),
        }
    }
}
