//! The requests that origins parsed, in order.

use std::sync::Mutex;

use hyper::{Request, Version};

use super::Connection;

/// One request as an origin parsed it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection it came on, counted over all origins of the lab.
    pub connection: usize,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The name in the ClientHello.
    pub sni: Option<String>,
    /// The common name in the certificate that the client presented.
    pub client: Option<String>,
    /// `h1` or `h2`.
    pub protocol: &'static str,
    /// The host: `:authority`, or `Host`, as sent.
    pub host: String,
    /// The method.
    pub method: String,
    /// The path as sent.
    pub path: String,
    /// The query as sent.
    pub query: Option<String>,
    /// The fields, names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The length of the body; `None` until it ends.
    pub body_bytes: Option<u64>,
    /// The SHA-256 of the body in hex; `None` until it ends.
    pub body_sha256: Option<String>,
    /// The trailer fields that followed the body.
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    /// Parses an HTTP/1.1 head, for origins without a parser.
    pub fn from_head(head: &str) -> Seen {
        let mut lines = head.lines();
        let mut request_line = lines.next().unwrap_or_default().split(' ');
        let method = request_line.next().unwrap_or_default().to_owned();
        let target = request_line.next().unwrap_or_default();
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let host = headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
        Seen {
            connection: 0,
            tls: true,
            sni: None,
            client: None,
            protocol: "h1",
            host: host.unwrap_or_default(),
            method,
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers,
            body_bytes: None,
            body_sha256: None,
            trailers: vec![],
        }
    }

    /// A call received by a gRPC server, which has its own parser.
    pub fn of_grpc(host: &str, method: &str) -> Seen {
        Seen { protocol: "h2", ..Seen::from_head(&format!("POST {method} HTTP/2\nhost: {host}\n")) }
    }

    /// A request received by a server that has its own parser.
    pub fn of_http(host: &str, method: &str, path: &str) -> Seen {
        Seen::from_head(&format!("{method} {path} HTTP/1.1\nhost: {host}\n"))
    }

    /// Every value of a field.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The fields that the agreement oracle compares: without a port, because the audit file has it
    /// in a separate field.
    pub fn line(&self) -> String {
        let host = match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.host,
        };
        format!(
            "{} {}{}",
            self.method,
            host.trim_matches(['[', ']']).to_ascii_lowercase(),
            self.path
        )
    }
}

/// Every request so far.
#[derive(Debug, Default)]
pub struct Records(Mutex<Vec<Seen>>);

impl Records {
    /// A copy of all, in order.
    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().expect("no recorder panicked").clone()
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.0.lock().expect("no recorder panicked").clear();
    }

    /// Adds the head of a request; returns its number, for [`Records::end`].
    pub(crate) fn add<B>(&self, request: &Request<B>, connection: &Connection) -> usize {
        let uri = request.uri();
        let named = request
            .headers()
            .get("host")
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let seen = Seen {
            connection: connection.number,
            tls: connection.tls,
            sni: connection.sni.clone(),
            client: connection.client.clone(),
            protocol: if request.version() == Version::HTTP_2 { "h2" } else { "h1" },
            host: uri.authority().map(ToString::to_string).or(named).unwrap_or_default(),
            method: request.method().to_string(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            headers: pairs(request.headers()),
            body_bytes: None,
            body_sha256: None,
            trailers: vec![],
        };
        self.push(seen)
    }

    /// Adds a request that something other than the HTTP origins parsed.
    pub fn push(&self, seen: Seen) -> usize {
        let mut all = self.0.lock().expect("no recorder panicked");
        all.push(seen);
        all.len() - 1
    }

    pub(crate) fn end(
        &self,
        number: usize,
        bytes: u64,
        sha256: String,
        trailers: Vec<(String, String)>,
    ) {
        let mut all = self.0.lock().expect("no recorder panicked");
        // The test may have cleared the records meanwhile.
        let Some(seen) = all.get_mut(number) else { return };
        seen.body_bytes = Some(bytes);
        seen.body_sha256 = Some(sha256);
        seen.trailers = trailers;
    }
}

/// The fields of a map in order, values as text.
pub fn pairs(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
