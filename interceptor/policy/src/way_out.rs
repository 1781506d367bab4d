//! The way out (`upstream`): whether origins are reached by a proxy, and by which.
//!
//! Compiling is pure: whose variables hold for `"proxy": "environment"`, and where the credential
//! of the proxy is read, is the caller's.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::credential::KeySource;
use super::decision::Rule;
use super::host::{Host, HostName};
use super::network::RuleSet;
use super::network_rule::{NetworkRule, Target};
use super::proxy_url::{ProxyUrl, ProxyUrlError};

/// Where the proxy is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// The variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the interceptor's environment.
    Environment,
    /// Here.
    Url(ProxyUrl),
}

impl Proxy {
    /// The text that names the variables.
    pub const ENVIRONMENT: &str = "environment";

    /// Reads `environment` or a URL.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(text: &str) -> Result<Proxy, ProxyUrlError> {
        match text {
            Proxy::ENVIRONMENT => Ok(Proxy::Environment),
            text => ProxyUrl::parse(text).map(Proxy::Url),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proxy::Environment => f.write_str(Proxy::ENVIRONMENT),
            Proxy::Url(url) => url.fmt(f),
        }
    }
}

/// Hosts that are reached without the proxy.
#[derive(Clone, Debug, Default)]
pub struct NoProxy(RuleSet);

impl NoProxy {
    /// From rules with their texts and the pointers to them.
    pub(super) fn of<'a>(rules: impl Iterator<Item = (&'a NetworkRule, Arc<Rule>)>) -> NoProxy {
        let mut set = RuleSet::default();
        rules.for_each(|(parsed, rule)| set.add(parsed.clone(), rule));
        NoProxy(set)
    }

    /// Adds what a variable NO_PROXY lists. A name stands for itself and for every name below it,
    /// with or without a dot in front. What cannot be read is left out.
    pub fn add_variable(&mut self, text: &str) {
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let entry = entry.strip_prefix("*.").unwrap_or(entry);
            let entry = entry.strip_prefix('.').unwrap_or(entry);
            let Ok((parsed, _)) = NetworkRule::parse(entry) else { continue };
            if let Target::Name(name) = &parsed.target {
                let below = NetworkRule { target: Target::Below(name.clone()), ..parsed.clone() };
                self.add(below, &format!("*.{entry}"));
            }
            self.add(parsed, entry);
        }
    }

    /// Adds rules by their texts. What cannot be read is left out.
    pub fn add_rules<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        for text in texts {
            if let Ok((parsed, _)) = NetworkRule::parse(text) {
                self.add(parsed, text);
            }
        }
    }

    fn add(&mut self, parsed: NetworkRule, text: &str) {
        let rule = Rule { text: text.to_owned(), pointer: String::new() };
        self.0.add(parsed, Arc::new(rule));
    }

    /// The texts of its rules.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, rule)| rule.text.as_str())
    }

    /// The rule that covers a host.
    pub fn covering(&self, host: &Host, port: u16) -> Option<&Arc<Rule>> {
        self.0.first(host, port)
    }

    /// Whether a rule covers an address that a host resolved to.
    pub fn covers_address(&self, address: IpAddr, port: u16) -> bool {
        self.0.first(&Host::Ip(address), port).is_some()
    }
}

/// The way out of one sandbox.
#[derive(Clone, Debug, Default)]
pub struct WayOut {
    /// The proxy; `None` if origins are reached directly.
    pub proxy: Option<Proxy>,
    /// Where the credential for the proxy is.
    pub proxy_auth: Option<KeySource>,
    /// Whether the proxy resolves names, so that no address is judged.
    pub proxy_resolves: bool,
    /// What is reached without it.
    pub no_proxy: NoProxy,
    /// Files with roots that are trusted beside the system's.
    pub ca: Vec<PathBuf>,
}

impl WayOut {
    /// Puts a proxy in the place of the policy's own. The credential is the policy's, and only for
    /// the proxy that the policy names, if it names one.
    pub fn replace_proxy(&mut self, proxy: Proxy) {
        if self.proxy.as_ref().is_some_and(|own| *own != proxy) {
            self.proxy_auth = None;
        }
        self.proxy = Some(proxy);
    }

    /// Why a host is reached without the proxy, if it is, whatever it resolves to.
    pub fn direct(&self, host: &Host, port: u16) -> Option<Direct<'_>> {
        if host.is_own_host() {
            return Some(Direct::OwnHost);
        }
        self.no_proxy.covering(host, port).map(|rule| Direct::Rule(rule))
    }
}

/// Why a host is reached without the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct<'a> {
    /// It stands for the host that runs the interceptor.
    OwnHost,
    /// This rule of `no_proxy` covers it.
    Rule(&'a Rule),
}

/// Whether a name always means the machine that resolves it (RFC 6761 section 6.3).
pub fn is_localhost(name: &HostName) -> bool {
    let name = name.as_str();
    name == "localhost" || name.ends_with(".localhost")
}
