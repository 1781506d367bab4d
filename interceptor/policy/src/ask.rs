//! Which refusals become questions to a person (`ask`, docs/asking.md).
//!
//! Only a refusal for want of a rule does: a host that no rule names, a method or path that no rule
//! permits, or an endpoint rule with `ask`. A deny rule, a special-purpose address, a placeholder
//! sent to another host, and a request with two readings are refused as usual.

use std::sync::Arc;
use std::time::Duration;

use super::Policy;
use super::decision::{Deny, Filter, Reason, Rule};
use super::document::AskDocument;
use super::endpoint::Outcome;
use super::host::Host;
use super::network::{NetworkVerdict, RuleSet};
use super::path::CanonicalPath;
use super::request::Request;

/// How long a request waits, unless the policy says otherwise.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The longest that it can say: a month.
const LONGEST: u64 = 31 * 24 * 60 * 60;

/// The compiled `ask` of a policy.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// `None`: any host.
    hosts: Option<RuleSet>,
    timeout: Duration,
}

impl Ask {
    pub(super) fn new(written: &AskDocument) -> Ask {
        let hosts = written.hosts.as_ref().map(|written| {
            let mut rules = RuleSet::default();
            for rule in written {
                let known = Rule { text: rule.text.clone(), pointer: rule.pointer.clone() };
                rules.add(rule.value.clone(), Arc::new(known));
            }
            rules
        });
        let seconds = written.timeout_seconds.map(|seconds| seconds.min(LONGEST));
        Ask { hosts, timeout: seconds.map_or(TIMEOUT, Duration::from_secs) }
    }

    fn is_about(&self, host: &Host, port: u16) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.first(host, port).is_some())
    }
}

impl Policy {
    /// Whether any refusal can become a question.
    pub fn may_ask(&self) -> bool {
        let is_asked = |rules: &super::Endpoints| rules.rules().iter().any(|rule| rule.ask);
        self.ask.is_some() || self.endpoints.iter().flatten().any(is_asked)
    }

    /// How long a question may wait for its answer.
    pub fn ask_timeout(&self) -> Duration {
        self.ask.as_ref().map_or(TIMEOUT, |ask| ask.timeout)
    }

    /// Whether this refusal of the request is a question to a person.
    pub fn asks(&self, request: &Request<'_>, deny: &Deny) -> bool {
        // A header that asks for another method is no request that a person can see through.
        if !request.overrides.is_empty() {
            return false;
        }
        let by_policy =
            self.ask.as_ref().is_some_and(|ask| ask.is_about(request.host, request.port));
        match (deny.reason, deny.filter) {
            (Reason::HostDenied, Filter::Network) => {
                by_policy && self.is_unlisted(request.host, request.port)
            }
            (Reason::EndpointDenied, Filter::Endpoint) => {
                self.asks_endpoint(request, deny, by_policy)
            }
            _ => false,
        }
    }

    /// Whether a host is refused only because no rule names it.
    pub(super) fn is_unlisted(&self, host: &Host, port: u16) -> bool {
        let is_open = match host {
            // The host's own services are nothing that a sandbox may propose.
            Host::Name(_) => !host.is_own_host(),
            // An address that only a rule of its own can permit is never asked about.
            Host::Ip(address) => {
                !self.takes(*address)
                    && matches!(
                        self.network.judge_address(*address, port),
                        NetworkVerdict::Allowed(_)
                    )
            }
        };
        is_open && matches!(self.network.judge(host, port), NetworkVerdict::NotAllowed(_))
    }

    fn asks_endpoint(&self, request: &Request<'_>, deny: &Deny, by_policy: bool) -> bool {
        let Some(endpoints) =
            deny.credential.and_then(|id| self.endpoints.get(id.0)).and_then(Option::as_ref)
        else {
            return false;
        };
        let Ok(path) = CanonicalPath::parse(request.path) else { return false };
        match endpoints.judge(request.method, &path, request.aws) {
            Outcome::Permitted(rule) => rule.ask,
            Outcome::Method(_) | Outcome::Scope(_) | Outcome::Path(_) => by_policy,
        }
    }
}
