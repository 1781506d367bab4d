//! What else in this process sees the records, besides the sink and the subscribers.

use super::Record;

/// Sees every record, in order, on the writer's thread, so it must not wait for anybody.
pub(crate) trait Observer: Send {
    /// Sees a record and its line, which ends with a line feed and has none of a chain's fields.
    fn record(&mut self, record: &Record, line: &str);

    /// Every record queued so far was seen; with `ended`, no more come.
    fn pause(&mut self, ended: bool);
}
