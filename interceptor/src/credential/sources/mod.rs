//! Keys that live: each comes from a source, lasts for a while, and is fetched again before it
//! ends.
//!
//! A [`Living`] source is shared by all sandboxes whose policies name it and that read it with the
//! same rights. It is fetched once for all who wait, again at four fifths of its key's life, and
//! once after an origin refused the key. The last good key is used until it expires; after that,
//! requests fail with the source's error. The keys before it are kept for the search in answers,
//! and none that has not expired makes room for another. A fetch has a thread to itself, since it
//! waits for programs and services. What runs programs is given from outside ([`Programs`]), and so
//! is how services are reached and where what must outlive the process is kept ([`Outbound`]).

mod due;
mod fetched;
mod household;
mod living;
mod origin;
mod outbound;
mod printed;
mod problem;
mod programs;
mod registry;
mod set;
#[cfg(test)]
mod tests;

pub(crate) use self::household::{Household, StateWork};
pub(crate) use self::living::{Life, Living, Value};
pub(crate) use self::origin::Origin;
pub(crate) use self::outbound::{Asking, Asks, Outbound};
pub use self::problem::SourceProblem;
pub(crate) use self::programs::{MOST_PRINTED, Programs, Runs};
pub(crate) use self::registry::{keep_time, living, measured};
pub(crate) use self::set::{Kinds, Sources};
