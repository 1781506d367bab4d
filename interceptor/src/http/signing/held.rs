//! Bodies that are read before their request is verified: their signature covers a digest that
//! stands nowhere else.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use interceptor_policy::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::flight::Flight;
use super::super::refuse::Unsent;
use super::super::refuse::deny::refusal;
use super::super::sending::Broken;
use crate::sigv4::Digest;
use crate::words;

/// The longest body that is held.
const MOST_HELD: usize = 32 * 1024 * 1024;
/// The bytes that a permit stands for; see `Sandbox::held`.
const PERMIT: usize = 64 * 1024;

/// A body that was read, and its place among those of its sandbox.
#[derive(Debug)]
pub(in super::super) struct Held {
    pub(super) bytes: Bytes,
    digest: Digest,
    _place: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(super) fn digest(&self) -> Digest {
        self.digest.clone()
    }
}

/// Reads the body of a request.
///
/// # Errors
/// It is too long, too slow or malformed.
pub(super) async fn read(
    flight: &mut Flight<'_>,
    body: &mut Incoming,
) -> Result<Held, Box<Unsent>> {
    let limits = *flight.limits();
    let most = limits.body_bytes.and_then(|most| usize::try_from(most).ok());
    let mut bytes = BytesMut::new();
    let mut context = digest::Context::new(&digest::SHA256);
    let mut place: Option<OwnedSemaphorePermit> = None;
    loop {
        let frame = tokio::time::timeout(limits.idle_timeout, body.frame()).await;
        let frame = match frame.map_err(|_| Broken::idle(limits.idle_timeout)) {
            Ok(None) => break,
            Ok(Some(frame)) => frame.map_err(|error| Broken::of(&error)),
            Err(broken) => Err(broken),
        };
        let frame = frame.map_err(|broken| Box::new(Unsent::from(broken.deny)))?;
        flight.exchange.activity().beat();
        // Nothing signs trailers here, and no service reads them.
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() + data.len();
        if let Some(most) = most.filter(|most| length > *most) {
            return Err(Box::new(Broken::too_large(most as u64).deny.into()));
        }
        if length > MOST_HELD {
            return Err(Box::new(too_long().into()));
        }
        grow(&mut place, length, &flight.context.sandbox.held)?;
        context.update(&data);
        bytes.extend_from_slice(&data);
    }
    Ok(Held { bytes: bytes.freeze(), digest: Digest::finish(context.finish()), _place: place })
}

/// Takes more of what the sandbox may hold.
fn grow(
    place: &mut Option<OwnedSemaphorePermit>,
    length: usize,
    held: &Arc<Semaphore>,
) -> Result<(), Box<Unsent>> {
    let needed = length.div_ceil(PERMIT);
    let taken = place.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let Some(more) = needed.checked_sub(taken).filter(|more| *more > 0) else { return Ok(()) };
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    match held.clone().try_acquire_many_owned(more) {
        Ok(permit) => match place {
            Some(place) => place.merge(permit),
            None => *place = Some(permit),
        },
        Err(_) => {
            let message = "too many bodies are being read whole, because only they tell the \
                           digest that their signatures cover; send fewer at once";
            let deny = refusal(Reason::LimitExceeded, message.to_owned());
            return Err(Box::new(Unsent { deny, retry: true }));
        }
    }
    Ok(())
}

fn too_long() -> interceptor_policy::Deny {
    let message = format!(
        "the body is longer than {}, and only it tells the digest that its signature covers; \
         send x-amz-content-sha256 with the request, or less",
        words::count(MOST_HELD as u64, "byte")
    );
    interceptor_policy::Deny { status: 413, ..refusal(Reason::LimitExceeded, message) }
}
