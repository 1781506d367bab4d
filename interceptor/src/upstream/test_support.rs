//! For tests: policies from their text, and an authoritative name server on loopback that logs
//! every question.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use interceptor_policy::{Catalogue, Document, Policy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::Road;
use crate::tls::ca::Ca;
use crate::tls::client::{self, ClientConfigs};
use tokio::task::JoinSet;

pub(crate) fn policy(json: &str) -> Policy {
    let parsed = Document::parse(json).unwrap_or_else(|problems| panic!("{problems:?}"));
    Policy::compile(&parsed.document, &Catalogue::builtin())
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// What the server says of a name.
pub(crate) enum Says {
    /// These records, owned by the name asked for, with this time to live in seconds.
    Records(u32, Vec<RData>),
    /// These whole records.
    Whole(Vec<Record>),
    /// An error.
    Code(ResponseCode),
    /// Nothing.
    Silence,
}

impl Says {
    pub(crate) fn addresses(ttl: u32, kind: RecordType, addresses: &[&str]) -> Says {
        let all = addresses.iter().map(|text| text.parse::<IpAddr>().unwrap());
        Says::Records(ttl, all.map(RData::from).filter(|data| data.record_type() == kind).collect())
    }
}

/// Sockets of both protocols on one port. A port that is free for one may be taken for the other.
async fn same_port() -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp, address);
        }
    }
    panic!("no port is free for UDP and TCP");
}

pub(crate) struct TestNameServer {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<(String, RecordType)>>>,
    _tasks: JoinSet<()>,
}

type Answers = dyn Fn(&str, RecordType) -> Says + Send + Sync;

impl TestNameServer {
    pub(crate) async fn start(
        answers: impl Fn(&str, RecordType) -> Says + Send + Sync + 'static,
    ) -> TestNameServer {
        let answers: Arc<Answers> = Arc::new(answers);
        let log: Arc<Mutex<Vec<(String, RecordType)>>> = Arc::default();
        let (udp, tcp, address) = same_port().await;
        let mut tasks = JoinSet::new();
        let (own_log, own_answers) = (Arc::clone(&log), Arc::clone(&answers));
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
                if let Some(answer) = answer(&buffer[..length], &*own_answers, &own_log, 1232) {
                    let _ = udp.send_to(&answer, peer).await;
                }
            }
        });
        let own_log = Arc::clone(&log);
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; usize::from(length)];
                    if stream.read_exact(&mut query).await.is_err() {
                        break;
                    }
                    let Some(answer) = answer(&query, &*answers, &own_log, 65_535) else {
                        continue;
                    };
                    if stream.write_u16(answer.len() as u16).await.is_err() {
                        break;
                    }
                    let _ = stream.write_all(&answer).await;
                }
            }
        });
        TestNameServer { address, log, _tasks: tasks }
    }

    /// Every question asked so far: the name in lower case without its last dot, and the type.
    pub(crate) fn log(&self) -> Vec<(String, RecordType)> {
        self.log.lock().unwrap().clone()
    }
}

fn answer(
    query: &[u8],
    answers: &Answers,
    log: &Mutex<Vec<(String, RecordType)>>,
    limit: usize,
) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let name = question.name().to_ascii().to_ascii_lowercase();
    let name = name.trim_end_matches('.').to_owned();
    log.lock().unwrap().push((name.clone(), question.query_type()));
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(question.clone());
    match answers(&name, question.query_type()) {
        Says::Silence => return None,
        Says::Code(code) => message.metadata.response_code = code,
        Says::Whole(records) => {
            message.add_answers(records);
        }
        Says::Records(ttl, data) => {
            let owner: Name = question.name().clone();
            message.add_answers(
                data.into_iter().map(|data| Record::from_rdata(owner.clone(), ttl, data)),
            );
        }
    }
    let bytes = message.to_vec().unwrap();
    if bytes.len() <= limit { Some(bytes) } else { message.truncate().to_vec().ok() }
}

/// Verifies by a root that nobody uses.
pub(crate) fn tls() -> ClientConfigs {
    let ca = Ca::new("nobody").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca.pem()).unwrap();
    let verifier = client::verifier(&[file.path().to_owned()], &[]).unwrap();
    ClientConfigs::new(client::base(verifier).unwrap())
}

/// The road without a proxy.
pub(crate) fn road() -> Road {
    Road::direct(tls())
}
