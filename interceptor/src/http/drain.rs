//! What a client still sends of a body that nobody wants: taken, within bounds.

use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// How much of a body that the origin no longer wants is still read, and for how long, so that the
/// answer is not lost to a reset.
pub(crate) const DRAINED: usize = 64 * 1024 * 1024;
const DRAINING: Duration = Duration::from_secs(5);

/// Takes the rest of a body, within bounds, in a task of its own: closing under it, or resetting
/// its stream, would lose the answer for clients that send before they read (RFC 9113 section 8.1).
pub(crate) fn drain_behind(body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(drain(body, 0));
    }
}

/// Takes the rest of a body, within bounds, and returns it as far as no more than `kept` came.
pub(crate) async fn drain(mut body: Incoming, kept: usize) -> Vec<u8> {
    let mut call = Vec::new();
    let drained = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(data) = frame.data_ref() else { continue };
            taken += data.len();
            if taken <= kept {
                call.extend_from_slice(data);
            }
            if taken > DRAINED {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAINING, drained).await;
    call
}
