//! Requests that never reach the judge: heads that h2 rejects, and heads still incomplete when
//! their connection ends. Each is recorded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use http::Version;
use interceptor_policy::{Deny, Filter, Reason};
use tokio::time::Sleep;

use super::context::{Context, STREAMS, count};
use super::exchange::Exchange;
use super::frames::{Explain, Tally, Unserved};
use super::refuse::deny::refusal;
use super::refuse::envelope::{About, answer};
use super::strict::Notes;
use super::strict::head::Refused;
use crate::audit::{Protocol, RequestId};

/// Records a request about which only the refusal is known.
fn record(context: &Context, protocol: Protocol, reason: Reason, status: Option<u16>) -> RequestId {
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
    exchange.id()
}

/// Records a head that h2 rejects as oversized, and responds as to any other refused request.
pub(super) fn explain(context: Arc<Context>) -> Explain {
    Box::new(move || {
        let why = Refused::head_too_large(count(context.sandbox.limits().header_bytes));
        let id = record(&context, Protocol::H2, why.reason, Some(why.status));
        let host = context.identity.host.to_string();
        let deny = Deny { status: why.status, ..refusal(why.reason, why.message) };
        let about = About { host: Some(&host), ..About::default() };
        let answer = answer(&deny, about, id, Version::HTTP_2, false);
        (answer, context.sandbox.refusals.turn())
    })
}

/// Why a request ended with its connection.
fn cause(context: &Context) -> Reason {
    context.activity.limit().unwrap_or(Reason::Aborted)
}

/// Records heads on an HTTP/2 connection that h2 does not pass on.
pub(super) struct Watch {
    context: Arc<Context>,
    tally: Tally,
    /// Nothing more is read until then, because these refusals are rate-limited too.
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
            let turn = self.record(self.tally.settle()).max(self.tally.turn());
            if !turn.is_zero() {
                self.turn = Some(Box::pin(tokio::time::sleep(turn)));
                cx.waker().wake_by_ref();
            }
        }
        polled
    }

    /// Records each, and returns how long to wait before reading more.
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
            // A client cannot have opened more streams at once than the maximum.
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
        // The connection's own record covers a connection without any request.
        if rest == (Unserved { unread: 1, ..Unserved::default() })
            && !self.context.activity.has_record()
        {
            rest = Unserved::default();
        }
        self.record(rest);
    }
}

/// Records an HTTP/1.1 head still incomplete when its connection ends, if requests came before it.
/// Otherwise the connection's own record covers it.
pub(super) struct Cut {
    pub context: Arc<Context>,
    pub notes: Notes,
}

impl Drop for Cut {
    fn drop(&mut self) {
        if self.notes.is_unfinished() && self.context.activity.has_record() {
            record(&self.context, Protocol::H1, cause(&self.context), None);
        }
    }
}
