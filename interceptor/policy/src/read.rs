//! Reads the text of a policy document and collects every error and warning. Invalid parts are left
//! out of the result, so that the rest can still be checked.
//!
//! No message repeats a value, because a value may be a key, even where none belongs.

use std::collections::{HashMap, HashSet};

use super::document::{
    CredentialDocument, Document, LimitsDocument, Located, NetworkDocument, Parsed,
};
use super::json::{self, Kind, Node};
use super::jsonc::strict_json;
use super::network_rule::{NetworkRule, Target};
use super::problem::{MAX_PROBLEMS, Problem, bound, did_you_mean, looks_like_key};

mod ask;
mod aws;
mod client_cert;
mod credential;
mod endpoint;
mod fetched;
mod source;
mod upstream;
mod vault;

pub(super) const DOCUMENT: [&str; 9] = [
    "image",
    "network",
    "network_profile",
    "upstream",
    "credentials",
    "credentials_v2",
    "ask",
    "limits",
    "$schema",
];
pub(super) const UPSTREAM: [&str; 5] = ["proxy", "proxy_auth", "proxy_resolves", "no_proxy", "ca"];
pub(super) const ASK: [&str; 2] = ["hosts", "timeout_seconds"];
pub(super) const NETWORK: [&str; 3] = ["allow", "deny", "passthrough"];
pub(super) const CREDENTIAL: [&str; 8] =
    ["key", "client_cert", "endpoints", "hosts", "inject", "env", "allow_plaintext", "cookies"];
pub(super) const CLIENT_CERT: [&str; 2] = ["certificate", "key"];
pub(super) const EXEC: [&str; 3] = ["exec", "timeout_seconds", "ttl_seconds"];
/// The kinds of sources that are asked over HTTP.
pub(super) const FETCHED: [&str; 2] = ["oauth2", "vault"];
pub(super) const AWS: [&str; 4] = ["access_key_id", "secret_access_key", "session_token", "exec"];
pub(super) const ENDPOINT: [&str; 4] = ["methods", "paths", "aws", "ask"];
pub(super) const INJECT: [&str; 4] = ["header", "format", "basic", "query"];
pub(super) const LIMITS: [&str; 15] = [
    "connections",
    "requests",
    "header_bytes",
    "headers",
    "body_bytes",
    "header_timeout_seconds",
    "idle_timeout_seconds",
    "response_timeout_seconds",
    "tunnel_idle_timeout_seconds",
    "total_timeout_seconds",
    "mints_per_second",
    "mints_burst",
    "requests_per_second_per_host",
    "bytes_up_per_host",
    "audit_backlog",
];

