//! A judged request on its way to its origin and back, and all that it carries.

use std::sync::Arc;

use http::Uri;
use http::request::Parts;
use interceptor_policy::{Allow, BaseUrl, Host, Limits, Policy, Scheme};

use super::context::Context;
use super::exchange::Exchange;
use crate::credential::Presented;
use crate::proxy::Rules;
use crate::upstream::pool::Key;

/// Where a request leads.
#[derive(Debug)]
pub(crate) struct Destination {
    /// How the origin is spoken to.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// What the sandbox asked for, and what that stands for, where it asked under a base URL.
    pub based: Option<(BaseUrl, Uri)>,
}

impl Destination {
    /// The target of a request that leads here, with its query.
    pub(super) fn uri<'a>(&'a self, parts: &'a Parts) -> &'a Uri {
        self.based.as_ref().map_or(&parts.uri, |(_, uri)| uri)
    }
}

/// A request that may be forwarded, and the rules it was judged by: one value from here to its end
/// (attack R9).
#[derive(Debug)]
pub(crate) struct Judged {
    /// The rules.
    pub rules: Arc<Rules>,
    /// Where it leads.
    pub to: Destination,
    /// What was decided.
    pub allow: Allow,
    /// Where placeholders stand in the request.
    pub presented: Presented,
}

/// A judged request.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    /// The connection that it came on.
    pub context: &'a Context,
    /// Its head, as it was sent.
    pub parts: Parts,
    /// What was judged of it.
    pub judged: Judged,
    /// Its record.
    pub exchange: Exchange,
}

impl Flight<'_> {
    /// The policy that it was judged by.
    pub(super) fn policy(&self) -> &Policy {
        &self.judged.rules.policy
    }

    /// The limits that hold for it.
    pub(super) fn limits(&self) -> &Limits {
        self.policy().limits()
    }

    /// Where it leads.
    pub(super) fn host(&self) -> &Host {
        &self.judged.to.host
    }

    /// Its target, with the query.
    pub(super) fn uri(&self) -> &Uri {
        self.judged.to.uri(&self.parts)
    }

    /// What a connection for it is kept by.
    pub(super) fn key(&self) -> Key {
        let Judged { rules, to, allow, .. } = &self.judged;
        Key::new(rules.generation, to.scheme, to.host.clone(), to.port, allow.credential)
    }

    /// Whether the rules that it was judged by still hold.
    pub(super) fn is_current(&self) -> bool {
        self.judged.rules.generation == self.context.sandbox.generation()
    }
}
