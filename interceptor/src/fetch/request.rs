//! A request to a service.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method};
use http_body_util::Full;
use interceptor_policy::ServiceUrl;
use rustls::ClientConfig;
use zeroize::Zeroizing;

use super::error::FetchError;

/// A request. Its fields and its body may hold secrets, so nothing of them is shown.
#[derive(Clone)]
pub(crate) struct Request {
    pub(super) url: ServiceUrl,
    method: Method,
    fields: Vec<(HeaderName, Zeroizing<Vec<u8>>)>,
    body: Option<(&'static str, Zeroizing<Vec<u8>>)>,
    /// How its service is verified, if otherwise than usual.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Request {
    /// A request without a body.
    pub(crate) fn new(method: Method, url: ServiceUrl) -> Request {
        Request { url, method, fields: Vec::new(), body: None, tls: None }
    }

    /// With a body of this media type.
    pub(crate) fn body(self, media: &'static str, body: Zeroizing<Vec<u8>>) -> Request {
        Request { body: Some((media, body)), ..self }
    }

    /// To a service that is verified so.
    pub(crate) fn trusting(self, tls: Arc<ClientConfig>) -> Request {
        Request { tls: Some(tls), ..self }
    }

    /// With one more header field, which may be secret.
    pub(crate) fn field(mut self, name: HeaderName, value: &[u8]) -> Request {
        self.fields.push((name, Zeroizing::new(value.to_vec())));
        self
    }

    /// With `authorization: SCHEME SECRET`.
    pub(crate) fn authorization(self, scheme: &str, secret: &[u8]) -> Request {
        let value = Zeroizing::new([scheme.as_bytes(), b" ", secret].concat());
        self.field(AUTHORIZATION, &value)
    }

    /// The message that is sent.
    pub(super) fn message(&self) -> Result<http::Request<Full<Bytes>>, FetchError> {
        const PROBLEM: &str = "a secret of its source has a character that no header may hold";
        let (media, body) = match &self.body {
            Some((media, body)) => (Some(*media), Bytes::from_owner(body.clone())),
            None => (None, Bytes::new()),
        };
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        let target = self.url.target().parse();
        *request.uri_mut() = target.map_err(|_| FetchError::Request("its path is not one"))?;
        let fields = request.headers_mut();
        let authority = HeaderValue::from_str(&self.url.authority());
        fields.insert(HOST, authority.map_err(|_| FetchError::Request("its host is not one"))?);
        let agent = concat!("interceptor/", env!("CARGO_PKG_VERSION"));
        fields.insert(USER_AGENT, HeaderValue::from_static(agent));
        fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
        fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(media) = media {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        }
        for (name, value) in &self.fields {
            let value = HeaderValue::from_bytes(value);
            let mut value = value.map_err(|_| FetchError::Request(PROBLEM))?;
            value.set_sensitive(true);
            fields.insert(name.clone(), value);
        }
        Ok(request)
    }
}
