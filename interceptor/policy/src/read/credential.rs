//! Reads a credential: its key source, hosts, form and variables.

use std::path::PathBuf;

use super::super::credential::{CredentialHost, KeySource, LiteralKey};
use super::super::document::{CredentialDocument, Located};
use super::super::inject::{BasicDocument, InjectDocument};
use super::super::json::{Kind, Node};
use super::super::network_rule::{NetworkRule, Target};
use super::fetched::has_one;
use super::{CREDENTIAL, EXEC, FETCHED, INJECT, Reader};

impl Reader {
    pub(super) fn check_name(&mut self, name: &str, node: &Node<'_>) {
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            self.error(
                node,
                "a credential's name has 1 to 128 characters, none of them a control character",
            );
        }
    }

    pub(super) fn credential(&mut self, node: &Node<'_>) -> Option<CredentialDocument> {
        let [key, client_cert, endpoints, hosts, inject, env, plaintext, cookies] =
            self.fields(node, "a credential of `credentials_v2`", CREDENTIAL)?;
        let mut credential = CredentialDocument::at(node.pointer.clone());
        if client_cert.is_some() {
            self.fits_certificate(key.is_some(), inject.as_ref(), plaintext.as_ref());
        }
        match key {
            Some(key) => credential.key = self.key(&key),
            None if client_cert.is_some() => {}
            None => self.error(
                node,
                "the field `key` is missing: a string, {\"env\": NAME}, {\"file\": PATH}, \
                 {\"exec\": [PROGRAM, …]} or a service such as {\"oauth2\": {…}}; or `client_cert`",
            ),
        }
        credential.client_cert = client_cert.and_then(|node| self.client_cert(&node));
        credential.endpoints = endpoints.map(|node| self.endpoints(&node));
        credential.hosts = hosts.map(|node| self.hosts(&node));
        credential.inject = inject.and_then(|node| self.inject(&node));
        credential.env = env.map(|node| self.env(&node));
        if credential.key.as_ref().is_some_and(KeySource::is_aws) {
            self.check_aws(node, &credential);
        }
        if let Some(node) = plaintext {
            credential.allow_plaintext = self.bool(&node, "`allow_plaintext`").unwrap_or_default();
        }
        if let Some(node) = cookies {
            credential.cookies = self.bool(&node, "`cookies`").unwrap_or_default();
        }
        Some(credential)
    }

    /// A credential's key, or its source.
    pub(super) fn key(&mut self, node: &Node<'_>) -> Option<KeySource> {
        if has_one(node, &["aws"]) {
            return self.aws(node);
        }
        if has_one(node, &FETCHED) {
            return self.fetched(node);
        }
        if has_one(node, &EXEC) {
            return self.program(node);
        }
        self.secret(node, "a key", Reader::literal_key)
    }

    /// A secret, or where it is; `literal` reads one that is written here.
    pub(super) fn secret(
        &mut self,
        node: &Node<'_>,
        what: &str,
        literal: fn(&mut Reader, &Node<'_>) -> Option<KeySource>,
    ) -> Option<KeySource> {
        self.locate(node);
        match node.kind() {
            Kind::String => literal(self, node),
            Kind::Object => {
                let known = self.errors.len();
                let [env, file] = self.fields(node, what, ["env", "file"])?;
                match (env, file) {
                    (Some(env), None) => {
                        let name = self.string(&env, "`env`")?;
                        if is_variable(&name) {
                            return Some(KeySource::Env(name));
                        }
                        self.error(
                            &env,
                            "the name of a variable has letters, digits and `_`, and no digit in \
                             front",
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
                    // A misspelt field has already been reported.
                    _ if self.errors.len() > known => None,
                    _ => {
                        self.error(
                            node,
                            format!(
                                "{what} is a string, {{\"env\": NAME}} or {{\"file\": PATH}}: give \
                                 one of the two fields"
                            ),
                        );
                        None
                    }
                }
            }
            kind => {
                self.error(
                    node,
                    format!(
                        "{what} is a string, {{\"env\": NAME}} or {{\"file\": PATH}}, not {kind}"
                    ),
                );
                None
            }
        }
    }

    pub(super) fn literal_key(&mut self, node: &Node<'_>) -> Option<KeySource> {
        let key = node.string();
        match key.as_deref().map(String::as_str) {
            None => self.error(node, "the key is not valid Unicode (half of a surrogate pair)"),
            Some("") => self.error(node, "the key is empty"),
            Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                self.error(
                    node,
                    "the key has a character that is not allowed in a header: a key is visible \
                     ASCII",
                );
            }
            Some(key) => return Some(KeySource::Literal(LiteralKey::new(key.to_owned()))),
        }
        None
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
                _ if rule.tcp => {
                    "a credential's host is named without `tcp://`: keys travel in HTTP"
                }
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
        let nodes = if node.kind() == Kind::Array {
            node.elements().unwrap_or_default()
        } else {
            vec![node.clone()]
        };
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
}

impl CredentialDocument {
    pub(super) fn at(pointer: String) -> CredentialDocument {
        CredentialDocument {
            key: None,
            client_cert: None,
            endpoints: None,
            hosts: None,
            inject: None,
            env: None,
            allow_plaintext: false,
            cookies: false,
            pointer,
        }
    }
}

/// Whether a text is the name of an environment variable (POSIX.1-2017 section 8.1, lower case
/// also).
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
