//! Reads the rest of an unwanted body, within bounds.

use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// How much of an unwanted body is still read, and for how long, so that a reset does not lose the
/// response.
pub(crate) const DRAINED: usize = 64 * 1024 * 1024;
const DRAINING: Duration = Duration::from_secs(5);

/// Reads the rest of a body in a task of its own, within bounds. Closing the connection or
/// resetting the stream would lose the response for clients that send before they read (RFC 9113
/// section 8.1).
pub(crate) fn drain_behind(body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(drain(body, 0));
    }
}

/// Reads the rest of a body, within bounds. Returns it if it is at most `kept` bytes long.
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
