//! What a sandbox is told of a name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::timeout;

use super::answer::{self, Answer};
use super::budget::Budget;
use super::names::Names;
use super::question::{self, Malformed, Question};
use super::recall::Recall;
use crate::audit::{self, Audit, Kind, RequestId, Verdict};
use crate::metrics::SandboxMetrics;
use crate::policy::{Decision, Filter, Host, HostName, Policy, Reason};
use crate::upstream::{Existence, Records, Upstream};

/// How long clients may keep an answer, in seconds. A name keeps its addresses far longer.
const TTL: u32 = 60;
/// How long a client waits to hear whether a name exists before it gets an address anyway: less than resolvers wait.
const EXISTENCE_WITHIN: Duration = Duration::from_secs(3);
/// Questions to real name servers that a sandbox may cause at once, and then each second.
const QUESTIONS_AT_ONCE: u32 = 200;
const QUESTIONS_PER_SECOND: u32 = 20;
/// The largest answer over TCP, in bytes.
pub(super) const MAX_TCP: usize = 65_535;

/// The types, besides addresses, that are asked for on behalf of a sandbox.
const FORWARDED: [RecordType; 10] = [
    RecordType::TXT,
    RecordType::MX,
    RecordType::SRV,
    RecordType::CAA,
    RecordType::NS,
    RecordType::SOA,
    RecordType::CNAME,
    RecordType::NAPTR,
    RecordType::TLSA,
    RecordType::SSHFP,
];

/// What the resolver has to know of its sandbox, as it is now: both may be replaced while it runs.
pub trait Rules: Send + Sync + 'static {
    /// The policy in force.
    fn policy(&self) -> Arc<Policy>;
    /// Whether a name carries a placeholder, or the random part of one, in whatever case.
    fn carries_placeholder(&self, name: &str) -> bool;
}

/// What a [`DnsServer`] is made of.
pub struct DnsOptions {
    /// The sandbox's name in records.
    pub sandbox: Arc<str>,
    /// The sandbox's table.
    pub names: Arc<Names>,
    /// The sandbox's rules.
    pub rules: Arc<dyn Rules>,
    /// Who is asked whether a name exists.
    pub upstream: Upstream,
    /// Where decisions are recorded.
    pub audit: Audit,
    /// Whether the sandbox can be reached over IPv6; if not, no name has an IPv6 address.
    pub ipv6: bool,
    /// Where queries are counted.
    pub(crate) metrics: Arc<SandboxMetrics>,
}

/// The resolver of one sandbox.
pub struct DnsServer {
    options: DnsOptions,
    budget: Budget,
    recall: Recall,
}

impl DnsServer {
    /// A resolver; [`DnsServer::serve_udp`] and [`DnsServer::serve_tcp`] run it.
    pub fn new(options: DnsOptions) -> Arc<DnsServer> {
        let budget = Budget::new(QUESTIONS_AT_ONCE, QUESTIONS_PER_SECOND);
        Arc::new(DnsServer { options, budget, recall: Recall::new() })
    }

    /// The answer to one message over UDP: `None` is silence.
    pub(super) async fn answer_udp(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.answer(message, answer::udp_limit).await
    }

    /// The answer to one message over TCP: `None` is the end of the connection.
    pub(super) async fn answer_tcp(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.answer(message, |_| MAX_TCP).await
    }

    async fn answer(&self, message: &[u8], limit: impl Fn(&Question) -> usize) -> Option<Vec<u8>> {
        self.options.metrics.dns_query();
        match question::parse(message) {
            Ok(question) => self.decide(&question).await.to_bytes(&question, limit(&question)),
            Err(Malformed::Answer { id, opcode, code }) => Some(answer::error(id, opcode, code)),
            Err(Malformed::Ignore) => None,
        }
    }

