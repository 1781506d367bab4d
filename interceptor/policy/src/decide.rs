//! The one function that judges a request, and smaller ones for traffic that is not HTTP.
//!
//! [`Policy::decide`] checks in this order, and the first refusal stands:
//!
//! 1. the method, on every host: a token other than `CONNECT`, `TRACE` and `TRACK`;
//! 2. the path, on a host that a credential governs: it must have one canonical form. `OPTIONS *`
//!    names no path that a rule could permit, and is refused there;
//! 3. the network filter. If it refuses and the request presents a placeholder of a credential that
//!    does not govern the host, the reason is misuse: a leak in progress, whatever else is wrong;
//! 4. plaintext to a governed host;
//! 5. the credential: every presented placeholder must belong to a credential that governs the
//!    host, and exactly one credential must be meant;
//! 6. the endpoint rules of that credential, for the method and for every method an override header
//!    asks for.
//!
//! On other hosts the path is forwarded as sent, and a placeholder is a leak.

use std::net::IpAddr;
use std::sync::Arc;

use super::Policy;
use super::decision::{Allow, CredentialId, Decision, Deny, Filter, JudgedPath, Reason, Rule};
use super::endpoint::Outcome;
use super::host::Host;
use super::inject::is_token;
use super::message;
use super::network::NetworkVerdict;
use super::path::CanonicalPath;
use super::request::{Request, Scheme};

