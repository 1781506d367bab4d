//! For tests: a service on loopback that hears one request a connection, and says what the test
//! has it say.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use interceptor_policy::{Host, ServiceUrl};
use rustls::ServerConfig;
use rustls::{ServerConnection, StreamOwned};

use crate::tls::ca::Ca;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// Method, target and version.
    pub(crate) line: String,
    /// The header fields, in lower case, each with its value.
    pub(crate) fields: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

impl Heard {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What the service says.
pub(crate) enum Says {
    /// These bytes; then it ends the connection.
    These(Vec<u8>),
    /// These bytes; then it says nothing until the client has gone.
    AndHangs(Vec<u8>),
    /// These bytes, and more without an end.
    AndFloods(Vec<u8>),
}

impl Says {
    /// A whole answer.
    pub(crate) fn answer(status: &str, fields: &str, body: &str) -> Says {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{fields}content-length: {length}\r\n\r\n{body}");
        Says::These(head.into_bytes())
    }

    /// An answer of JSON.
    pub(crate) fn json(status: &str, body: &serde_json::Value) -> Says {
        Says::answer(status, "content-type: application/json\r\n", &body.to_string())
    }
}

type Talk = dyn Fn(&Heard) -> Says + Send + Sync;

/// The service. It lives as long as the test's process.
pub(crate) struct Service {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Every request so far.
    pub(crate) heard: Arc<Mutex<Vec<Heard>>>,
}

impl Service {
    /// In the clear.
    pub(crate) fn start(talk: impl Fn(&Heard) -> Says + Send + Sync + 'static) -> Service {
        Service::listen(None, talk)
    }

    /// Over TLS, for this name, by a CA.
    pub(crate) fn start_tls(
        ca: &Ca,
        name: &str,
        talk: impl Fn(&Heard) -> Says + Send + Sync + 'static,
    ) -> Service {
        let chain = ca.mint(&Host::parse(name).unwrap()).unwrap();
        let config = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, ca.leaf_key())
            .unwrap();
        Service::listen(Some(Arc::new(config)), talk)
    }

    fn listen(
        tls: Option<Arc<ServerConfig>>,
        talk: impl Fn(&Heard) -> Says + Send + Sync + 'static,
    ) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (noted, talk): (_, Arc<Talk>) = (heard.clone(), Arc::new(talk));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, tls) = (stream.unwrap(), tls.clone());
                let (noted, talk) = (noted.clone(), talk.clone());
                thread::spawn(move || match tls {
                    None => converse(stream, &noted, &*talk),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        converse(StreamOwned::new(connection, stream), &noted, &*talk);
                    }
                });
            }
        });
        Service { address, heard }
    }

    /// A URL of a service in the clear.
    pub(crate) fn url(&self, path: &str) -> ServiceUrl {
        ServiceUrl::parse(&format!("http://{}{path}", self.address)).unwrap()
    }

    /// Every request so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for StreamOwned<ServerConnection, TcpStream> {}

fn converse(stream: impl Stream, noted: &Mutex<Vec<Heard>>, talk: &Talk) {
    let mut stream = BufReader::new(stream);
    let Some(heard) = hear(&mut stream) else { return };
    noted.lock().unwrap().push(heard.clone());
    let says = talk(&heard);
    let (Says::These(bytes) | Says::AndHangs(bytes) | Says::AndFloods(bytes)) = &says;
    let _ = stream.get_mut().write_all(bytes).and_then(|()| stream.get_mut().flush());
    match says {
        Says::These(_) => {}
        Says::AndHangs(_) => drop(stream.read(&mut [0])),
        Says::AndFloods(_) => while stream.get_mut().write_all(&[b'x'; 4096]).is_ok() {},
    }
}

fn hear(stream: &mut impl std::io::BufRead) -> Option<Heard> {
    let mut heard = Heard::default();
    stream.read_line(&mut heard.line).ok()?;
    heard.line.truncate(heard.line.trim_end().len());
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        heard.fields.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = heard.field("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    heard.body = String::from_utf8(body).unwrap();
    Some(heard)
}
