//! A request's body as a connection to an origin sees it: whoever makes it is not known here.

use std::fmt::Debug;

use bytes::Bytes;
use http::HeaderName;
use http_body::Body;

/// What may go wrong in it.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub(crate) trait RequestBody: Body<Data = Bytes, Error = Error> + Debug + Send + Unpin {
    /// Says how the connection on which it goes out carries trailers.
    fn carried(&mut self, carriage: Carriage);
}

/// One of whatever kind.
pub(crate) type Outgoing = Box<dyn RequestBody>;

/// How a connection carries trailers.
#[derive(Debug)]
pub(crate) enum Carriage {
    /// All of them: HTTP/2.
    All,
    /// Those that were announced: HTTP/1.1.
    Announced(Vec<HeaderName>),
}
