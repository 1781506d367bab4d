//! The resolver against a real name server on loopback, with the records it leaves.

mod decisions;
mod explained;
mod pace;
mod transport;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{MX, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use interceptor_policy::{Host, Policy, is_synthetic};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::question::tests::{query, with_options};
use super::*;
use crate::audit::Audit;
use crate::upstream::test_support::{Says, TestNameServer, policy};
use crate::upstream::{NameServers, Override, Upstream, UpstreamOptions};

struct TestRules {
    policy: Mutex<Arc<Policy>>,
    /// Refusals that took their turn.
    turns: AtomicU64,
    /// How long each has to wait.
    turn: Mutex<Duration>,
}

impl DnsRules for TestRules {
    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.lock().unwrap())
    }

    fn carries_placeholder(&self, name: &str) -> bool {
        name.to_ascii_lowercase().contains("proxy-managed-4242")
    }

    fn refusal_turn(&self) -> Duration {
        self.turns.fetch_add(1, Ordering::Relaxed);
        *self.turn.lock().unwrap()
    }
}

struct Lab {
    server: Arc<DnsServer>,
    names: Arc<Names>,
    rules: Arc<TestRules>,
    audit: Audit,
    outside: TestNameServer,
    records: PathBuf,
    _folder: tempfile::TempDir,
}

const ALLOWING: &str =
    r#"{"network":{"allow":["api.example.com","*.cdn.example.com","missing.example.com"]}}"#;

impl Lab {
    async fn new(rules: &str) -> Lab {
        Lab::with(rules, |name, kind| match (name, kind) {
            ("missing.example.com", _) => Says::Code(ResponseCode::NXDomain),
            (_, RecordType::TXT) => Says::Records(
                600,
                (0..40).map(|n| RData::TXT(TXT::new(vec![format!("{n:050}")]))).collect(),
            ),
            (_, RecordType::MX) => Says::Records(
                600,
                vec![RData::MX(MX::new(10, Name::from_ascii("mail.example.com.").unwrap()))],
            ),
            _ => Says::addresses(600, kind, &["192.0.2.1", "2001:db8::1"]),
        })
        .await
    }

    async fn with(
        rules: &str,
        answers: impl Fn(&str, RecordType) -> Says + Send + Sync + 'static,
    ) -> Lab {
        let outside = TestNameServer::start(answers).await;
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("audit.jsonl");
        let audit = Audit::to_file(&records).unwrap();
        let rules = Arc::new(TestRules {
            policy: Mutex::new(Arc::new(policy(rules))),
            turns: AtomicU64::new(0),
            turn: Mutex::default(),
        });
        let names = Arc::new(Names::new());
        let server = DnsServer::new(DnsOptions {
            sandbox: "s1".into(),
            names: Arc::clone(&names),
            rules: Arc::clone(&rules) as Arc<dyn DnsRules>,
            upstream: Upstream::new(UpstreamOptions {
                name_servers: NameServers::These(vec![outside.address]),
                overrides: ["here.example.com:192.0.2.7", "*.here.example:443:192.0.2.8"]
                    .iter()
                    .map(|text| text.parse::<Override>().unwrap())
                    .collect(),
                ..UpstreamOptions::default()
            }),
            audit: audit.clone(),
            ipv6: true,
            metrics: Arc::default(),
        });
        Lab { server, names, rules, audit, outside, records, _folder: folder }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let labels: Vec<&[u8]> =
            name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
        self.ask_raw(&with_options(query(&labels, u16::from(kind)), 1232, &[])).await
    }

    async fn ask_raw(&self, query: &[u8]) -> Message {
        Message::from_vec(&self.server.answer_udp(query).await.expect("an answer").message).unwrap()
    }

    async fn recorded(&self) -> Vec<serde_json::Value> {
        self.audit.flush().await;
        let text = std::fs::read_to_string(&self.records).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn addresses(answer: &Message) -> Vec<IpAddr> {
    answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn code(answer: &Message) -> ResponseCode {
    answer.metadata.response_code
}

/// The extended error of an answer: its code and its text.
fn extended(answer: &Message) -> Option<(u16, String)> {
    let option = answer.edns.as_ref()?.option(EdnsCode::from(15))?.clone();
    let EdnsOption::Unknown(_, data) = option else { panic!("{option:?}") };
    let (code, text) = data.split_first_chunk().unwrap();
    Some((u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).unwrap()))
}

fn synthetic(lab: &Lab, answer: &Message, name: &str) {
    let [address] = addresses(answer)[..] else { panic!("{name}: {answer:?}") };
    assert!(is_synthetic(address), "{name}: {address}");
    assert_eq!(lab.names.name_of(address).unwrap().as_str(), name);
}
