//! What a policy permits, in a few lines for people who must decide whether to trust it.

use interceptor_policy::{
    AwsKeys, Catalogue, Credential, CredentialDocument, Document, ExecSource, FetchedSource,
    KeySource, Located, NetworkRule, Policy,
};

use super::policy_file::printable;

/// The maximum number of lines, and of characters in each, where not all is shown.
const LINES: usize = 40;
const WIDTH: usize = 300;
/// What the further lines of a program begin with.
const INDENT: &str = "    ";

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What fits a terminal. What is left out is told.
    Short,
    /// All of it.
    Whole,
}

/// Describes a document that compiled to a policy. First what matters most, since whoever wrote the
/// document decides how long the rest is: programs, keys, who sees the traffic, and then hosts.
pub(super) fn permits(
    document: &Document,
    policy: &Policy,
    catalogue: &Catalogue,
    extent: Extent,
) -> Vec<String> {
    let programs: Vec<String> = policy.credentials().iter().flat_map(living).collect();
    let mut lines = way_out(document);
    let written: Vec<&(String, CredentialDocument)> =
        document.credentials.iter().chain(&document.credentials_v2).collect();
    for credential in policy.credentials() {
        let written = written.iter().find(|(name, _)| *name == credential.name);
        lines.push(about(credential, written.map(|(_, written)| written), catalogue));
    }
    let network = document.network.as_ref();
    if let Some(network) = network.filter(|network| !network.passthrough.is_empty()) {
        lines.push(format!("unopened: TLS to {}", texts(&network.passthrough).join(", ")));
    }
    lines.push(format!("hosts: {}", hosts(document, catalogue)));
    let refused = network.map(|network| texts(&network.deny)).unwrap_or_default();
    let refused: Vec<&str> =
        refused.into_iter().filter(|rule| !["*", "0.0.0.0/0", "::/0"].contains(rule)).collect();
    if !refused.is_empty() {
        lines.push(format!("not: {}", refused.join(", ")));
    }
    let lines = lines.iter().map(|line| visible(line));
    let lines: Vec<String> = programs.into_iter().chain(lines).collect();
    match extent {
        Extent::Whole => lines,
        Extent::Short => shortened(&lines),
    }
}

/// A line as it is shown. Spaces that would fill a terminal's line, so that what stands behind them
/// seems to be a line of ours, are escaped.
fn visible(line: &str) -> String {
    printable(line).replace("  ", " \\u{20}")
}

/// What fits, with what is left out.
fn shortened(lines: &[String]) -> Vec<String> {
    let mut short: Vec<String> = lines.iter().take(LINES).map(|line| cut(line, WIDTH)).collect();
    let more = lines.len().saturating_sub(LINES);
    let is_cut = more > 0 || short != lines;
    short.extend((more > 0).then(|| format!("and {more} more lines")));
    short.extend(is_cut.then(|| "not all is shown: see interceptor trust --full".to_owned()));
    short
}

/// The beginning of a text, with how much is left out.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => {
            let left_out = text[at..].chars().count();
            format!("{}… ({left_out} more characters)", &text[..at])
        }
    }
}

/// The program that a credential runs, or the service that it asks: in as many lines as show all of
/// it. All but the first are indented, so that none seems to be a line of its own.
fn living(credential: &Credential) -> Vec<String> {
    let name = &credential.name;
    let text = match &credential.key {
        KeySource::Exec(source) => format!("runs outside, as you, for {name}: {}", line(source)),
        KeySource::Fetched(source) => {
            format!("asks outside, as you, for {name}: {}", asked(source))
        }
        KeySource::Literal(_) | KeySource::Env(_) | KeySource::File(_) | KeySource::Aws(_) => {
            return Vec::new();
        }
    };
    let characters: Vec<char> = visible(&text).chars().collect();
    let (first, rest) = characters.split_at(characters.len().min(WIDTH));
    let rest = rest.chunks(WIDTH - INDENT.len());
    let rest = rest.map(|part| format!("{INDENT}{}", part.iter().collect::<String>()));
    std::iter::once(first.iter().collect()).chain(rest).collect()
}

/// The keys of an AWS account, each with its place.
fn pair(keys: &AwsKeys) -> String {
    let place = |(field, source): (&str, &KeySource)| match source {
        KeySource::Env(name) => format!("the {field} in {name}"),
        KeySource::File(path) => format!("the {field} in the file {}", path.display()),
        _ => format!("the {field} in the policy"),
    };
    keys.parts().map(place).collect::<Vec<_>>().join(" and ")
}