    async fn decide(&self, question: &Question) -> Answer {
        let text = text_of(&question.name);
        if self.options.rules.carries_placeholder(&text) {
            self.options.metrics.dns_denied();
            self.record(&text, Verdict::Deny, Some((Reason::CredentialMisuse, Filter::Credential)));
            return Answer::blocked("the name carries a credential's placeholder");
        }
        if matches!(question.kind, RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG) {
            return Answer::code(ResponseCode::Refused);
        }
        if question.name.is_root() {
            return Answer::nothing();
        }
        // The names of addresses, and the rest of the infrastructure's zone, are nobody's business outside.
        if question.name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"arpa")) {
            return self.reverse(question);
        }
        // What no host can be called does not exist; nor does an address as a name.
        let Ok(Host::Name(name)) = host(&question.name) else { return Answer::code(ResponseCode::NXDomain) };
        if name.as_str() == "localhost" || name.as_str().ends_with(".localhost") {
            return self.local(question, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        }
        match question.kind {
            RecordType::A | RecordType::AAAA => self.address(question, &name).await,
            // No alternative endpoints, no HTTP/3 hints, no encrypted ClientHello.
            RecordType::HTTPS | RecordType::SVCB => Answer::nothing(),
            _ => self.other(question, &name).await,
        }
    }

    async fn address(&self, question: &Question, name: &HostName) -> Answer {
        let policy = self.options.rules.policy();
        let permitted = policy.may_resolve(name);
        if permitted {
            if self.existence(name).await == Existence::No {
                self.record(name.as_str(), Verdict::Allow, None);
                return Answer::code(ResponseCode::NXDomain);
            }
        } else {
            // It gets an address all the same, so that the refusal can be explained to whoever connects.
            self.record_denied(&policy, name);
        }
        let Some((four, six)) = self.options.names.addresses(name) else {
            self.record(name.as_str(), Verdict::Deny, Some((Reason::LimitExceeded, Filter::Request)));
            return Answer::code(ResponseCode::ServFail);
        };
        if permitted {
            self.record(name.as_str(), Verdict::Allow, None);
        }
        self.local(question, four, six)
    }

    /// Whether a permitted name exists, as far as that may be asked.
    async fn existence(&self, name: &HostName) -> Existence {
        if let Some(known) = self.recall.existence(name.as_str()) {
            return known;
        }
        if !self.spend() {
            return Existence::Unknown;
        }
        let asked = timeout(EXISTENCE_WITHIN, self.options.upstream.exists(name)).await;
        let existence = asked.unwrap_or(Existence::Unknown);
        self.recall.found(name.as_str(), existence);
        existence
    }

    /// Any type but addresses: asked for, where the policy permits the name and the type is one that programs need.
    async fn other(&self, question: &Question, name: &HostName) -> Answer {
        let policy = self.options.rules.policy();
        if !policy.may_resolve(name) {
            self.record_denied(&policy, name);
            return Answer::blocked("the sandbox's network policy denies the name");
        }
        if !FORWARDED.contains(&question.kind) {
            return Answer::nothing();
        }
        if !self.spend() {
            self.record(name.as_str(), Verdict::Deny, Some((Reason::LimitExceeded, Filter::Request)));
            return Answer::blocked("the sandbox asks too many questions");
        }
        self.record(name.as_str(), Verdict::Allow, None);
        match self.options.upstream.records(name, question.kind).await {
            Records::Found(records) => Answer::records(forward(question, records)),
            Records::NoSuchName => Answer::code(ResponseCode::NXDomain),
            Records::Unknown => Answer::code(ResponseCode::ServFail),
        }
    }

    /// Addresses that are known here.
    fn local(&self, question: &Question, four: Ipv4Addr, six: Ipv6Addr) -> Answer {
        let address = match question.kind {
            RecordType::A => IpAddr::V4(four),
            RecordType::AAAA if self.options.ipv6 => IpAddr::V6(six),
            _ => return Answer::nothing(),
        };
        Answer::records(vec![Record::from_rdata(question.name.clone(), TTL, RData::from(address))])
    }

    /// The name of a synthetic or a loopback address; nothing else under `arpa` exists.
    fn reverse(&self, question: &Question) -> Answer {
        let whole = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
        let address = question.name.parse_arpa_name().ok().filter(whole).map(|net| net.addr());
        let name = match address {
            Some(address) if address.is_loopback() => Some("localhost.".to_owned()),
            Some(address) => self.options.names.name_of(address).map(|name| format!("{}.", name.as_str())),
            None => None,
        };
        match name.and_then(|name| Name::from_ascii(name).ok()) {
            None => Answer::code(ResponseCode::NXDomain),
            Some(_) if question.kind != RecordType::PTR => Answer::nothing(),
            Some(name) => {
                let data = RData::PTR(PTR(name));
                Answer::records(vec![Record::from_rdata(question.name.clone(), TTL, data)])
            }
        }
    }

    /// One question to a real name server; `false` when the sandbox has none left, which is said once in a while.
    fn spend(&self) -> bool {
        let spent = self.budget.spend();
        // The empty name is no host's.
        if !spent && self.recall.is_news("", (Verdict::Deny, Some(Reason::LimitExceeded))) {
            tracing::warn!(
                sandbox = &*self.options.sandbox,
                "more names are looked up than are asked for outside; until that ends, permitted names get an address \
                 whether they exist or not, and no other records"
            );
            let record = audit::Record::lifecycle(&self.options.sandbox, "dns_budget_exhausted");
            self.options.audit.emit(record);
        }
        spent
    }

    fn record_denied(&self, policy: &Policy, name: &HostName) {
        self.options.metrics.dns_denied();
        if !self.recall.is_news(name.as_str(), (Verdict::Deny, Some(Reason::HostDenied))) {
            return;
        }
        let id = RequestId::new();
        // A name has no port; that of HTTPS finds the rule in all but the rarest policies.
        let record = match policy.decide_host(&Host::Name(name.clone()), 443) {
            Decision::Deny(deny) => audit::Record::deny(&self.options.sandbox, id, Kind::Dns, &deny),
            Decision::Allow(_) => audit::Record::new(&self.options.sandbox, id, Kind::Dns, Verdict::Deny)
                .reason(Reason::HostDenied)
                .filter(Filter::Network),
        };
        self.options.audit.emit(record.host(name.as_str()));
    }

    fn record(&self, name: &str, verdict: Verdict, why: Option<(Reason, Filter)>) {
        if !self.recall.is_news(name, (verdict, why.map(|(reason, _)| reason))) {
            return;
        }
        let record =
            audit::Record::new(&self.options.sandbox, RequestId::new(), Kind::Dns, verdict).host(name);
        self.options.audit.emit(match why {
            Some((reason, filter)) => record.reason(reason).filter(filter),
            None => record.filter(Filter::Network),
        });
    }
}

/// The records of the type asked for and what leads to them, owned by the name as it was asked for.
fn forward(question: &Question, records: Vec<Record>) -> Vec<Record> {
    let wanted = |record: &Record| matches!(record.record_type(), kind if kind == question.kind || kind == RecordType::CNAME);
    let named = |mut record: Record| {
        if record.name == question.name {
            record.name = question.name.clone();
        }
        record.ttl = record.ttl.min(TTL);
        record
    };
    records.into_iter().filter(wanted).map(named).collect()
}

/// The host that a name means; the labels must be those of a host name, so that a dot within a label is not taken for one
/// between labels.
fn host(name: &Name) -> Result<Host, ()> {
    let mut text = String::new();
    for label in name.iter() {
        let label = std::str::from_utf8(label).map_err(|_| ())?;
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err(());
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    Host::parse(&text).map_err(|_| ())
}

/// The name for people and for searching, whatever bytes it is made of.
fn text_of(name: &Name) -> String {
    let labels: Vec<_> = name.iter().map(String::from_utf8_lossy).collect();
    labels.join(".")
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer").field("sandbox", &self.options.sandbox).finish_non_exhaustive()
    }
}
