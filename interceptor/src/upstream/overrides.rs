//! `--resolve NAME[:PORT]:ADDR[:PORT]`: where to dial instead of what a name resolves to.
//!
//! The operator sets it, so such an address is exempt from the special-address guard. Nothing here
//! resolves or dials.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// One `--resolve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    name: HostPattern,
    /// The port it applies to; `None` for any.
    port: Option<u16>,
    address: IpAddr,
    /// The port to dial; `None` for the requested one.
    to_port: Option<u16>,
}

/// The names it applies to, ordered from the least to the most specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostPattern {
    /// `*`
    Any,
    /// `*.example.com`: any depth below, not the name itself. Contains `.example.com`.
    Below(String),
    /// A name or an address literal.
    Exactly(String),
}

impl HostPattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Below(suffix) => {
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            HostPattern::Exactly(own) => own == name,
        }
    }

    /// Larger is more specific.
    fn rank(&self) -> usize {
        match self {
            HostPattern::Any => 0,
            HostPattern::Below(suffix) => suffix.len(),
            HostPattern::Exactly(_) => usize::MAX,
        }
    }
}

/// Why a `--resolve` is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not NAME[:PORT]:ADDR[:PORT]: {problem}")]
pub struct OverrideError {
    text: String,
    problem: &'static str,
}

impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Override, OverrideError> {
        parse(text).map_err(|problem| OverrideError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Override, &'static str> {
    let parts = split(text)?;
    let (name, rest) = parts.split_first().ok_or("it is empty")?;
    let (from, to, to_port) = match *rest {
        [to] => (None, to, None),
        // `NAME:443:192.0.2.1` or `NAME:192.0.2.1:8443`: only one of the two can be an address.
        [first, second] if address(first).is_ok() => (None, first, Some(second)),
        [first, second] => (Some(first), second, None),
        [from, to, to_port] => (Some(from), to, Some(to_port)),
        [] => return Err("the address is missing"),
        _ => return Err("it has too many parts; write an IPv6 address in brackets"),
    };
    Ok(Override {
        name: pattern(name)?,
        port: from.map(port).transpose()?,
        address: address(to)?,
        to_port: to_port.map(port).transpose()?,
    })
}

/// Splits at colons outside brackets.
fn split(text: &str) -> Result<Vec<&str>, &'static str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let end = match rest.strip_prefix('[') {
            Some(inner) => inner.find(']').ok_or("a bracket is not closed")? + 2,
            None => rest.find(':').unwrap_or(rest.len()),
        };
        parts.push(&rest[..end]);
        match rest[end..].strip_prefix(':') {
            Some(after) => rest = after,
            None if end == rest.len() => return Ok(parts),
            None => return Err("a colon must follow a bracket"),
        }
    }
}

fn port(text: &str) -> Result<u16, &'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a port is a number from 1 to 65535");
    }
    text.parse().ok().filter(|&port| port != 0).ok_or("a port is a number from 1 to 65535")
}

fn address(text: &str) -> Result<IpAddr, &'static str> {
    const PROBLEM: &str = "the address is an IPv4 address or an IPv6 address in brackets";
    match text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse().map(IpAddr::V6).map_err(|_| PROBLEM),
        None => text.parse().map(IpAddr::V4).map_err(|_| PROBLEM),
    }
}

fn pattern(text: &str) -> Result<HostPattern, &'static str> {
    if let Ok(address) = address(text) {
        return Ok(HostPattern::Exactly(address.to_canonical().to_string()));
    }
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    match text.strip_prefix("*.") {
        Some(below) => Ok(HostPattern::Below(format!(".{}", name(below)?))),
        None => Ok(HostPattern::Exactly(name(text)?)),
    }
}

fn name(text: &str) -> Result<String, &'static str> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if text.contains('*') {
        return Err("a wildcard is only allowed at the start: *.example.com");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(
            "the name is not a host name (an international one is written in its xn-- form)",
        );
    }
    Ok(text)
}

/// All overrides.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<Override>);

impl Overrides {
    /// In the order given.
    pub fn new(overrides: Vec<Override>) -> Overrides {
        Overrides(overrides)
    }

    /// The addresses to dial instead of `name` (lower-case, without a trailing dot; addresses in
    /// canonical form) at `port`: all those of the most specific matching overrides. Empty if none
    /// matches.
    pub(crate) fn addresses(&self, name: &str, port: u16) -> Vec<SocketAddr> {
        let matching = || self.0.iter().filter(|own| own.matches(name, port));
        let Some(best) = matching().map(Override::rank).max() else { return Vec::new() };
        matching()
            .filter(|own| own.rank() == best)
            .map(|own| SocketAddr::new(own.address, own.to_port.unwrap_or(port)))
            .collect()
    }

