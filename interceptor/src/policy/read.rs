//! Reads the text of a policy document, collecting every error and every warning. What is wrong is left out of the document
//! that results, so that the rest of it can still be judged.
//!
//! No message repeats a value: a value may be a key, or the place where a key was put by mistake.

use std::collections::HashMap;
use std::path::PathBuf;

use super::credential::{CredentialHost, KeySource, LiteralKey};
use super::document::{
    CredentialDocument, Document, EndpointDocument, LimitsDocument, Located, NetworkDocument,
};
use super::inject::{BasicDocument, InjectDocument, is_token};
use super::json::{self, Kind, Node};
use super::network_rule::{NetworkRule, Target};
use super::pattern::PathPattern;
use super::problem::{Problem, did_you_mean, looks_like_key};

pub(super) const DOCUMENT: [&str; 6] =
    ["image", "network", "network_profile", "credentials", "credentials_v2", "limits"];
pub(super) const NETWORK: [&str; 3] = ["allow", "deny", "passthrough"];
pub(super) const CREDENTIAL: [&str; 7] =
    ["key", "endpoints", "hosts", "inject", "env", "allow_plaintext", "strip_cookies"];
pub(super) const ENDPOINT: [&str; 2] = ["methods", "paths"];
pub(super) const INJECT: [&str; 4] = ["header", "format", "basic", "query"];
pub(super) const LIMITS: [&str; 13] = [
    "connections",
    "requests",
    "header_bytes",
    "headers",
    "body_bytes",
    "header_timeout_seconds",
    "idle_timeout_seconds",
    "total_timeout_seconds",
    "mints_per_second",
    "mints_burst",
    "requests_per_second_per_host",
    "bytes_up_per_host",
    "audit_backlog",
];

/// What came of a text.
pub(super) struct Reading {
    pub(super) document: Document,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// Reads a document.
pub(super) fn read(text: &str) -> Reading {
    let mut reader = Reader {
        line_starts: std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect(),
        errors: Vec::new(),
        warnings: Vec::new(),
        lines: HashMap::new(),
    };
    let mut document = Document::default();
    match json::parse(text) {
        Ok(root) => reader.document(&root, &mut document),
        Err(problem) => reader.errors.push(problem),
    }
    document.lines = reader.lines;
    Reading { document, errors: reader.errors, warnings: reader.warnings }
}

struct Reader {
    line_starts: Vec<usize>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    lines: HashMap<String, usize>,
}

impl Reader {
    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    fn problem(&self, node: &Node<'_>, message: impl Into<String>) -> Problem {
        Problem { line: Some(self.line(node.offset)), ..Problem::new(node.pointer.clone(), message) }
    }

    fn error(&mut self, node: &Node<'_>, message: impl Into<String>) {
        let problem = self.problem(node, message);
        self.errors.push(problem);
    }

    fn warn(&mut self, node: &Node<'_>, message: impl Into<String>) {
        let problem = self.problem(node, message);
        self.warnings.push(problem);
    }

    fn locate(&mut self, node: &Node<'_>) {
        let line = self.line(node.offset);
        self.lines.insert(node.pointer.clone(), line);
    }

    /// The members of an object, duplicates reported and left out.
    fn members<'a>(&mut self, node: &Node<'a>, what: &str) -> Option<Vec<(String, Node<'a>)>> {
        self.locate(node);
        let Some(members) = node.members().filter(|_| node.kind() == Kind::Object) else {
            self.error(node, format!("{what} is an object, not {}", node.kind()));
            return None;
        };
        let mut unique = Vec::with_capacity(members.len());
        for member in members {
            if looks_like_key(&member.name) {
                self.error(node, "the name of a field here looks like a key; a key is a value, and is best kept in a file or a variable");
            } else if member.duplicate {
                self.error(&member.value, "this field is given twice; which one is meant cannot be known");
            } else {
                unique.push((member.name, member.value));
            }
        }
        Some(unique)
    }

