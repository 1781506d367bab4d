//! Keys that live: each comes from a source, lasts for a while, and is fetched again before it
//! ends.
//!
//! A [`Living`] source is shared by all sandboxes whose policies name it and that read it with the
//! same rights. It is fetched once for all who wait, again at four fifths of its key's life, and
//! once after an origin refused the key. The last good key is used until it expires; after that,
//! requests fail with the source's error. The keys before it are kept for the search in answers,
//! and none that has not expired makes room for another. A fetch has a thread to itself, since it
//! waits for programs. What fetches is given from outside ([`Programs`]); here is no process and no
//! socket.

mod due;
mod living;
mod printed;
mod problem;
mod registry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use interceptor_policy::ExecSource;
use zeroize::Zeroizing;

pub(crate) use self::living::{Life, Living, Value};
pub use self::problem::SourceProblem;
pub(crate) use self::registry::{living, measured};

/// The most that a program may print.
pub(crate) const MOST_PRINTED: usize = 64 * 1024;

/// Runs the programs that print keys.
pub(crate) trait Programs: fmt::Debug + Send + Sync {
    /// Whose rights a program has; sources are shared among those with the same.
    fn whose(&self) -> &str;

    /// Whether a policy in this file may name programs: nobody could have written it but those who
    /// may have any program run.
    fn accepts(&self, file: &Path) -> bool;

    /// What a program prints, at most [`MOST_PRINTED`] bytes, once it has ended without an error.
    /// Waits for it.
    ///
    /// # Errors
    /// Why there is nothing; never anything that the program said.
    fn run(&self, program: &ExecSource) -> Result<Zeroizing<Vec<u8>>, SourceProblem>;
}

/// What runs programs; or why none is run.
pub(crate) type Runs = Result<Arc<dyn Programs>, &'static str>;
