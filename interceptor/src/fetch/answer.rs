//! The answer of a service.

use std::fmt;

use http::header::CONTENT_ENCODING;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use zeroize::Zeroizing;

use super::error::{FetchError, LARGEST};

/// An answer. Its body may hold secrets, so nothing of it is shown.
pub(crate) struct Answer {
    /// Its status; never a redirect.
    pub(crate) status: StatusCode,
    /// Its whole body.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Reads an answer to its end.
pub(super) async fn read(response: Response<Incoming>) -> Result<Answer, FetchError> {
    let status = response.status();
    if status.is_redirection() {
        return Err(FetchError::Redirect(status));
    }
    let mut codings = response.headers().get_all(CONTENT_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(FetchError::Coding);
    }
    let mut coming = response.into_body();
    // It never grows: that would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(LARGEST));
    while let Some(frame) = coming.frame().await {
        let frame = frame.map_err(|_| FetchError::Http)?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > LARGEST - body.len() {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(data);
    }
    Ok(Answer { status, body })
}
