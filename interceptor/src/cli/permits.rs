//! What a policy permits, in a few lines for people who must decide whether to trust it.

use interceptor_policy::{
    Catalogue, Credential, CredentialDocument, Document, KeySource, Located, NetworkRule, Policy,
};

use super::policy_file::printable;

/// The maximum number of lines, and of characters in each.
const LINES: usize = 40;
const WIDTH: usize = 300;

/// Describes a document that compiled to a policy.
pub(super) fn permits(document: &Document, policy: &Policy, catalogue: &Catalogue) -> Vec<String> {
    let mut lines = vec![format!("hosts: {}", hosts(document, catalogue))];
    let network = document.network.as_ref();
    let refused = network.map(|network| texts(&network.deny)).unwrap_or_default();
    let refused: Vec<&str> =
        refused.into_iter().filter(|rule| !["*", "0.0.0.0/0", "::/0"].contains(rule)).collect();
    if !refused.is_empty() {
        lines.push(format!("not: {}", refused.join(", ")));
    }
    if let Some(network) = network.filter(|network| !network.passthrough.is_empty()) {
        lines.push(format!("unopened: TLS to {}", texts(&network.passthrough).join(", ")));
    }
    let written: Vec<&(String, CredentialDocument)> =
        document.credentials.iter().chain(&document.credentials_v2).collect();
    for credential in policy.credentials() {
        let written = written.iter().find(|(name, _)| *name == credential.name);
        lines.push(about(credential, written.map(|(_, written)| written), catalogue));
    }
    lines.extend(way_out(document));
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    lines.iter_mut().for_each(|line| *line = short(&printable(line)));
    lines.extend((more > 0).then(|| format!("and {more} more")));
    lines
}

/// How origins are reached, if otherwise than usual.
fn way_out(document: &Document) -> Vec<String> {
    let Some(upstream) = &document.upstream else { return Vec::new() };
    let mut lines = Vec::new();
    if let Some(proxy) = &upstream.proxy {
        let auth = match &upstream.proxy_auth {
            None => String::new(),
            Some(KeySource::Literal(_)) => ", with the credential in the file".to_owned(),
            Some(KeySource::Env(name)) => format!(", with the credential in {name}"),
            Some(KeySource::File(path)) => {
                format!(", with the credential in the file {}", path.display())
            }
        };
        lines.push(format!("by the proxy: {}{auth}", proxy.text));
    }
    if !upstream.ca.is_empty() {
        let files: Vec<&str> = upstream.ca.iter().map(|file| file.text.as_str()).collect();
        lines.push(format!("trusted for origins: the roots in {}", files.join(", ")));
    }
    lines
}

fn hosts(document: &Document, catalogue: &Catalogue) -> String {
    let mut listed: Vec<String> = Vec::new();
    let mut closed = false;
    if let Some(network) = &document.network {
        listed.extend(network.allow.iter().map(|rule| rule.text.clone()));
        closed |= !network.allow.is_empty()
            || network.deny.iter().any(|rule| is_catch_all(&rule.text.as_str()));
    }
    for named in &document.network_profile {
        let Some(profile) = catalogue.profile(&named.text) else { continue };
        let own = catalogue.allow_rules(profile).1 || !profile.deny.is_empty();
        closed |= own;
        listed.extend(own.then(|| format!("those of the profile {}", named.text)));
    }
    match (closed, listed.is_empty()) {
        (false, _) => "any public host".to_owned(),
        (true, true) => "none".to_owned(),
        (true, false) => listed.join(", "),
    }
}

fn is_catch_all(text: &&str) -> bool {
    ["*", "0.0.0.0/0", "::/0"].contains(text)
}

fn texts(rules: &[Located<NetworkRule>]) -> Vec<&str> {
    rules.iter().map(|rule| rule.text.as_str()).collect()
}

/// One credential: the source of its key, its hosts, and the requests it permits.
fn about(
    credential: &Credential,
    written: Option<&CredentialDocument>,
    catalogue: &Catalogue,
) -> String {
    let key = match &credential.key {
        KeySource::Literal(_) => "the key in the file".to_owned(),
        KeySource::Env(name) => format!("the key in {name}"),
        KeySource::File(path) => format!("the key in the file {}", path.display()),
    };
    let own = written.and_then(|written| written.hosts.as_ref());
    let hosts: Vec<String> = match own {
        Some(hosts) => hosts.iter().map(|host| host.text.clone()).collect(),
        None => catalogue
            .service(&credential.name)
            .map(|service| service.host_texts.clone())
            .unwrap_or_default(),
    };
    let requests = match written.and_then(|written| written.endpoints.as_ref()) {
        None => "any request".to_owned(),
        Some(rules) if rules.is_empty() => "no request".to_owned(),
        Some(rules) => {
            let rules: Vec<String> = rules
                .iter()
                .map(|rule| {
                    let methods = rule.methods.join("|");
                    let methods =
                        if methods.is_empty() { "any method".to_owned() } else { methods };
                    let paths: Vec<&str> =
                        rule.paths.iter().map(|path| path.text.as_str()).collect();
                    format!("{methods} {}", paths.join(" "))
                })
                .collect();
            rules.join(", ")
        }
    };
    format!("{}: {key}, for {}: {requests}", credential.name, hosts.join(", "))
}

fn short(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let catalogue = Catalogue::builtin();
        let document = Document::parse(text).unwrap().document;
        let policy = Policy::compile(&document, &catalogue).unwrap();
        permits(&document, &policy, &catalogue)
    }

    #[test]
    fn a_policy_is_told_in_a_few_lines_and_no_key_is() {
        let text = r#"{"network":{"allow":["a.test","tcp://db.test:5432"],"deny":["*","b.test"],
            "passthrough":["a.test"]},"network_profile":"openai",
            "credentials":{"anthropic":"sk-CANARY"},
            "credentials_v2":{"openai":{"key":{"env":"OPENAI_API_KEY"},
            "endpoints":[{"methods":["GET","POST"],"paths":["/v1/models","/v1/x"]}]},
            "own":{"key":{"file":"/k"},"hosts":["own.test:8443"],"endpoints":[]}}}"#;
        assert_eq!(
            lines(text),
            [
                "hosts: a.test, tcp://db.test:5432, those of the profile openai",
                "not: b.test",
                "unopened: TLS to a.test",
                "anthropic: the key in the file, for api.anthropic.com: any request",
                "openai: the key in OPENAI_API_KEY, for api.openai.com: GET|POST /v1/models /v1/x",
                "own: the key in the file /k, for own.test:8443: no request",
            ]
        );
        assert_eq!(lines("{}"), ["hosts: any public host"]);
        assert_eq!(lines(r#"{"network_profile":"unrestricted"}"#), ["hosts: any public host"]);
        assert_eq!(lines(r#"{"network":{"deny":["*"]}}"#), ["hosts: none"]);
        let many: Vec<String> = (0..200).map(|n| format!("\"a{n}.test\"")).collect();
        let long = lines(&format!(r#"{{"network":{{"allow":[{}]}}}}"#, many.join(",")));
        assert!(long.len() == 1 && long[0].ends_with('…'), "{long:?}");
    }
}
