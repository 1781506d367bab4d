//! A visitor of the page that is no browser: it says exactly what a test wants said.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Daemon, until};

/// How long an answer may take: a bound against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, Debug)]
pub struct Said {
    /// The status; 0 where the connection ended without an answer.
    pub status: u16,
    /// The fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Said {
    /// The answer in these bytes.
    pub fn of(bytes: &[u8]) -> Said {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let fields = lines.filter_map(|line| line.split_once(": "));
        Said {
            status: status.and_then(|status| status.parse().ok()).unwrap_or(0),
            headers: fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: body.to_owned(),
        }
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A visitor, with a session or without.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Where the page is.
    pub address: SocketAddr,
    /// The cookie that is sent.
    pub cookie: Option<String>,
}

/// Where a page is, and the target with its token, by the address that lets a browser in.
///
/// # Panics
/// If it is no such address.
#[track_caller]
pub fn parts(url: &str) -> (SocketAddr, String) {
    let rest = url.trim().strip_prefix("http://").unwrap_or_else(|| panic!("{url}"));
    let (address, target) = rest.split_once('/').unwrap_or_else(|| panic!("{url}"));
    (address.parse().unwrap_or_else(|_| panic!("{url}")), format!("/{target}"))
}

impl Visitor {
    /// Nobody yet.
    pub fn stranger(address: SocketAddr) -> Visitor {
        Visitor { address, cookie: None }
    }

    /// Goes in by an address with a token.
    ///
    /// # Panics
    /// If it does not let anybody in.
    #[track_caller]
    pub fn enters(url: &str) -> Visitor {
        let (address, target) = parts(url);
        let said = Visitor::stranger(address).get(&target);
        assert_eq!(said.status, 200, "{said:?}");
        let cookie = said.headers["set-cookie"].split(';').next().expect("a cookie").to_owned();
        Visitor { address, cookie: Some(cookie) }
    }

    /// Goes in to the page of a daemon.
    #[track_caller]
    pub fn of(daemon: &Daemon<'_>) -> Visitor {
        Visitor::enters(&invitation(daemon))
    }

    /// GETs a target.
    #[track_caller]
    pub fn get(&self, target: &str) -> Said {
        self.ask("GET", target, &[], "")
    }

    /// POSTs JSON as the page does.
    #[track_caller]
    pub fn post(&self, target: &str, body: &Value) -> Said {
        self.ask("POST", target, &["x-interceptor-request: 1"], &body.to_string())
    }

    /// Sends a request with further fields.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str, fields: &[&str], body: &str) -> Said {
        let host = format!("host: {}", self.address);
        self.says(method, target, &[&[host.as_str()], fields].concat(), body)
    }

    /// Sends a request with these fields alone, and the cookie.
    #[track_caller]
    pub fn says(&self, method: &str, target: &str, fields: &[&str], body: &str) -> Said {
        let mut head = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        if let Some(cookie) = &self.cookie {
            head.push_str(&format!("cookie: {cookie}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.sends(format!("{head}\r\n{body}").as_bytes())
    }

    /// Sends bytes, and reads what comes until the connection ends.
    #[track_caller]
    pub fn sends(&self, bytes: &[u8]) -> Said {
        let mut stream = self.connect().expect("somebody listens");
        // Whoever is refused may be cut off while it sends.
        let _ = stream.write_all(bytes);
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        Said::of(&heard)
    }

    /// A connection.
    ///
    /// # Errors
    /// As of connect(2).
    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Follows the page's events.
    ///
    /// # Panics
    /// If nobody listens.
    #[track_caller]
    pub fn follow(&self) -> Followed {
        let mut stream = self.connect().expect("somebody listens");
        let cookie = self.cookie.clone().unwrap_or_default();
        let head = format!(
            "GET /v1/events HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).expect("a connection");
        let text = Arc::new(Mutex::new((Vec::new(), false)));
        let (theirs, mut reading) = (text.clone(), stream.try_clone().expect("a descriptor"));
        let reader = thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = reading.read(&mut buffer) {
                theirs.lock().expect("no reader panicked").0.extend_from_slice(&buffer[..length]);
            }
            theirs.lock().expect("no reader panicked").1 = true;
        });
        Followed { text, stream, reader: Some(reader) }
    }
}

/// The address that lets a browser in to the page of a daemon.
#[track_caller]
pub fn invitation(daemon: &Daemon<'_>) -> String {
    let made = daemon.call("POST", "/v1/page", "");
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["url"].as_str().expect("an address").to_owned()
}

/// A stream of events. It ends when it is dropped.
#[derive(Debug)]
pub struct Followed {
    text: Arc<Mutex<(Vec<u8>, bool)>>,
    stream: TcpStream,
    reader: Option<thread::JoinHandle<()>>,
}

impl Followed {
    /// Everything so far, with what frames it.
    pub fn text(&self) -> String {
        let text = self.text.lock().expect("no reader panicked");
        String::from_utf8_lossy(&text.0).into_owned()
    }

    /// The data of every event of this name so far.
    pub fn data(&self, name: &str) -> Vec<Value> {
        let text = self.text();
        let begins = format!("event: {name}\ndata: ");
        let whole = text.split("\n\n").filter_map(|event| {
            let at = event.find(&begins)?;
            serde_json::from_str(&event[at + begins.len()..]).ok()
        });
        whole.collect()
    }

    /// Waits until it contains a text.
    #[track_caller]
    pub fn wait_for(&self, wanted: &str) {
        assert!(until(|| self.text().contains(wanted)), "{wanted:?} never came: {}", self.text());
    }

    /// Waits until it ends.
    #[track_caller]
    pub fn wait_for_end(&self) {
        let ended = || self.text.lock().expect("no reader panicked").1;
        assert!(until(ended), "it never ended: {}", self.text());
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
