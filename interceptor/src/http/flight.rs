//! A judged request on its way to its origin and back, with everything it needs.

use std::sync::Arc;

use http::Uri;
use http::request::Parts;
use interceptor_policy::{Allow, BaseUrl, Host, Limits, Policy, Scheme};

use super::context::Context;
use super::exchange::Exchange;
use crate::credential::Presented;
use crate::proxy::Rules;
use crate::upstream::Terms;
use crate::upstream::pool::PoolKey;

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The scheme to use with the origin.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// The base URL and the real target, if the sandbox used a base URL.
    pub based: Option<(BaseUrl, Uri)>,
}

impl Destination {
    /// The target of a request that goes here, with its query.
    pub(super) fn uri<'a>(&'a self, parts: &'a Parts) -> &'a Uri {
        self.based.as_ref().map_or(&parts.uri, |(_, uri)| uri)
    }
}

/// A request that may be forwarded, with the rules it was judged by: they stay the same until it
/// ends (attack R9).
#[derive(Debug)]
pub(crate) struct Judged {
    /// The rules.
    pub rules: Arc<Rules>,
    /// Where it goes.
    pub to: Destination,
    /// The decision.
    pub allow: Allow,
    /// Where the request has placeholders.
    pub presented: Presented,
    /// The lease without which the request would be refused.
    pub lease: Option<Lent>,
}

/// A lease that permits a request.
#[derive(Debug)]
pub(crate) struct Lent {
    /// Its id.
    pub id: Arc<str>,
    /// The policy over which it is laid.
    pub base: Arc<Policy>,
}

impl Judged {
    /// The policy that is in force, whatever a lease adds to it.
    pub(super) fn in_force(&self) -> &Arc<Policy> {
        self.lease.as_ref().map_or(&self.rules.policy, |lent| &lent.base)
    }
}

/// A judged request.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    /// The connection it came on.
    pub context: &'a Context,
    /// Its head, as sent.
    pub parts: Parts,
    /// Its judgement.
    pub judged: Judged,
    /// Its record.
    pub exchange: Exchange,
}

impl Flight<'_> {
    /// The policy it was judged by.
    pub(super) fn policy(&self) -> &Policy {
        &self.judged.rules.policy
    }

    /// By what its connection is judged.
    pub(super) fn terms(&self) -> Terms<'_> {
        self.judged.rules.terms()
    }

    /// The limits that apply to it.
    pub(super) fn limits(&self) -> &Limits {
        self.policy().limits()
    }

    /// The host it goes to.
    pub(super) fn host(&self) -> &Host {
        &self.judged.to.host
    }

    /// Its target, with the query.
    pub(super) fn uri(&self) -> &Uri {
        self.judged.to.uri(&self.parts)
    }

    /// The key of its connection in the pool.
    pub(super) fn key(&self) -> PoolKey {
        let Judged { rules, to, allow, .. } = &self.judged;
        rules.pool_key(to.scheme, to.host.clone(), to.port, allow.credential)
    }

    /// Whether the rules it was judged by are still in force.
    pub(super) fn is_current(&self) -> bool {
        self.judged.rules.generation == self.context.sandbox.generation()
    }
}
