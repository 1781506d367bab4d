//! Limits what request heads cost before they are judged. With HPACK, a few kilobytes can stand for
//! thousands of fields, which h2 stores as it decodes them. So an incomplete head must be finished
//! in time, a sandbox may have only so many of them, and complete ones are judged before more are
//! read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use interceptor_policy::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::super::activity::Activity;

/// How many bytes of heads are read before the complete ones must have been judged.
const AT_ONCE: usize = 64 * 1024;

/// The heads of one connection.
#[derive(Debug)]
pub(in crate::http) struct Unfinished {
    /// One slot per incomplete head, shared by the sandbox.
    places: Arc<Semaphore>,
    /// How long a head may take.
    time: Duration,
    activity: Arc<Activity>,
    place: Option<OwnedSemaphorePermit>,
    /// Only set while waiting for the rest of a head.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes of heads read since all were judged.
    bytes: usize,
}

impl Unfinished {
    pub(in crate::http) fn new(
        places: Arc<Semaphore>,
        time: Duration,
        activity: Arc<Activity>,
    ) -> Unfinished {
        Unfinished { places, time, activity, place: None, timer: None, bytes: 0 }
    }

    /// Notes a frame of a head. Fails if the head is incomplete and no slot is free.
    pub(super) fn came(&mut self, bytes: usize, is_last: bool) -> io::Result<()> {
        self.bytes += bytes;
        if is_last {
            self.place = None;
            self.timer = None;
        } else if self.place.is_none() {
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                self.activity.end(Reason::LimitExceeded);
                return Err(io::Error::other("too many unfinished heads of requests"));
            };
            self.place = Some(place);
        }
        Ok(())
    }

    /// Whether complete heads must be judged before more is read.
    pub(super) fn are_many(&self) -> bool {
        self.bytes >= AT_ONCE
    }

    /// Notes that all complete heads were judged.
    pub(super) fn judged(&mut self) {
        self.bytes = 0;
    }

    /// Waits for the rest of a head. Fails when it is overdue.
    pub(super) fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.place.is_none() {
            return Poll::Pending;
        }
        let time = self.time;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        timer.as_mut().poll(cx).map(|()| {
            self.activity.end(Reason::HeaderTimeout);
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}
