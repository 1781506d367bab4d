//! Requests that nobody gets to judge: heads that the HTTP/2 library does not take, and heads that
//! stand unfinished when their connection ends. Each has its record.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::connection::STREAMS;
use super::context::Context;
use super::exchange::Exchange;
use super::frames::{Tally, Unserved};
use super::strict::Notes;
use super::strict::head::Refused;
use crate::audit::Protocol;
use interceptor_policy::{Filter, Reason};

/// Records a request of which nothing is known but that it was refused.
fn record(context: &Context, protocol: Protocol, reason: Reason, status: Option<u16>) {
    context.activity.request();
    let mut exchange = Exchange::new(&context.sandbox, protocol, &context.activity);
    exchange.note(|record| {
        record.reason = Some(reason);
        record.filter = Some(Filter::Request);
        record.host = Some(context.identity.host.shared());
        record.ip = Some(context.asked.ip());
        record.port = Some(context.asked.port());
        record.status = status;
    });
}

/// What ends a request whose connection ends.
fn cause(context: &Context) -> Reason {
    context.activity.limit().unwrap_or(Reason::Aborted)
}

/// The heads on an HTTP/2 connection that the library does not hand on.
pub(super) struct Watch {
    context: Arc<Context>,
    tally: Tally,
    /// Until then nothing more is read: refusals have their pace, these too.
    turn: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(context: Arc<Context>, tally: Tally) -> Watch {
        Watch { context, tally, turn: None }
    }

    /// Polls the connection, and records what it does not serve.
    pub(super) fn watch<T>(
        &mut self,
        cx: &mut Task<'_>,
        connection: impl FnOnce(&mut Task<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if let Some(turn) = &mut self.turn {
            std::task::ready!(turn.as_mut().poll(cx));
            self.turn = None;
        }
        let polled = connection(cx);
        if polled.is_pending() {
            let turn = self.record(self.tally.settle());
            if !turn.is_zero() {
                self.turn = Some(Box::pin(tokio::time::sleep(turn)));
                cx.waker().wake_by_ref();
            }
        }
        polled
    }

    /// Records each, and says how long it is until the next may be.
    fn record(&self, unserved: Unserved) -> Duration {
        let Unserved { malformed, too_large, refused, unread } = unserved;
        let too_many = Reason::LimitExceeded;
        let kinds = [
            (malformed, Reason::RequestMalformed, None),
            (too_large, too_many, Some(Refused::TOO_LARGE)),
            (refused, too_many, None),
            (unread, cause(&self.context), None),
        ];
        let mut turn = Duration::ZERO;
        for (count, reason, status) in kinds {
            // More than may be open at once nobody has asked at once.
            for _ in 0..count.min(u64::from(STREAMS)) {
                record(&self.context, Protocol::H2, reason, status);
                turn = self.context.sandbox.refusals.turn();
            }
        }
        turn
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut rest = self.tally.rest();
        // The connection's own record says of one that has asked nothing that it asked nothing.
        if rest == (Unserved { unread: 1, ..Unserved::default() })
            && !self.context.activity.has_record()
        {
            rest = Unserved::default();
        }
        self.record(rest);
    }
}

/// Records a head on an HTTP/1.1 connection that is not finished when the connection ends, if
/// requests came before it: else it is the connection's own record that tells.
pub(super) struct Unfinished {
    pub context: Arc<Context>,
    pub notes: Notes,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.notes.is_unfinished() && self.context.activity.has_record() {
            record(&self.context, Protocol::H1, cause(&self.context), None);
        }
    }
}
