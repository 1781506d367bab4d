//! One record per decision, as a JSON line.
//!
//! A [`Record`] says what was decided and why. [`Audit`] is the cheap handle through which every part of the
//! proxy emits records: emitting never blocks and never fails. One thread formats and writes them; what the queue or the
//! disk cannot take is counted, and the count is reported in the stream itself. Nothing here decides anything, and
//! nothing here sees a key or a query string.

mod chain;
mod handle;
mod id;
mod line;
mod queue;
mod record;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

pub use chain::{ChainKey, ChainKeyError, Chained, Fault, Flaw, Note, Verifier};
pub use handle::{Audit, AuditError, AuditOptions, ChainOptions};
pub use id::RequestId;
pub(crate) use line::steers_or_hides;
pub use record::{Kind, Protocol, Record, Verdict};
pub use writer::Published;
