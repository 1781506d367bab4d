//! Who hears of other keys before a request can carry them.

use std::path::Path;
use std::sync::Arc;

use super::key::{Content, RealKey};

/// Hears of other keys.
pub(super) trait Told {
    /// A key file has another key: the other sandboxes that read it learn of that.
    fn tell(&self, path: &Path, content: Content, key: &Arc<RealKey>);

    /// Keys were added to those that answers are searched for. Call it before a request can carry
    /// one of them, and after what is to be told.
    fn announce(&self);
}