/// A service, and what it is sent.
fn asked(source: &FetchedSource) -> String {
    let sent = source.inputs().into_iter().map(|(field, secret)| match secret {
        KeySource::Literal(_) => format!("the {field} in the file"),
        KeySource::Env(name) => format!("the {field} in {name}"),
        KeySource::File(path) => format!("the {field} in the file {}", path.display()),
        KeySource::Exec(source) => {
            format!("the {field} that a program prints, run outside, as you: {}", line(source))
        }
        KeySource::Fetched(source) => format!("the {field} of {}", asked(source)),
        KeySource::Aws(_) => format!("the {field} of AWS"),
    });
    let sent: Vec<String> = sent.collect();
    format!("{} at {}, with {}", source.kind(), source.url(), sent.join(", "))
}

/// The command line of a program, as it is written.
fn line(source: &ExecSource) -> String {
    serde_json::Value::from(source.argv.clone()).to_string()
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
            Some(KeySource::Exec(source)) => format!(", with what {} prints", line(source)),
            // Never: a proxy takes no signatures.
            Some(KeySource::Aws(_)) => String::new(),
            Some(KeySource::Fetched(source)) => format!(", with the key of {}", asked(source)),
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
        KeySource::Exec(_) => "the key that its program prints".to_owned(),
        KeySource::Fetched(source) => format!("the key that {} gives", source.url()),
        KeySource::Aws(keys) => pair(keys),
    };
    let key = match &credential.client_cert {
        None => key,
        Some(certificate) if certificate.is_alone => format!("a client certificate, {key}"),
        Some(_) => format!("{key} and a client certificate"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let catalogue = Catalogue::builtin();
        let document = Document::parse(text).unwrap().document;
        let policy = Policy::compile(&document, &catalogue).unwrap();
        permits(&document, &policy, &catalogue, Extent::Short)
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
                "anthropic: the key in the file, for api.anthropic.com: any request",
                "openai: the key in OPENAI_API_KEY, for api.openai.com: GET|POST /v1/models /v1/x",
                "own: the key in the file /k, for own.test:8443: no request",
                "unopened: TLS to a.test",
                "hosts: a.test, tcp://db.test:5432, those of the profile openai",
                "not: b.test",
            ]
        );
        assert_eq!(lines("{}"), ["hosts: any public host"]);
        assert_eq!(lines(r#"{"network_profile":"unrestricted"}"#), ["hosts: any public host"]);
        assert_eq!(lines(r#"{"network":{"deny":["*"]}}"#), ["hosts: none"]);
    }

    #[test]
    fn no_argument_of_a_program_seems_to_be_a_line_of_its_own() {
        for padding in 0..WIDTH {
            let forged = format!("{}hosts: none\n  x", "a".repeat(padding));
            let exec = serde_json::json!({ "exec": ["/bin/p", forged, "b".repeat(2 * WIDTH)] });
            let lab = serde_json::json!({ "key": exec, "hosts": ["a.test"], "env": "K" });
            let text = serde_json::json!({ "credentials_v2": { "lab": lab } }).to_string();
            let lines = lines(&text);
            assert!(lines[0].starts_with("runs outside, as you, for lab: [\"/bin/p\""));
            let own = lines.iter().position(|line| line.starts_with("lab: the key that")).unwrap();
            assert!(own >= 3 && lines[1..own].iter().all(|line| line.starts_with(INDENT)));
            assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:?}");
            let whole: String =
                lines[..own].iter().map(|line| line.strip_prefix(INDENT).unwrap_or(line)).collect();
            assert!(whole.contains("hosts: none") && whole.ends_with("b\"]"), "{whole}");
        }
    }

    #[test]
    fn nothing_is_left_out_silently_and_no_padding_hides_a_key() {
        let many: Vec<String> = (0..200).map(|n| format!("\"a{n}.test\"")).collect();
        let key = r#"{"key":{"file":"/a   b"},"hosts":["own.test"],"env":"K","endpoints":
            [{"methods":["GET"],"paths":["/x"]}]}"#;
        let upstream = r#"{"proxy":"http://proxy.test:3128"}"#;
        let text = format!(
            r#"{{"network":{{"allow":[{}]}},"upstream":{upstream},
                "credentials_v2":{{"own":{key}}}}}"#,
            many.join(",")
        );
        let long = lines(&text);
        assert_eq!(long[0], "by the proxy: http://proxy.test:3128");
        let own = "own: the key in the file /a \\u{20} b, for own.test: GET /x";
        assert_eq!(long[1], own);
        let (_, all) = long[2].split_once("… (").unwrap();
        let left_out: usize = all.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(long[3..], ["not all is shown: see interceptor trust --full"]);
        let catalogue = Catalogue::builtin();
        let document = Document::parse(&text).unwrap().document;
        let policy = Policy::compile(&document, &catalogue).unwrap();
        let whole = permits(&document, &policy, &catalogue, Extent::Whole);
        assert_eq!((whole.len(), whole[2].chars().count()), (3, WIDTH + left_out));
        let lines: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        let short = shortened(&lines);
        assert_eq!((short.len(), short[LINES].as_str()), (LINES + 2, "and 10 more lines"));
    }
}
