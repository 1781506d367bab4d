//! The route to an origin, for people: through which proxy, or why without one.

use std::ffi::OsString;

use interceptor_policy::{Direct, Host, Policy, ProxyUrl, Scheme};
use serde_json::{Value, json};

use super::person::Person;
use crate::credential::{KeyError, no_proxy_for, proxy_for};

/// Looks up a variable in the environment of the person who typed the command.
pub(super) fn variable(person: &Person) -> impl Fn(&str) -> Option<OsString> + '_ {
    |name| person.given(name)
}

/// The route to one origin.
pub(super) enum Road {
    /// The policy names no proxy.
    Plain,
    /// Through this proxy, which gets a name or an address.
    By(ProxyUrl, bool),
    /// Without the proxy, for this reason.
    Direct(String),
}

impl Road {
    /// The route that a policy gives.
    ///
    /// # Errors
    /// If a variable does not name a proxy.
    pub(super) fn of(
        policy: &Policy,
        person: &Person,
        scheme: Scheme,
        (host, port): (&Host, u16),
    ) -> Result<Road, KeyError> {
        let way_out = policy.way_out();
        if way_out.proxy.is_none() {
            return Ok(Road::Plain);
        }
        let environment = variable(person);
        let no_proxy = no_proxy_for(way_out, &environment);
        Ok(match (proxy_for(way_out, scheme, &environment)?, way_out.direct(host, port)) {
            (_, Some(Direct::OwnHost)) => {
                Road::Direct("it is a loopback service of the host".to_owned())
            }
            (None, _) => Road::Direct("no variable names a proxy here".to_owned()),
            (Some(url), _) => match no_proxy.covering(host, port) {
                Some(rule) => Road::Direct(format!("`no_proxy` lists `{}`", rule.text)),
                None => Road::By(url, way_out.proxy_resolves && host.name().is_some()),
            },
        })
    }

    /// In words; `None` if the policy names no proxy.
    pub(super) fn words(&self) -> Option<String> {
        match self {
            Road::Plain => None,
            Road::By(url, true) => {
                Some(format!("by the proxy {url}, which resolves the name itself"))
            }
            Road::By(url, false) => {
                Some(format!("by the proxy {url}, to the address that is judged"))
            }
            Road::Direct(why) => Some(format!("directly: {why}")),
        }
    }

    /// As JSON; null if the policy names no proxy.
    pub(super) fn as_json(&self) -> Value {
        match self {
            Road::Plain => Value::Null,
            Road::By(url, resolves) => {
                json!({ "proxy": url.to_string(), "proxy_resolves": resolves })
            }
            Road::Direct(why) => json!({ "proxy": null, "why": why }),
        }
    }
}

/// A policy's proxies in one line; `None` if it names none.
pub(super) fn way_out(policy: &Policy, person: &Person) -> Option<String> {
    let way_out = policy.way_out();
    let proxy = way_out.proxy.as_ref()?;
    let environment = variable(person);
    let shown = |scheme| match proxy_for(way_out, scheme, &environment) {
        Ok(Some(url)) => url.to_string(),
        Ok(None) => "none".to_owned(),
        Err(_) => "invalid".to_owned(),
    };
    let (https, http) = (shown(Scheme::Https), shown(Scheme::Http));
    let mut line = match (https == http, proxy) {
        (true, interceptor_policy::Proxy::Url(_)) => format!("by the proxy {https}"),
        (true, _) => format!("by the proxy of the environment, {https}"),
        (false, _) => {
            format!("by the proxies of the environment: {https}, and for plain HTTP {http}")
        }
    };
    if way_out.proxy_resolves {
        line.push_str(", which resolves names itself");
    }
    let no_proxy = no_proxy_for(way_out, &environment);
    let without: Vec<&str> = no_proxy.texts().collect();
    if !without.is_empty() {
        line.push_str(&format!("; directly to {}", without.join(", ")));
    }
    Some(line)
}
