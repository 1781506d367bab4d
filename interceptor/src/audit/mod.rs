//! One record per decision, as a JSON line.
//!
//! A [`Record`] tells what was decided and why. [`Audit`] is the cheap handle through which the
//! whole proxy emits records; emitting never blocks or fails. One thread formats and writes them.
//! Records that the queue or the disk cannot take are counted, and the stream itself reports the
//! count. This module decides nothing and sees no key and no query string.

mod chain;
mod handle;
mod id;
mod line;
mod observer;
mod queue;
mod received;
mod record;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

pub use chain::{ChainKey, ChainKeyError, ChainVerifier, Chained, Fault, Flaw, Note};
pub use handle::{Audit, AuditError, ChainOptions};
pub use id::RequestId;
pub(crate) use line::steers_or_hides;
pub(crate) use observer::Observer;
pub use queue::AuditOptions;
pub use record::{Kind, Protocol, Record, Verdict};
pub use writer::Published;