    /// The members of an object whose fields are known: by field, unknown ones reported.
    fn fields<'a, const N: usize>(
        &mut self,
        node: &Node<'a>,
        what: &str,
        known: [&str; N],
    ) -> Option<[Option<Node<'a>>; N]> {
        let mut fields = [const { None }; N];
        for (name, value) in self.members(node, what)? {
            match known.iter().position(|field| *field == name) {
                Some(index) => fields[index] = Some(value),
                None => {
                    let hint = did_you_mean(&name, known);
                    let listed = known.join("`, `");
                    self.error(
                        &value,
                        format!("unknown field `{name}`{hint} (the fields here are `{listed}`)"),
                    );
                }
            }
        }
        Some(fields)
    }

    fn elements<'a>(&mut self, node: &Node<'a>, what: &str) -> Option<Vec<Node<'a>>> {
        self.locate(node);
        let elements = node.elements().filter(|_| node.kind() == Kind::Array);
        if elements.is_none() {
            self.error(node, format!("{what} is a list, not {}", node.kind()));
        }
        elements
    }

    fn string(&mut self, node: &Node<'_>, what: &str) -> Option<String> {
        if node.kind() != Kind::String {
            self.error(node, format!("{what} is a string, not {}", node.kind()));
            return None;
        }
        let Some(text) = node.string() else {
            self.error(node, format!("{what} is not valid Unicode (half of a surrogate pair)"));
            return None;
        };
        self.locate(node);
        Some(text.as_str().to_owned())
    }

    fn bool(&mut self, node: &Node<'_>, what: &str) -> Option<bool> {
        let value = node.bool();
        if value.is_none() {
            self.error(node, format!("{what} is true or false, not {}", node.kind()));
        }
        self.locate(node);
        value
    }

    fn document(&mut self, root: &Node<'_>, document: &mut Document) {
        let Some([image, network, profile, simple, credentials, limits]) =
            self.fields(root, "a policy document", DOCUMENT)
        else {
            return;
        };
        document.image = image.and_then(|node| self.string(&node, "`image`"));
        if let (Some(_), Some(profile)) = (&network, &profile) {
            self.error(profile, "give either `network` or `network_profile`, not both");
        }
        document.network = network.and_then(|node| self.network(&node));
        document.network_profile = profile.and_then(|node| self.string(&node, "`network_profile`"));
        if let Some(node) = simple {
            for (name, node) in self.members(&node, "`credentials`").into_iter().flatten() {
                self.check_name(&name, &node);
                let key = self.key(&node);
                let credential = CredentialDocument { key, ..CredentialDocument::at(node.pointer) };
                document.credentials.push((name, credential));
            }
        }
        if let Some(node) = credentials {
            for (name, node) in self.members(&node, "`credentials_v2`").into_iter().flatten() {
                self.check_name(&name, &node);
                if document.credentials.iter().any(|(other, _)| *other == name) {
                    self.error(&node, "this credential is also given in `credentials`; keep one of the two");
                }
                if let Some(credential) = self.credential(&node) {
                    document.credentials_v2.push((name, credential));
                }
            }
        }
        if let Some(node) = limits {
            document.limits = self.limits(&node);
        }
    }

    fn network(&mut self, node: &Node<'_>) -> Option<NetworkDocument> {
        let [allow, deny, passthrough] = self.fields(node, "`network`", NETWORK)?;
        let mut network = NetworkDocument::default();
        if let Some(node) = allow {
            network.allow = self.rules(&node, "`allow`");
            if node.elements().is_some_and(|elements| elements.is_empty()) {
                self.warn(
                    &node,
                    "an empty `allow` permits every public host; to refuse all, write \"deny\": [\"*\"]",
                );
            }
        }
        if let Some(node) = deny {
            network.deny = self.rules(&node, "`deny`");
            for rule in network.deny.iter().filter(|rule| rule.value.tcp) {
                self.warnings.push(Problem {
                    line: self.lines.get(&rule.pointer).copied(),
                    ..Problem::new(
                        rule.pointer.clone(),
                        "`tcp://` means nothing in `deny`: the rule denies every protocol",
                    )
                });
            }
        }
        if let Some(node) = passthrough {
            network.passthrough = self.passthrough(&node);
        }
        Some(network)
    }

    fn rules(&mut self, node: &Node<'_>, what: &str) -> Vec<Located<NetworkRule>> {
        let mut rules = Vec::new();
        for node in self.elements(node, what).into_iter().flatten() {
            let Some(text) = self.string(&node, "a network rule") else { continue };
            match NetworkRule::parse(&text) {
                Ok((value, note)) => {
                    if let Some(note) = note {
                        self.warn(&node, note);
                    }
                    rules.push(Located { value, text, pointer: node.pointer });
                }
                Err(error) => self.error(&node, error.to_string()),
            }
        }
        rules
    }

    fn passthrough(&mut self, node: &Node<'_>) -> Vec<Located<NetworkRule>> {
        let mut rules = self.rules(node, "`passthrough`");
        rules.retain(|rule| {
            let message = match &rule.value.target {
                _ if rule.value.tcp => "`passthrough` names hosts, without `tcp://`",
                Target::Net(_) => {
                    "`passthrough` names hosts, not addresses: TLS is recognised by the name it asks for"
                }
                _ => return true,
            };
            self.errors.push(Problem {
                line: self.lines.get(&rule.pointer).copied(),
                ..Problem::new(rule.pointer.clone(), message)
            });
            false
        });
        rules
    }

    fn check_name(&mut self, name: &str, node: &Node<'_>) {
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            self.error(node, "a credential's name has 1 to 128 characters, none of them a control character");
        }
    }

    fn credential(&mut self, node: &Node<'_>) -> Option<CredentialDocument> {
        let [key, endpoints, hosts, inject, env, plaintext, cookies] =
            self.fields(node, "a credential of `credentials_v2`", CREDENTIAL)?;
        let mut credential = CredentialDocument::at(node.pointer.clone());
        match key {
            Some(key) => credential.key = self.key(&key),
            None => {
                self.error(node, "the field `key` is missing: a string, {\"env\": NAME} or {\"file\": PATH}")
            }
        }
        credential.endpoints = endpoints.map(|node| self.endpoints(&node));
        credential.hosts = hosts.map(|node| self.hosts(&node));
        credential.inject = inject.and_then(|node| self.inject(&node));
        credential.env = env.map(|node| self.env(&node));
        if let Some(node) = plaintext {
            credential.allow_plaintext = self.bool(&node, "`allow_plaintext`").unwrap_or_default();
        }
        credential.strip_cookies = cookies.and_then(|node| self.bool(&node, "`strip_cookies`"));
        Some(credential)
    }

    fn key(&mut self, node: &Node<'_>) -> Option<KeySource> {
        self.locate(node);
        match node.kind() {
            Kind::String => self.literal_key(node),
            Kind::Object => {
                let known = self.errors.len();
                let [env, file] = self.fields(node, "a key", ["env", "file"])?;
                match (env, file) {
                    (Some(env), None) => {
                        let name = self.string(&env, "`env`")?;
                        if is_variable(&name) {
                            return Some(KeySource::Env(name));
                        }
                        self.error(
                            &env,
                            "the name of a variable has letters, digits and `_`, and no digit in front",
                        );
                        None
                    }
                    (None, Some(file)) => {
                        let path = self.string(&file, "`file`")?;
                        if !path.is_empty() && !path.contains('\0') {
                            return Some(KeySource::File(PathBuf::from(path)));
                        }
                        self.error(&file, "the path of the key's file is empty or has a NUL");
                        None
                    }
                    // A misspelt field was reported already.
                    _ if self.errors.len() > known => None,
                    _ => {
                        self.error(node, "a key is a string, {\"env\": NAME} or {\"file\": PATH}: give one of the two fields");
                        None
                    }
                }
            }
            kind => {
                self.error(
                    node,
                    format!("a key is a string, {{\"env\": NAME}} or {{\"file\": PATH}}, not {kind}"),
                );
                None
            }
        }
    }

    fn literal_key(&mut self, node: &Node<'_>) -> Option<KeySource> {
        let key = node.string();
        match key.as_deref().map(String::as_str) {
            None => self.error(node, "the key is not valid Unicode (half of a surrogate pair)"),
            Some("") => self.error(node, "the key is empty"),
            Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                self.error(
                    node,
                    "the key has a character that cannot stand in a header: a key is visible ASCII",
                );
            }
            Some(key) => return Some(KeySource::Literal(LiteralKey::new(key.to_owned()))),
        }
        None
    }

    fn endpoints(&mut self, node: &Node<'_>) -> Vec<EndpointDocument> {
        let Some(elements) = self.elements(node, "`endpoints`") else { return Vec::new() };
        if elements.is_empty() {
            self.warn(
                node,
                "an empty `endpoints` permits nothing; leave the field out to permit any method and path",
            );
        }
        elements.iter().filter_map(|node| self.endpoint(node)).collect()
    }

    fn endpoint(&mut self, node: &Node<'_>) -> Option<EndpointDocument> {
        let [methods, paths] = self.fields(node, "an endpoint rule", ENDPOINT)?;
        if methods.is_none() {
            self.error(node, "the field `methods` is missing; an empty list means any method");
        }
        if paths.is_none() {
            self.error(node, "the field `paths` is missing; [\"/\"] means any path");
        }
        let methods = methods.and_then(|node| self.methods(&node));
        let paths = paths.and_then(|node| self.paths(&node));
        Some(EndpointDocument { methods: methods?, paths: paths?, pointer: node.pointer.clone() })
    }

    /// The methods, `None` where one is wrong: a rule with a part left out would not be the rule that was meant.
    fn methods(&mut self, node: &Node<'_>) -> Option<Vec<String>> {
        let mut methods = Vec::new();
        let mut wrong = false;
        for node in self.elements(node, "`methods`")? {
            let Some(method) = self.string(&node, "a method") else {
                wrong = true;
                continue;
            };
            let method = method.to_ascii_uppercase();
            if method == "*" {
                self.error(&node, "`*` is no method; an empty list means any method");
                wrong = true;
            } else if !is_token(&method) {
                self.error(&node, "this is not an HTTP method (a token of RFC 9110 section 5.6.2)");
                wrong = true;
            } else if matches!(method.as_str(), "CONNECT" | "TRACE") {
                self.warn(&node, "this method is always refused, whatever a rule says");
            }
            methods.push(method);
        }
        (!wrong).then_some(methods)
    }

    fn paths(&mut self, node: &Node<'_>) -> Option<Vec<Located<PathPattern>>> {
        let elements = self.elements(node, "`paths`")?;
        if elements.is_empty() {
            self.error(node, "`paths` is empty and the rule would match nothing; [\"/\"] means any path");
            return None;
        }
        let mut paths = Vec::new();
        for node in elements {
            let Some(text) = self.string(&node, "a path pattern") else { continue };
            match PathPattern::parse(&text) {
                Ok(value) => paths.push(Located { value, text, pointer: node.pointer }),
                Err(error) => self.error(&node, error.to_string()),
            }
        }
        Some(paths)
    }

    fn hosts(&mut self, node: &Node<'_>) -> Vec<Located<CredentialHost>> {
        let Some(elements) = self.elements(node, "`hosts`") else { return Vec::new() };
        if elements.is_empty() {
            self.error(node, "`hosts` is empty; name the hosts that the key is for");
        }
        let mut hosts = Vec::new();
        for node in elements {
            let Some(text) = self.string(&node, "a host") else { continue };
            let rule = match NetworkRule::parse(&text) {
                Ok((rule, _)) => rule,
                Err(error) => {
                    self.error(&node, error.to_string());
                    continue;
                }
            };
            let single = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
            let message = match &rule.target {
                _ if rule.tcp => "a credential's host is named without `tcp://`: keys travel in HTTP",
                Target::Any => "a key cannot be for any host: name the hosts that it is for",
                Target::Net(net) if !single(net) => {
                    "a key cannot be for a whole network: name the hosts that it is for"
                }
                _ => {
                    let value = CredentialHost { target: rule.target, port: rule.port };
                    hosts.push(Located { value, text, pointer: node.pointer });
                    continue;
                }
            };
            self.error(&node, message);
        }
        hosts
    }

    fn inject(&mut self, node: &Node<'_>) -> Option<Located<InjectDocument>> {
        let [header, format, basic, query] = self.fields(node, "`inject`", INJECT)?;
        let known = self.errors.len();
        let value = InjectDocument {
            header: header.and_then(|node| self.string(&node, "`header`")),
            format: format.and_then(|node| self.string(&node, "`format`")),
            basic: basic.and_then(|node| {
                let known = self.errors.len();
                let [username] = self.fields(&node, "`basic`", ["username"])?;
                let Some(username) = username else {
                    if self.errors.len() == known {
                        self.error(&node, "the field `username` is missing");
                    }
                    return None;
                };
                Some(BasicDocument { username: self.string(&username, "`username`")? })
            }),
            query: query.and_then(|node| self.string(&node, "`query`")),
        };
        if self.errors.len() > known {
            return None;
        }
        if let Err((field, message)) = value.form() {
            let mut problem = self.problem(node, message);
            if !field.is_empty() {
                problem.pointer = format!("{}/{field}", problem.pointer);
                problem.line = self.lines.get(&problem.pointer).copied().or(problem.line);
            }
            self.errors.push(problem);
            return None;
        }
        Some(Located { value, text: String::new(), pointer: node.pointer.clone() })
    }

    fn env(&mut self, node: &Node<'_>) -> Vec<Located<()>> {
        let nodes =
            if node.kind() == Kind::Array { node.elements().unwrap_or_default() } else { vec![node.clone()] };
        let mut names = Vec::new();
        for node in nodes {
            let Some(text) = self.string(&node, "`env`") else { continue };
            if is_variable(&text) {
                names.push(Located { value: (), text, pointer: node.pointer });
            } else {
                self.error(
                    &node,
                    "the name of a variable has letters, digits and `_`, and no digit in front",
                );
            }
        }
        names
    }

    fn limits(&mut self, node: &Node<'_>) -> LimitsDocument {
        let Some(fields) = self.fields(node, "`limits`", LIMITS) else { return LimitsDocument::default() };
        let values = fields.map(|field| {
            let node = field?;
            let value = node.whole_number().filter(|value| *value > 0);
            if value.is_none() {
                self.error(&node, "a limit is a whole number greater than zero");
            }
            value
        });
        let [
            connections,
            requests,
            header_bytes,
            headers,
            body_bytes,
            header,
            idle,
            total,
            mints,
            burst,
            rate,
            up,
            backlog,
        ] = values;
        LimitsDocument {
            connections,
            requests,
            header_bytes,
            headers,
            body_bytes,
            header_timeout_seconds: header,
            idle_timeout_seconds: idle,
            total_timeout_seconds: total,
            mints_per_second: mints,
            mints_burst: burst,
            requests_per_second_per_host: rate,
            bytes_up_per_host: up,
            audit_backlog: backlog,
        }
    }
}

impl CredentialDocument {
    fn at(pointer: String) -> CredentialDocument {
        CredentialDocument {
            key: None,
            endpoints: None,
            hosts: None,
            inject: None,
            env: None,
            allow_plaintext: false,
            strip_cookies: None,
            pointer,
        }
    }
}

/// Whether a text is the name of an environment variable (POSIX.1-2017 section 8.1, lower case also).
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