impl Policy {
    /// Judges one HTTP request.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        match self.judge(request) {
            Ok(allow) => Decision::Allow(allow),
            Err(deny) => Decision::Deny(*deny),
        }
    }

    /// Judges a destination by the network filter alone, for passthrough connections and their
    /// records.
    pub fn decide_host(&self, host: &Host, port: u16) -> Decision {
        match self.judge_network(host, port) {
            Ok(rule) => Decision::Allow(Allow {
                filter: Filter::Network,
                rule,
                credential: None,
                path: JudgedPath::AsSent,
            }),
            Err(deny) => Decision::Deny(*deny),
        }
    }

    /// Judges a connection whose protocol is neither HTTP nor TLS: it needs an allow rule with
    /// `tcp://`, and no credential may name the host.
    pub fn decide_raw(&self, host: &Host, port: u16) -> Decision {
        if let Err(deny) = self.judge_network(host, port) {
            return Decision::Deny(*deny);
        }
        let rule = self.network.allow_tcp.permitting(host, port);
        match rule {
            Some(rule) if !self.governance.names(host) => Decision::Allow(Allow {
                filter: Filter::Network,
                rule: Some(Arc::clone(rule)),
                credential: None,
                path: JudgedPath::AsSent,
            }),
            _ => {
                let governed = self.governance.names(host);
                Decision::Deny(Deny {
                    rule: rule.cloned(),
                    ..deny(
                        Reason::ProtocolDenied,
                        Filter::Network,
                        message::protocol(host, port, governed),
                    )
                })
            }
        }
    }

    /// Judges an address that a permitted host resolved to, before it is dialled: deny rules for
    /// addresses, and the special-purpose ranges that no allow rule for addresses covers.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_address(&self, host: &Host, address: IpAddr, port: u16) -> Result<(), Deny> {
        if self.takes(address) {
            return Err(self.taken(host));
        }
        match self.network.judge_address(address, port) {
            NetworkVerdict::Denied(rule) => Err(Deny {
                rule: Some(Arc::clone(rule)),
                ..deny(
                    Reason::HostDenied,
                    Filter::Network,
                    message::address_denied(host, address, rule),
                )
            }),
            NetworkVerdict::Special(range) => Err(deny(
                Reason::HostDenied,
                Filter::Network,
                message::address_special(host, address, port, range),
            )),
            NetworkVerdict::Allowed(_) | NetworkVerdict::NotAllowed(_) => Ok(()),
        }
    }

    fn judge(&self, request: &Request<'_>) -> Result<Allow, Box<Deny>> {
        judge_method(request.method)?;
        let governing = self.governance.of(request.scheme, request.host, request.port);
        if governing.all.is_empty() {
            let rule = self.judge_destination(request, &governing.all)?;
            if let Some(id) = request.presented.first() {
                return Err(self.misuse(*id, request));
            }
            let path = JudgedPath::AsSent;
            return Ok(Allow { filter: Filter::Network, rule, credential: None, path });
        }
        let path = match request.path {
            "*" if request.method == "OPTIONS" => None,
            path => Some(CanonicalPath::parse(path).map_err(|error| {
                Box::new(deny(Reason::PathAmbiguous, Filter::Request, message::path(error)))
            })?),
        };
        self.judge_destination(request, &governing.all)?;
        if request.scheme == Scheme::Http
            && (governing.usable.is_empty()
                || request
                    .presented
                    .iter()
                    .any(|id| governing.all.contains(id) && !governing.usable.contains(id)))
        {
            let meant = request.presented.iter().copied().find(|id| governing.all.contains(id));
            let id = meant.unwrap_or(governing.all[0]);
            return Err(Box::new(Deny {
                credential: Some(id),
                ..deny(
                    Reason::PlaintextDenied,
                    Filter::Credential,
                    message::plaintext(&self.credential(id).name, request),
                )
            }));
        }
        let id = self.select(request, &governing.usable)?;
        self.judge_endpoint(request, id, path)
    }

    /// The network filter for a request. A placeholder sent to a denied host is reported first.
    fn judge_destination(
        &self,
        request: &Request<'_>,
        governing: &[CredentialId],
    ) -> Result<Option<Arc<Rule>>, Box<Deny>> {
        self.judge_network(request.host, request.port).map_err(|denied| {
            // A request to the interceptor's own address goes nowhere.
            let own = matches!(request.host, Host::Ip(address) if self.takes(*address));
            let foreign = request.presented.iter().find(|id| !governing.contains(id));
            foreign.filter(|_| !own).map_or(denied, |id| self.misuse(*id, request))
        })
    }

    fn judge_network(&self, host: &Host, port: u16) -> Result<Option<Arc<Rule>>, Box<Deny>> {
        if let Host::Ip(address) = host
            && self.takes(*address)
        {
            return Err(Box::new(self.taken(host)));
        }
        let (rule, text, nearest) = match self.network.judge(host, port) {
            NetworkVerdict::Allowed(rule) => return Ok(rule.cloned()),
            NetworkVerdict::Denied(rule) => {
                (Some(rule), message::host_denied(host, port, rule), None)
            }
            NetworkVerdict::NotAllowed(rule) => {
                let nearest = super::nearest::host(&self.network, host, port);
                let text = match host.is_own_host() {
                    true => message::own_host(host, port, self.network.is_open()),
                    false => message::host_not_allowed(host, port, nearest.as_ref()),
                };
                (rule, text, nearest)
            }
            NetworkVerdict::Special(range) => {
                (None, message::host_special(host, port, range), None)
            }
        };
        Err(Box::new(Deny {
            rule: rule.cloned(),
            nearest,
            ..deny(Reason::HostDenied, Filter::Network, text)
        }))
    }

    /// Refuses the interceptor's own address, for everything but base URLs.
    fn taken(&self, host: &Host) -> Deny {
        let names: Vec<&str> =
            self.credentials.iter().map(|credential| credential.name.as_str()).collect();
        deny(Reason::HostDenied, Filter::Network, message::taken(host, &names))
    }

    /// The credential that a request to a governed host means.
    fn select(
        &self,
        request: &Request<'_>,
        usable: &[CredentialId],
    ) -> Result<CredentialId, Box<Deny>> {
        if let Some(foreign) = request.presented.iter().find(|id| !usable.contains(id)) {
            return Err(self.misuse(*foreign, request));
        }
        let mut presented = request.presented.iter();
        let chosen = match (presented.next(), usable) {
            (Some(first), _) => presented.all(|id| id == first).then_some(*first),
            (None, [only]) => Some(*only),
            (None, _) => None,
        };
        chosen.ok_or_else(|| {
            let names: Vec<&str> =
                usable.iter().map(|id| self.credential(*id).name.as_str()).collect();
            let text = message::ambiguous(request, &names);
            Box::new(deny(Reason::CredentialAmbiguous, Filter::Credential, text))
        })
    }

    fn misuse(&self, id: CredentialId, request: &Request<'_>) -> Box<Deny> {
        let text = message::misuse(self.credential(id), request);
        Box::new(Deny {
            credential: Some(id),
            ..deny(Reason::CredentialMisuse, Filter::Credential, text)
        })
    }

    fn judge_endpoint(
        &self,
        request: &Request<'_>,
        id: CredentialId,
        path: Option<CanonicalPath>,
    ) -> Result<Allow, Box<Deny>> {
        let name = &self.credential(id).name;
        let refuse = |text: String| Deny {
            credential: Some(id),
            ..deny(Reason::EndpointDenied, Filter::Endpoint, text)
        };
        let Some(path) = path else { return Err(Box::new(refuse(message::asterisk(name)))) };
        let rule = match &self.endpoints[id.0] {
            None => None,
            Some(endpoints) => match endpoints.judge(request.method, &path, request.aws) {
                Outcome::Permitted(rule) if rule.ask => {
                    let text = message::asked(name, request.method, &path, &rule.rule);
                    return Err(Box::new(Deny {
                        rule: Some(Arc::clone(&rule.rule)),
                        ..refuse(text)
                    }));
                }
                Outcome::Permitted(rule) => Some(&rule.rule),
                outcome => {
                    let nearest = super::nearest::endpoint(request, &path, &outcome);
                    let text = message::endpoint(name, request, &path, nearest.as_ref());
                    return Err(Box::new(Deny { nearest, ..refuse(text) }));
                }
            },
        };
        for asked in request.overrides {
            let method = asked.trim_matches([' ', '\t']).to_ascii_uppercase();
            let permitted = judge_method(&method).is_ok()
                && self.endpoints[id.0].as_ref().is_none_or(|rules| {
                    let outcome = rules.judge(&method, &path, request.aws);
                    matches!(outcome, Outcome::Permitted(rule) if !rule.ask)
                });
            if !permitted {
                // Name the rule that permits the method as sent, so that the record differs from
                // others.
                let text = message::overridden(name, &path);
                return Err(Box::new(Deny { rule: rule.cloned(), ..refuse(text) }));
            }
        }
        Ok(Allow {
            filter: Filter::Endpoint,
            rule: rule.cloned(),
            credential: Some(id),
            path: JudgedPath::Canonical(path),
        })
    }
}

fn judge_method(method: &str) -> Result<(), Box<Deny>> {
    if !is_token(method) {
        return Err(Box::new(deny(
            Reason::RequestMalformed,
            Filter::Request,
            message::method_malformed(),
        )));
    }
    // Origins may fold a method's case although HTTP does not, so `trace` is refused too. TRACK is
    // Microsoft's name for TRACE.
    for refused in ["CONNECT", "TRACE", "TRACK"] {
        if method.eq_ignore_ascii_case(refused) {
            return Err(Box::new(deny(
                Reason::MethodRefused,
                Filter::Request,
                message::method(refused),
            )));
        }
    }
    Ok(())
}

fn deny(reason: Reason, filter: Filter, message: String) -> Deny {
    Deny {
        reason,
        status: reason.status(),
        filter,
        rule: None,
        credential: None,
        message,
        nearest: None,
    }
}
