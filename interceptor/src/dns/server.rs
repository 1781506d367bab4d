//! Answers a sandbox's queries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use interceptor_policy::{Decision, Filter, Host, HostName, Policy, Reason};
use tokio::time::timeout;

use super::answer::{self, Answer, Why};
use super::budget::TokenBucket;
use super::ledger::Ledger;
use super::names::Names;
use super::question::{self, Malformed, Question};
use super::recall::Recall;
use crate::audit::{self, Audit, Kind, RequestId, Verdict};
use crate::metrics::SandboxMetrics;
use crate::upstream::{Existence, LookupFailure, Records, Upstream};

/// The TTL of answers, in seconds. A name keeps its addresses far longer.
const TTL: u32 = 60;
/// Time limit for real name servers, shorter than clients' own timeouts.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// Burst and rate per second of a sandbox's queries to real name servers.
const QUESTIONS_AT_ONCE: u32 = 200;
const QUESTIONS_PER_SECOND: u32 = 20;
/// The largest TCP response, in bytes.
pub(super) const MAX_TCP: usize = 65_535;

/// The record types, besides addresses, that are forwarded for a sandbox.
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

/// The sandbox's current rules, which may be replaced at any time.
pub(crate) trait DnsRules: Send + Sync + 'static {
    /// The policy in force.
    fn policy(&self) -> Arc<Policy>;
    /// Whether an upstream proxy resolves a name, so that no name server here is asked about it.
    fn resolves_elsewhere(&self, _: &HostName) -> bool {
        false
    }
    /// Whether a name contains a placeholder or its random part, in any case.
    fn carries_placeholder(&self, name: &str) -> bool;
    /// Queues among the sandbox's refusals of all protocols and returns the delay, which is usually
    /// zero.
    fn refusal_turn(&self) -> Duration;
}

/// The parts of a [`DnsServer`].
pub(crate) struct DnsOptions {
    /// The sandbox's name in records.
    pub sandbox: Arc<str>,
    /// The sandbox's table of names.
    pub names: Arc<Names>,
    /// The sandbox's rules.
    pub rules: Arc<dyn DnsRules>,
    /// Checks whether a name exists.
    pub upstream: Upstream,
    /// Where decisions are recorded.
    pub audit: Audit,
    /// Whether the sandbox has IPv6; if not, no name gets an IPv6 address.
    pub ipv6: bool,
    /// Where queries are counted.
    pub(crate) metrics: Arc<SandboxMetrics>,
}

/// The resolver of one sandbox.
pub(crate) struct DnsServer {
    options: DnsOptions,
    budget: TokenBucket,
    recall: Recall,
    ledger: Ledger,
    /// The sandbox's own host name.
    own_name: OnceLock<HostName>,
}

/// The response to a message.
pub(super) struct Reply {
    pub(super) message: Vec<u8>,
    /// The delay before it is sent.
    pub(super) turn: Duration,
}

impl DnsServer {
    /// A resolver; [`DnsServer::serve_udp`] and [`DnsServer::serve_tcp`] run it.
    pub(crate) fn new(options: DnsOptions) -> Arc<DnsServer> {
        let budget = TokenBucket::new(QUESTIONS_AT_ONCE, QUESTIONS_PER_SECOND);
        let ledger = Ledger::new(Arc::clone(&options.sandbox), options.audit.clone());
        let (recall, own_name) = (Recall::new(), OnceLock::new());
        Arc::new(DnsServer { options, budget, recall, ledger, own_name })
    }

    /// Makes `name` stand for the sandbox itself, like `localhost`. Only the first call counts.
    pub(crate) fn set_own_name(&self, name: HostName) {
        let _ = self.own_name.set(name);
    }

    /// Periodically records the lookups that were only counted. Never returns.
    pub(super) async fn tell_unrecorded(&self) {
        self.ledger.tell().await;
    }

