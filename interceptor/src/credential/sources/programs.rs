//! What runs the programs that print keys; it is given from outside.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use interceptor_policy::ExecSource;
use zeroize::Zeroizing;

use super::problem::SourceProblem;

/// The most that a program may print.
pub(crate) const MOST_PRINTED: usize = 64 * 1024;

/// Runs the programs that print keys.
pub(crate) trait Programs: fmt::Debug + Send + Sync {
    /// Whose rights a program has; sources are shared among those with the same.
    fn whose(&self) -> &str;

    /// Whether a policy in this file may name programs: it is the operator's, and nobody could have
    /// written it but those who may have any program run.
    fn accepts(&self, file: &Path) -> bool;

    /// Whether nothing is run any more.
    fn has_ended(&self) -> bool {
        false
    }

    /// What a program prints, at most [`MOST_PRINTED`] bytes, once it has ended without an error.
    /// Waits for it.
    ///
    /// # Errors
    /// Why there is nothing; never anything that the program said.
    fn run(&self, program: &ExecSource) -> Result<Zeroizing<Vec<u8>>, SourceProblem>;
}

/// What runs programs; or why none is run.
pub(crate) type Runs = Result<Arc<dyn Programs>, &'static str>;