    /// As [`Overrides::addresses`], without patterns.
    pub(crate) fn addresses_of_exactly(&self, name: &str, port: u16) -> Vec<SocketAddr> {
        let exact = |own: &&Override| matches!(own.name, HostPattern::Exactly(_));
        let exact = self.0.iter().filter(exact).cloned().collect::<Overrides>();
        exact.addresses(name, port)
    }

    /// Whether some port of `name` is overridden, so that the name exists without being looked up.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|own| own.name.matches(name))
    }
}

impl Override {
    fn matches(&self, name: &str, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.name.matches(name)
    }

    fn rank(&self) -> (usize, bool) {
        (self.name.rank(), self.port.is_some())
    }
}

impl FromIterator<Override> for Overrides {
    fn from_iter<I: IntoIterator<Item = Override>>(overrides: I) -> Overrides {
        Overrides(overrides.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(texts: &[&str]) -> Overrides {
        texts.iter().map(|text| text.parse::<Override>().unwrap()).collect()
    }

    fn found(overrides: &Overrides, name: &str, port: u16) -> Vec<String> {
        overrides.addresses(name, port).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_four_forms_are_understood() {
        for (text, port, want) in [
            ("api.example.com:192.0.2.1", 443, "192.0.2.1:443"),
            ("api.example.com:443:192.0.2.1", 443, "192.0.2.1:443"),
            ("api.example.com:192.0.2.1:8443", 443, "192.0.2.1:8443"),
            ("API.Example.COM.:443:192.0.2.1:8443", 443, "192.0.2.1:8443"),
            ("api.example.com:[2001:db8::1]", 80, "[2001:db8::1]:80"),
            ("api.example.com:80:[2001:db8::1]:8080", 80, "[2001:db8::1]:8080"),
            ("*.example.com:80:127.0.0.1:8080", 80, "127.0.0.1:8080"),
            ("*:127.0.0.1", 80, "127.0.0.1:80"),
        ] {
            assert_eq!(found(&overrides(&[text]), "api.example.com", port), [want], "{text}");
        }
        assert_eq!(
            found(&overrides(&["[2001:db8::5]:443:127.0.0.1:9"]), "2001:db8::5", 443),
            ["127.0.0.1:9"]
        );
    }

    #[test]
    fn what_is_not_understood_says_why() {
        for (text, problem) in [
            ("", "address is missing"),
            ("api.example.com", "address is missing"),
            ("api.example.com:443", "IPv4 address or an IPv6"),
            ("api.example.com:2001:db8::1", "brackets"),
            ("api.example.com:0:192.0.2.1", "port"),
            ("api.example.com:65536:192.0.2.1", "port"),
            ("api.example.com:+1:192.0.2.1", "port"),
            ("api.example.com:443:192.0.2.1:", "port"),
            ("api.example.com:443:192.0.2.999", "IPv4 address or an IPv6"),
            ("api.example.com:443:[2001:db8::1", "not closed"),
            ("api.example.com:443:[2001:db8::1]8443", "colon"),
            ("a.*.example.com:192.0.2.1", "wildcard"),
            ("api example:192.0.2.1", "host name"),
            ("münchen.example:192.0.2.1", "xn--"),
            (":443:192.0.2.1", "host name"),
        ] {
            let error = text.parse::<Override>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn the_most_specific_wins() {
        let all = overrides(&[
            "*:192.0.2.9",
            "*.example.com:192.0.2.1",
            "*.eu.example.com:192.0.2.2",
            "api.eu.example.com:192.0.2.3",
            "api.eu.example.com:8443:192.0.2.4",
            "api.eu.example.com:8443:[2001:db8::4]",
        ]);
        assert_eq!(found(&all, "a.example.com", 443), ["192.0.2.1:443"]);
        assert_eq!(found(&all, "b.c.example.com", 443), ["192.0.2.1:443"]);
        assert_eq!(found(&all, "b.eu.example.com", 443), ["192.0.2.2:443"]);
        assert_eq!(found(&all, "api.eu.example.com", 443), ["192.0.2.3:443"]);
        assert_eq!(
            found(&all, "api.eu.example.com", 8443),
            ["192.0.2.4:8443", "[2001:db8::4]:8443"]
        );
        assert_eq!(found(&all, "example.com", 443), ["192.0.2.9:443"]);
    }

    #[test]
    fn a_wildcard_is_not_the_apex_and_not_a_suffix_of_a_label() {
        let all = overrides(&["*.example.com:192.0.2.1"]);
        for name in ["example.com", "badexample.com", ".example.com"] {
            assert!(found(&all, name, 443).is_empty(), "{name}");
            assert!(!all.has(name), "{name}");
        }
        assert!(all.has("a.b.example.com"));
    }

    #[test]
    fn a_port_of_its_own_leaves_other_ports_alone_but_the_name_exists() {
        let all = overrides(&["api.example.com:443:192.0.2.1"]);
        assert!(found(&all, "api.example.com", 80).is_empty());
        assert!(all.has("api.example.com"));
    }
}
