//! The one type for a host, made by one parser, so that hosts of rules and requests compare byte
//! for byte.
//!
//! The parser reads a request's host strictly (RFC 3986 section 3.2.2, RFC 5890): ASCII, folded to
//! lower case, one trailing dot dropped; labels have letters, digits, `-` and `_`; A-labels survive
//! a round trip through their U-label. A name whose last label is a number is an IPv4 address in
//! one of the spellings that `inet_aton(3)` takes, or an error: a client's resolver would dial that
//! address, so it is judged as that address. Rules may also use Unicode, which UTS 46 converts
//! first.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// The longest name in characters, without the trailing dot (RFC 1035 section 2.3.4, as text).
const MAX_NAME: usize = 253;
/// The longest label in characters.
const MAX_LABEL: usize = 63;

/// Why a text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing is left.
    #[error("the host is empty")]
    Empty,
    /// More than 253 characters, or a label of more than 63.
    #[error("the host is too long: a name has at most 253 characters and a label at most 63")]
    TooLong,
    /// Two dots in a row, or a dot in front.
    #[error("the host has an empty label (two dots in a row, or a dot in front)")]
    EmptyLabel,
    /// A character that a host name cannot have.
    #[error("the host has a character that a host name cannot have")]
    Character,
    /// A label that begins or ends with a hyphen.
    #[error("a label of the host begins or ends with a hyphen")]
    Hyphen,
    /// An A-label that is not the encoding of what it decodes to.
    #[error(
        "a label of the host is not valid IDNA (it does not survive a round trip through Unicode)"
    )]
    Idna,
    /// It ends in a number but is not an IPv4 address.
    #[error("the host ends in a number but is not an IPv4 address")]
    Ipv4,
    /// The text in brackets is not an IPv6 address, or an IPv6 address lacks its brackets.
    #[error(
        "the host is not a valid IPv6 address (written in brackets beside a port, without a zone)"
    )]
    Ipv6,
    /// The port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The host is preceded by a user name or password.
    #[error("the authority contains user information (`@`)")]
    UserInfo,
}

/// A DNS name in its one form: lower-case A-labels, no trailing dot, never an IP address. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The name, e.g. `api.example.com`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared rather than copied.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The name and every parent of it, longest first: `a.b.c`, `b.c`, `c`.
    pub(crate) fn suffixes(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.as_str()), |name| {
            name.split_once('.').map(|(_, parent)| parent)
        })
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A host: a name, or an address. An IPv4-mapped IPv6 address is the IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name.
    Name(HostName),
    /// An address.
    Ip(IpAddr),
}

impl Host {
    /// Reads a host as a request names it. Only an IPv6 address may have brackets, and it needs
    /// none.
    ///
    /// # Errors
    /// If the text has no single meaning; see [`HostError`].
    pub fn parse(text: &str) -> Result<Host, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']').ok_or(HostError::Ipv6)?;
            return parse_ipv6(inner);
        }
        if text.contains(':') {
            return parse_ipv6(text);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(HostError::TooLong);
        }
        let last = text.rsplit('.').next().unwrap_or(text);
        if is_number(last) {
            return parse_ipv4(text)
                .map(|address| Host::Ip(IpAddr::V4(address)))
                .ok_or(HostError::Ipv4);
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        let name: Arc<str> = if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Arc::from(text.to_ascii_lowercase())
        } else {
            Arc::from(text)
        };
        for label in name.split('.').filter(|label| label.starts_with("xn--")) {
            check_a_label(label)?;
        }
        Ok(Host::Name(HostName(name)))
    }

    /// Reads a host as a person writes it in a rule: Unicode names are converted to A-labels (UTS
    /// 46, non-transitional).
    ///
    /// # Errors
    /// As [`Host::parse`].
    pub fn parse_rule(text: &str) -> Result<Host, HostError> {
        if text.is_ascii() {
            return Host::parse(text);
        }
        let ascii = Uts46::new()
            .to_ascii(text.as_bytes(), AsciiDenyList::URL, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| HostError::Idna)?;
        Host::parse(&ascii)
    }

    /// The host as text, shared rather than copied where it is a name.
    pub fn shared(&self) -> Arc<str> {
        match self {
            Host::Name(name) => name.shared(),
            Host::Ip(address) => address.to_string().into(),
        }
    }

    /// The name, if it is one.
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Host::Name(name) => Some(name),
            Host::Ip(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Ip(address) => address.fmt(f),
        }
    }
}

