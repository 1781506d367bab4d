//! A request body as connections to origins see it, independent of its origin.

use std::fmt::Debug;

use bytes::Bytes;
use http::HeaderName;
use http_body::Body;

/// An error of the body.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub(crate) trait RequestBody:
    Body<Data = Bytes, Error = Error> + Debug + Send + Unpin
{
    /// Tells how the connection carries trailers.
    fn carried(&mut self, carriage: Carriage);
}

/// Any request body.
pub(crate) type Outgoing = Box<dyn RequestBody>;

/// How a connection carries trailers.
#[derive(Debug)]
pub(crate) enum Carriage {
    /// All of them: HTTP/2.
    All,
    /// Only announced ones: HTTP/1.1.
    Announced(Vec<HeaderName>),
}