/// The result of reading a text.
pub(super) struct ReadResult {
    pub(super) document: Document,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl Document {
    /// Reads a document, which may hold comments and trailing commas.
    ///
    /// # Errors
    /// Every error in it: syntax, unknown and duplicate fields, values of the wrong type, rules
    /// that are none.
    pub fn parse(text: &str) -> Result<Parsed, Vec<Problem>> {
        let ReadResult { document, mut errors, mut warnings } = read(text);
        bound(&mut errors);
        bound(&mut warnings);
        if errors.is_empty() { Ok(Parsed { document, warnings }) } else { Err(errors) }
    }
}

/// Reads a document, which may hold comments and trailing commas.
pub(super) fn read(text: &str) -> ReadResult {
    match strict_json(text) {
        Ok(json) => read_besides(&json, &[]),
        Err(problem) => ReadResult {
            document: Document::default(),
            errors: vec![problem],
            warnings: Vec::new(),
        },
    }
}

/// Reads a strictly written document that shares its outermost object with another reader's fields.
pub(super) fn read_besides(text: &str, besides: &'static [&'static str]) -> ReadResult {
    let mut reader = Reader {
        besides,
        line_starts: std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect(),
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
    ReadResult { document, errors: reader.errors, warnings: reader.warnings }
}

struct Reader {
    /// Fields of the outermost object that belong to another reader.
    besides: &'static [&'static str],
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
        Problem {
            line: Some(self.line(node.offset)),
            ..Problem::new(node.pointer.clone(), message)
        }
    }

    fn error(&mut self, node: &Node<'_>, message: impl Into<String>) {
        if self.errors.len() > MAX_PROBLEMS {
            return;
        }
        let problem = self.problem(node, message);
        self.errors.push(problem);
    }

    fn warn(&mut self, node: &Node<'_>, message: impl Into<String>) {
        if self.warnings.len() > MAX_PROBLEMS {
            return;
        }
        let problem = self.problem(node, message);
        self.warnings.push(problem);
    }

    fn locate(&mut self, node: &Node<'_>) {
        let line = self.line(node.offset);
        self.lines.insert(node.pointer.clone(), line);
    }

    /// The members of an object. Duplicates are reported and left out.
    fn members<'a>(&mut self, node: &Node<'a>, what: &str) -> Option<Vec<(String, Node<'a>)>> {
        self.locate(node);
        let Some(members) = node.members().filter(|_| node.kind() == Kind::Object) else {
            self.error(node, format!("{what} is an object, not {}", node.kind()));
            return None;
        };
        let mut unique = Vec::with_capacity(members.len());
        for member in members {
            if looks_like_key(&member.name) {
                self.error(
                    node,
                    "a field name here looks like a key; a key is a value, and is best kept in a \
                     file or a variable",
                );
            } else if member.name.len() > json::MAX_NAME {
                self.error(
                    node,
                    format!("a field name here has more than {} bytes", json::MAX_NAME),
                );
            } else if member.duplicate {
                self.error(&member.value, "this field is given twice; remove one of the two");
            } else {
                unique.push((member.name, member.value));
            }
        }
        Some(unique)
    }

    /// The members of an object with known fields, by field. Unknown fields are reported.
    fn fields<'a, const N: usize>(
        &mut self,
        node: &Node<'a>,
        what: &str,
        known: [&str; N],
    ) -> Option<[Option<Node<'a>>; N]> {
        let mut fields = [const { None }; N];
        let besides = if node.pointer.is_empty() { self.besides } else { &[] };
        for (name, value) in self.members(node, what)? {
            if besides.contains(&name.as_str()) {
                continue;
            }
            match known.iter().position(|field| *field == name) {
                Some(index) => fields[index] = Some(value),
                None => {
                    let hint =
                        did_you_mean(&name, known.into_iter().chain(besides.iter().copied()));
                    let listed = [&known[..], besides].concat().join("`, `");
                    self.error(
                        &value,
                        format!("unknown field `{name}`{hint} (known fields: `{listed}`)"),
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
        let Some([image, network, profile, upstream, simple, credentials, ask, limits, schema]) =
            self.fields(root, "a policy document", DOCUMENT)
        else {
            return;
        };
        document.image = image.and_then(|node| self.string(&node, "`image`"));
        // For editors; nothing reads the schema that it names.
        schema.and_then(|node| self.string(&node, "`$schema`"));
        document.network = network.and_then(|node| self.network(&node));
        document.network_profile = profile.map(|node| self.profiles(&node)).unwrap_or_default();
        document.upstream = upstream.and_then(|node| self.upstream(&node));
        if let Some(node) = simple {
            for (name, node) in self.members(&node, "`credentials`").into_iter().flatten() {
                self.check_name(&name, &node);
                let key = self.key(&node);
                let credential = CredentialDocument { key, ..CredentialDocument::at(node.pointer) };
                document.credentials.push((name, credential));
            }
        }
        if let Some(node) = credentials {
            let simple: HashSet<String> =
                document.credentials.iter().map(|(name, _)| name.clone()).collect();
            for (name, node) in self.members(&node, "`credentials_v2`").into_iter().flatten() {
                self.check_name(&name, &node);
                if simple.contains(&name) {
                    self.error(
                        &node,
                        "this credential is also given in `credentials`; keep one of the two",
                    );
                }
                if let Some(credential) = self.credential(&node) {
                    document.credentials_v2.push((name, credential));
                }
            }
        }
        document.ask = ask.and_then(|node| self.ask(&node));
        if let Some(node) = limits {
            document.limits = self.limits(&node);
        }
    }

    fn network(&mut self, node: &Node<'_>) -> Option<NetworkDocument> {
        let [allow, deny, passthrough] = self.fields(node, "`network`", NETWORK)?;
        let mut network = NetworkDocument::default();
        if let Some(node) = allow {
            network.allow = self.rules(&node, "`allow`");
            self.own_host_needs_port(&mut network.allow);
            if node.elements().is_some_and(|elements| elements.is_empty()) {
                self.warn(
                    &node,
                    "an empty `allow` permits every public host; to refuse all, write \"deny\": \
                     [\"*\"]",
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

    /// Leaves out rules that name the host itself without a port.
    fn own_host_needs_port(&mut self, rules: &mut Vec<Located<NetworkRule>>) {
        rules.retain(|rule| {
            let is_sound = rule.value.port.is_some() || !rule.value.names_own_host();
            if !is_sound {
                let message = format!(
                    "`{}` stands for the loopback services of the host itself: name the port of \
                     the one that is meant",
                    rule.text
                );
                self.errors.push(Problem {
                    line: self.lines.get(&rule.pointer).copied(),
                    ..Problem::new(rule.pointer.clone(), message)
                });
            }
            is_sound
        });
    }

    /// The name of a profile, or a list of names.
    fn profiles(&mut self, node: &Node<'_>) -> Vec<Located<()>> {
        let nodes = if node.kind() == Kind::Array {
            self.elements(node, "`network_profile`").unwrap_or_default()
        } else {
            vec![node.clone()]
        };
        if nodes.is_empty() {
            self.error(node, "`network_profile` is empty; name a profile, or remove the field");
        }
        let mut names: Vec<Located<()>> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some(text) = self.string(&node, "a profile's name") else { continue };
            if names.iter().any(|known| known.text == text) {
                self.error(&node, "this profile is named twice; remove one of the two");
            } else {
                names.push(Located { value: (), text, pointer: node.pointer });
            }
        }
        names
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
                    "`passthrough` names hosts, not addresses: TLS is recognised by the name it \
                     asks for"
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

    fn limits(&mut self, node: &Node<'_>) -> LimitsDocument {
        let Some(fields) = self.fields(node, "`limits`", LIMITS) else {
            return LimitsDocument::default();
        };
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
            response,
            tunnel,
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
            response_timeout_seconds: response,
            tunnel_idle_timeout_seconds: tunnel,
            total_timeout_seconds: total,
            mints_per_second: mints,
            mints_burst: burst,
            requests_per_second_per_host: rate,
            bytes_up_per_host: up,
            audit_backlog: backlog,
        }
    }
}
