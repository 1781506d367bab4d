//! The messages of refusals: what was refused, by which filter, and what would permit it. None
//! contains a key, a header's value or a path that is not canonical.

use std::net::IpAddr;

use super::address::SpecialRange;
use super::credential::Credential;
use super::decision::{NearMiss, Rule};
use super::host::Host;
use super::path::{CanonicalPath, PathError};
use super::request::Request;

pub(super) fn method_malformed() -> String {
    "the request was refused: its method is not a token (RFC 9110 section 9.1)".to_owned()
}

pub(super) fn method(refused: &str) -> String {
    format!("the method {refused} is always refused; no rule can permit it")
}

pub(super) fn path(error: PathError) -> String {
    format!(
        "the request was refused before any rule was read: {error}; send the path in its plain \
         form"
    )
}

pub(super) fn host_denied(host: &Host, port: u16, rule: &Rule) -> String {
    format!(
        "{host} port {port} was refused by the network policy: the deny rule `{}` matches it, and \
         deny comes before allow; removing that rule would permit it if an allow rule does",
        rule.text
    )
}

pub(super) fn host_not_allowed(host: &Host, port: u16, nearest: Option<&NearMiss>) -> String {
    match nearest {
        Some(near) => format!(
            "{host} port {port} was refused by the network policy: no allow rule matches it (the \
             nearest is `{}`); to permit it, {}",
            near.rule.text, near.edit
        ),
        None => format!(
            "{host} port {port} was refused by the network policy: no allow rule matches it; to \
             permit it, {}",
            add_allow(host)
        ),
    }
}

pub(super) fn own_host(host: &Host, port: u16, is_open: bool) -> String {
    let beside =
        if is_open { ", with \"*\" beside it so that all else stays permitted" } else { "" };
    format!(
        "{host} port {port} was refused by the network policy: the name stands for the loopback \
         services of the host itself, which no wildcard covers; to permit this one, {}{beside}",
        add_own_host(host, port)
    )
}

/// The edit that permits a service of the host itself.
pub(super) fn add_own_host(host: &Host, port: u16) -> String {
    format!("add \"{}\" to /network/allow", bracketed(host, port))
}

/// The edit that permits a host if no rule is near.
pub(super) fn add_allow(host: &Host) -> String {
    format!("add \"{host}\" to /network/allow")
}

pub(super) fn host_special(host: &Host, port: u16, range: &SpecialRange) -> String {
    format!(
        "{host} port {port} was refused by the network policy: it is not a public host; it is, or \
         leads to, the special-purpose range {} ({}); an allow rule that names the address would \
         permit it",
        range.net, range.name
    )
}

pub(super) fn taken(host: &Host, services: &[&str]) -> String {
    format!(
        "{host} was refused: where the policy has credentials, the address 169.254.169.254 is the \
         interceptor's own and leads nowhere else, whatever the network rules say; it serves \
         http://169.254.169.254/proxy/SERVICE/… (or SERVICE@HOST for another of its hosts), and \
         the services of this policy are `{}`",
        services.join("`, `")
    )
}

pub(super) fn address_denied(host: &Host, address: IpAddr, rule: &Rule) -> String {
    format!(
        "{host} was refused by the network policy: it resolves to {address}, which the deny rule \
         `{}` covers; removing that rule would permit it",
        rule.text
    )
}

pub(super) fn address_special(
    host: &Host,
    address: IpAddr,
    port: u16,
    range: &SpecialRange,
) -> String {
    format!(
        "{host} port {port} was refused by the network policy: it resolves to {address}, which is \
         in, or leads to, the special-purpose range {} ({}); an allow rule that names the address \
         would permit it",
        range.net, range.name
    )
}

pub(super) fn protocol(host: &Host, port: u16, governed: bool) -> String {
    if governed {
        return format!(
            "{host} port {port} was refused by the network policy: the connection speaks neither \
             HTTP nor TLS, and a credential governs this host, so nothing else is permitted"
        );
    }
    format!(
        "{host} port {port} was refused by the network policy: the connection speaks neither HTTP \
         nor TLS; to permit any protocol, add \"tcp://{}\" to /network/allow",
        bracketed(host, port)
    )
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn bracketed(host: &Host, port: u16) -> String {
    match host {
        Host::Ip(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        host => format!("{host}:{port}"),
    }
}

pub(super) fn plaintext(credential: &str, request: &Request<'_>) -> String {
    format!(
        "plain HTTP to {} port {} was refused: the credential `{credential}` governs this host \
         and its key travels only over TLS; use https, or set \"allow_plaintext\": true on the \
         credential",
        request.host, request.port
    )
}

pub(super) fn ambiguous(request: &Request<'_>, names: &[&str]) -> String {
    format!(
        "the request to {} was refused: the credentials `{}` govern this host and it does not \
         present the placeholder of exactly one of them; send the placeholder of the one that is \
         meant",
        request.host,
        names.join("`, `")
    )
}

pub(super) fn misuse(credential: &Credential, request: &Request<'_>) -> String {
    format!(
        "the request was refused: it presents the placeholder of the credential `{}` to {}://{}, \
         which that credential does not govern; send it only to the credential's own hosts",
        credential.name,
        request.scheme.as_str(),
        bracketed(request.host, request.port)
    )
}

pub(super) fn endpoint(
    credential: &str,
    request: &Request<'_>,
    path: &CanonicalPath,
    nearest: Option<&NearMiss>,
) -> String {
    let method = request.method;
    let head = format!(
        "{method} {path} was refused by the endpoint rules of the credential `{credential}`: "
    );
    match nearest {
        Some(near) if near.failed == "aws" => {
            let signed = match request.aws {
                Some(scope) => format!("is signed for {} in {}", scope.service, scope.region),
                None => "is not signed for any service and region".to_owned(),
            };
            format!(
                "{head}the rule `{}` matches the path, but the request {signed}, which the rule \
                 does not name; to permit it, {}",
                near.rule.text, near.edit
            )
        }
        Some(near) if near.failed == "method" => format!(
            "{head}the rule `{}` matches the path but not the method; to permit it, {}",
            near.rule.text, near.edit
        ),
        Some(near) => format!(
            "{head}no rule matches the path (the nearest is `{}`); to permit it, {}",
            near.rule.text, near.edit
        ),
        None => format!(
            "{head}it has no rules, so nothing is permitted; to permit it, add a rule to its \
             `endpoints`"
        ),
    }
}

pub(super) fn asked(credential: &str, method: &str, path: &CanonicalPath, rule: &Rule) -> String {
    format!(
        "{method} {path} was refused by the endpoint rules of the credential `{credential}`: the \
         rule `{}` permits only what a person approves; to permit it without asking, put a rule \
         without \"ask\" before it",
        rule.text
    )
}

pub(super) fn overridden(credential: &str, path: &CanonicalPath) -> String {
    format!(
        "the request for {path} was refused by the endpoint rules of the credential \
         `{credential}`: a method-override header or the parameter `_method` asks for a method \
         that no rule permits for this path; send the request without it"
    )
}

pub(super) fn asterisk(credential: &str) -> String {
    format!(
        "`OPTIONS *` was refused by the endpoint rules of the credential `{credential}`: it names \
         no path, so no rule can permit it"
    )
}