/// The `Host` header or the `:authority` of a request: a host and an optional port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if given.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port` (RFC 9110 section 7.2), without user
    /// information.
    ///
    /// # Errors
    /// As [`Host::parse`]; also for `@`, for a port that is not 1 to 65535, and for IPv6 without
    /// brackets.
    pub fn parse(text: &str) -> Result<Authority, HostError> {
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        let (host, port) = split_port(text)?;
        Ok(Authority { host: Host::parse(host)?, port })
    }
}

impl Authority {
    /// As [`Authority::parse`], for user input: converts a Unicode name first, as a client would.
    ///
    /// # Errors
    /// As [`Authority::parse`].
    pub fn parse_typed(text: &str) -> Result<Authority, HostError> {
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        let (host, port) = split_port(text)?;
        Ok(Authority { host: Host::parse_rule(host)?, port })
    }
}

/// Splits `host:port`; the host keeps its brackets.
pub(crate) fn split_port(text: &str) -> Result<(&str, Option<u16>), HostError> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(HostError::Ipv6)?;
        match &text[end + 1..] {
            "" => (text, None),
            rest => (&text[..=end], Some(rest.strip_prefix(':').ok_or(HostError::Ipv6)?)),
        }
    } else {
        match text.split_once(':') {
            None => (text, None),
            Some((_, rest)) if rest.contains(':') => return Err(HostError::Ipv6),
            Some((host, port)) => (host, Some(port)),
        }
    };
    Ok((host, port.map(parse_port).transpose()?))
}

/// A port: decimal digits, 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Result<u16, HostError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(HostError::Port),
    }
}

fn parse_ipv6(text: &str) -> Result<Host, HostError> {
    let address: Ipv6Addr = text.parse().map_err(|_| HostError::Ipv6)?;
    Ok(Host::Ip(IpAddr::V6(address).to_canonical()))
}

fn check_label(label: &str) -> Result<(), HostError> {
    if label.is_empty() {
        return Err(HostError::EmptyLabel);
    }
    if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return Err(HostError::Character);
    }
    if label.len() > MAX_LABEL {
        return Err(HostError::TooLong);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::Hyphen);
    }
    Ok(())
}

/// An A-label must decode to something that is not ASCII and encode to itself again (RFC 5891
/// section 5.4).
fn check_a_label(label: &str) -> Result<(), HostError> {
    let uts46 = Uts46::new();
    let (unicode, outcome) =
        uts46.to_unicode(label.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow);
    if outcome.is_err() || unicode.is_ascii() {
        return Err(HostError::Idna);
    }
    match uts46.to_ascii(unicode.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow, DnsLength::Verify)
    {
        Ok(ascii) if ascii == label => Ok(()),
        _ => Err(HostError::Idna),
    }
}

/// Whether the last label makes the name an IPv4 address: digits, or `0x` and hexadecimal digits.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The spellings of `inet_aton(3)`: one to four parts, each decimal, octal (`0…`) or hexadecimal
/// (`0x…`), the last filling what is left of the 32 bits.
fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = [0_u64; 4];
    let mut count = 0;
    for part in text.split('.') {
        *parts.get_mut(count)? = parse_ipv4_part(part)?;
        count += 1;
    }
    let (last, leading) = parts[..count].split_last()?;
    if leading.iter().any(|part| *part > 255) || *last >= 1 << (8 * (5 - count)) {
        return None;
    }
    let head =
        leading.iter().enumerate().fold(0, |sum, (index, part)| sum | part << (8 * (3 - index)));
    u32::try_from(head | last).ok().map(Ipv4Addr::from)
}

fn parse_ipv4_part(part: &str) -> Option<u64> {
    let (digits, radix) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
        None => (part, 10),
    };
    // `from_str_radix` accepts a sign, which no address has. Leading zeros are unlimited, so check
    // the value, not the length.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok().filter(|value| *value <= u64::from(u32::MAX))
}