    /// Counts a query that was neither answered nor recorded.
    pub(super) fn count_lost(&self) {
        self.ledger.count();
    }

    /// Records how many lookups were only counted so far.
    pub(crate) fn flush(&self) {
        self.ledger.flush();
    }

    /// The response to a UDP message; `None` to ignore it.
    pub(super) async fn answer_udp(&self, message: &[u8]) -> Option<Reply> {
        self.answer(message, answer::udp_limit).await
    }

    /// The response to a TCP message; `None` to close the connection.
    pub(super) async fn answer_tcp(&self, message: &[u8]) -> Option<Reply> {
        self.answer(message, |_| MAX_TCP).await
    }

    async fn answer(&self, message: &[u8], limit: impl Fn(&Question) -> usize) -> Option<Reply> {
        self.options.metrics.dns_query();
        match question::parse(message) {
            Ok(question) => {
                let answer = self.decide(&question).await;
                let message = answer.to_bytes(&question, limit(&question))?;
                Some(Reply { message, turn: answer.turn })
            }
            Err(Malformed::Answer { id, opcode, code }) => {
                Some(Reply { message: answer::error(id, opcode, code), turn: Duration::ZERO })
            }
            Err(Malformed::Ignore) => None,
        }
    }

    async fn decide(&self, question: &Question) -> Answer {
        let text = text_of(&question.name);
        if self.options.rules.carries_placeholder(&text) {
            self.options.metrics.dns_denied();
            self.record(&text, Verdict::Deny, Some((Reason::CredentialMisuse, Filter::Credential)));
            return self.refused(Why::CarriesPlaceholder);
        }
        if matches!(
            question.kind,
            RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG
        ) {
            return Answer::code(ResponseCode::Refused);
        }
        if question.name.is_root() {
            return Answer::nothing();
        }
        // Reverse lookups and the rest of `arpa` never leave the host.
        if question.name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"))
        {
            return self.reverse(question);
        }
        // Invalid host names and addresses used as names do not exist.
        let Ok(Host::Name(name)) = host(&question.name) else {
            return Answer::code(ResponseCode::NXDomain);
        };
        let is_local = name.as_str() == "localhost" || name.as_str().ends_with(".localhost");
        if is_local || self.own_name.get() == Some(&name) {
            return self.local(question, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        }
        match question.kind {
            RecordType::A | RecordType::AAAA => self.address(question, &name).await,
            // No alternative endpoints, no HTTP/3 hints, no encrypted ClientHello.
            RecordType::HTTPS | RecordType::SVCB => self.empty(&name),
            _ => self.other(question, &name).await,
        }
    }

    async fn address(&self, question: &Question, name: &HostName) -> Answer {
        let policy = self.options.rules.policy();
        let permitted = policy.may_resolve(name);
        let mut why = None;
        let turn = if permitted {
            match self.existence(name).await {
                Some(Existence::No) => {
                    self.record(name.as_str(), Verdict::Allow, None);
                    return Answer::code(ResponseCode::NXDomain);
                }
                // It still gets an address, so that the failure can be explained over HTTP.
                Some(Existence::Unknown(failure)) => why = Some(why_of(failure)),
                Some(Existence::Yes) | None => {}
            }
            Duration::ZERO
        } else {
            // It still gets an address, so that the refusal can be explained over HTTP.
            self.record_denied(&policy, name);
            why = Some(Why::Denied);
            self.options.rules.refusal_turn()
        };
        let permits = |name: &HostName| policy.may_resolve(name);
        let Some((four, six)) = self.options.names.addresses(name, permits) else {
            if !permitted {
                return Answer::code(ResponseCode::Refused).because(Why::Denied).after(turn);
            }
            let limit = (Reason::LimitExceeded, Filter::Request);
            self.record(name.as_str(), Verdict::Deny, Some(limit));
            return Answer::code(ResponseCode::ServFail).because(Why::TooManyNames);
        };
        if permitted {
            let failed = why.map(|why| (reason_of(why), Filter::Network));
            self.record(name.as_str(), Verdict::Allow, failed);
        }
        let answer = self.local(question, four, six).after(turn);
        why.into_iter().fold(answer, Answer::because)
    }

    /// Whether a permitted name exists, if it may be queried.
    async fn existence(&self, name: &HostName) -> Option<Existence> {
        if self.options.rules.resolves_elsewhere(name) {
            return Some(Existence::Yes);
        }
        if let Some(known) = self.recall.existence(name.as_str()) {
            return Some(known);
        }
        if !self.spend() {
            return None;
        }
        let asked = timeout(ANSWERED_WITHIN, self.options.upstream.exists(name)).await;
        let existence = asked.unwrap_or(Existence::Unknown(LookupFailure::Timeout));
        self.recall.found(name.as_str(), existence);
        Some(existence)
    }

    /// Forwards a query for other types than addresses, if the policy permits the name and programs
    /// need the type.
    async fn other(&self, question: &Question, name: &HostName) -> Answer {
        let policy = self.options.rules.policy();
        if !policy.may_resolve(name) {
            self.record_denied(&policy, name);
            return self.refused(Why::Denied);
        }
        if !FORWARDED.contains(&question.kind) {
            return Answer::nothing();
        }
        // No name server is asked about it.
        if self.options.upstream.is_known(name) || self.options.rules.resolves_elsewhere(name) {
            self.record(name.as_str(), Verdict::Allow, None);
            return Answer::nothing();
        }
        if !self.spend() {
            let limit = (Reason::LimitExceeded, Filter::Request);
            self.record(name.as_str(), Verdict::Deny, Some(limit));
            return self.refused(Why::TooManyQuestions);
        }
        let asked =
            timeout(ANSWERED_WITHIN, self.options.upstream.records(name, question.kind)).await;
        let (answer, failed) = match asked.unwrap_or(Records::Unknown(LookupFailure::Timeout)) {
            Records::Found(records) => (Answer::records(forward(question, records)), None),
            Records::NoSuchName => (Answer::code(ResponseCode::NXDomain), None),
            Records::Unknown(failure) => {
                let why = why_of(failure);
                (
                    Answer::code(ResponseCode::ServFail).because(why),
                    Some((reason_of(why), Filter::Network)),
                )
            }
        };
        self.record(name.as_str(), Verdict::Allow, failed);
        answer
    }

    /// An empty answer; a denied name is recorded as for other types.
    fn empty(&self, name: &HostName) -> Answer {
        let policy = self.options.rules.policy();
        if policy.may_resolve(name) {
            return Answer::nothing();
        }
        self.record_denied(&policy, name);
        Answer::nothing().because(Why::Denied).after(self.options.rules.refusal_turn())
    }

    /// A refusal, delayed until its turn.
    fn refused(&self, why: Why) -> Answer {
        Answer::code(ResponseCode::Refused).because(why).after(self.options.rules.refusal_turn())
    }

    /// Answers with local addresses.
    fn local(&self, question: &Question, four: Ipv4Addr, six: Ipv6Addr) -> Answer {
        let address = match question.kind {
            RecordType::A => IpAddr::V4(four),
            RecordType::AAAA if self.options.ipv6 => IpAddr::V6(six),
            _ => return Answer::nothing(),
        };
        Answer::records(vec![Record::from_rdata(question.name.clone(), TTL, RData::from(address))])
    }

    /// Reverse lookup of a synthetic or loopback address; nothing else under `arpa` exists.
    fn reverse(&self, question: &Question) -> Answer {
        let whole = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
        let address = question.name.parse_arpa_name().ok().filter(whole).map(|net| net.addr());
        let name = match address {
            Some(address) if address.is_loopback() => Some("localhost.".to_owned()),
            Some(address) => {
                self.options.names.name_of(address).map(|name| format!("{}.", name.as_str()))
            }
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

    /// Takes a token for a query to a real name server; `false` if none is left, which is recorded
    /// at intervals.
    fn spend(&self) -> bool {
        let spent = self.budget.spend();
        // The empty name stands for the limit itself.
        if !spent && self.recall.is_news("", (Verdict::Deny, Some(Reason::LimitExceeded))) {
            tracing::warn!(
                sandbox = &*self.options.sandbox,
                "too many look-ups; until that ends, permitted names get an address whether or \
                 not they exist, and no other records"
            );
            let record = audit::Record::lifecycle(&self.options.sandbox, "dns_budget_exhausted");
            self.options.audit.emit(record);
        }
        spent
    }

    fn record_denied(&self, policy: &Policy, name: &HostName) {
        self.options.metrics.dns_denied();
        if !self.is_to_be_recorded(name.as_str(), (Verdict::Deny, Some(Reason::HostDenied))) {
            return;
        }
        let id = RequestId::new();
        // A lookup has no port; 443 finds the rule in nearly every policy.
        let record = match policy.decide_host(&Host::Name(name.clone()), 443) {
            Decision::Deny(deny) => {
                audit::Record::deny(&self.options.sandbox, id, Kind::Dns, &deny)
            }
            Decision::Allow(_) => {
                audit::Record::new(&self.options.sandbox, id, Kind::Dns, Verdict::Deny)
                    .reason(Reason::HostDenied)
                    .filter(Filter::Network)
            }
        };
        self.ledger.write(record.host(name.as_str()));
    }

    fn record(&self, name: &str, verdict: Verdict, why: Option<(Reason, Filter)>) {
        if !self.is_to_be_recorded(name, (verdict, why.map(|(reason, _)| reason))) {
            return;
        }
        let record =
            audit::Record::new(&self.options.sandbox, RequestId::new(), Kind::Dns, verdict)
                .host(name);
        self.ledger.write(match why {
            Some((reason, filter)) => record.reason(reason).filter(filter),
            None => record.filter(Filter::Network),
        });
    }

    /// Whether to record a decision: not if it is recent or beyond the rate.
    fn is_to_be_recorded(&self, name: &str, decided: (Verdict, Option<Reason>)) -> bool {
        // In this order, so that a flood is counted even if it repeats one name.
        self.ledger.has_room() && self.recall.is_news(name, decided)
    }
}

fn why_of(failure: LookupFailure) -> Why {
    match failure {
        LookupFailure::Timeout => Why::NoAnswer,
        LookupFailure::Failed => Why::Failed,
    }
}

/// The `type` of its record.
fn reason_of(why: Why) -> Reason {
    match why {
        Why::Denied => Reason::HostDenied,
        Why::CarriesPlaceholder => Reason::CredentialMisuse,
        Why::TooManyQuestions | Why::TooManyNames => Reason::LimitExceeded,
        Why::NoAnswer => Reason::UpstreamTimeout,
        Why::Failed => Reason::UpstreamUnreachable,
    }
}

/// The records of the queried type and the CNAMEs that lead to them, with the name as queried.
fn forward(question: &Question, records: Vec<Record>) -> Vec<Record> {
    let wanted = |record: &Record| {
        let kind = record.record_type();
        kind == question.kind || kind == RecordType::CNAME
    };
    let named = |mut record: Record| {
        if record.name == question.name {
            record.name = question.name.clone();
        }
        record.ttl = record.ttl.min(TTL);
        record
    };
    records.into_iter().filter(wanted).map(named).collect()
}

/// The host of a name. Labels must be valid in a host name, so that a dot within a label is not
/// taken for a separator.
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

/// The name as text, for display and searching.
fn text_of(name: &Name) -> String {
    let labels: Vec<_> = name.iter().map(String::from_utf8_lossy).collect();
    labels.join(".")
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer").field("sandbox", &self.options.sandbox).finish_non_exhaustive()
    }
}
