//! Whose sources they are: with whose rights files are read and state is kept.

use std::fmt;
use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// Work with the directory of the state.
pub(crate) type StateWork<'a> = &'a mut (dyn FnMut(&Path) -> io::Result<()> + Send);

/// Whoever sources belong to: a person, or the daemon.
pub(crate) trait Household: fmt::Debug + Send + Sync {
    /// Whose rights it has; sources are shared among those with the same.
    fn whose(&self) -> &str;

    /// Whether a policy in this file may name services to ask: it is the operator's, and nobody
    /// could have written it but those who may have anything asked.
    fn accepts(&self, file: &Path) -> bool;

    /// Reads a file, at most so many bytes of it.
    ///
    /// # Errors
    /// As [`crate::files::read`].
    fn read(&self, file: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>>;

    /// Does work with the directory in which state is kept, which exists.
    ///
    /// # Errors
    /// Those of the work, or if there is no such directory.
    fn with_state(&self, work: StateWork<'_>) -> io::Result<()>;
}
