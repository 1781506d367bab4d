//! Resolve, guard, dial, pool.

mod dial;
mod overrides;
mod resolve;

pub use overrides::{Override, OverrideError, Overrides};
pub use resolve::{Existence, NameServers};
