//! Reads `upstream`: the proxy, its credential, what goes without it, further roots.

use std::path::PathBuf;

use super::super::credential::{KeySource, LiteralKey};
use super::super::document::{Located, UpstreamDocument};
use super::super::json::Node;
use super::super::way_out::Proxy;
use super::{Reader, UPSTREAM};

impl Reader {
    pub(super) fn upstream(&mut self, node: &Node<'_>) -> Option<UpstreamDocument> {
        let [proxy, auth, resolves, no_proxy, ca] = self.fields(node, "`upstream`", UPSTREAM)?;
        let mut upstream = UpstreamDocument::default();
        if let Some(node) = proxy
            && let Some(text) = self.string(&node, "`proxy`")
        {
            match Proxy::parse(&text) {
                // The text of a URL with a password must not be kept.
                Ok(value) => {
                    upstream.proxy =
                        Some(Located { text: value.to_string(), value, pointer: node.pointer });
                }
                Err(error) => self.error(&node, error.to_string()),
            }
        }
        if let Some(node) = auth {
            upstream.proxy_auth = self.secret(&node, "`proxy_auth`", Reader::literal_auth);
        }
        if let Some(node) = resolves {
            upstream.proxy_resolves = self.bool(&node, "`proxy_resolves`").unwrap_or_default();
        }
        if let Some(node) = no_proxy {
            upstream.no_proxy = self.rules(&node, "`no_proxy`");
        }
        if let Some(node) = ca {
            for node in self.elements(&node, "`ca`").into_iter().flatten() {
                let Some(text) = self.string(&node, "a file of roots") else { continue };
                if text.is_empty() || text.contains('\0') {
                    self.error(&node, "the path of a file of roots is empty or has a NUL");
                    continue;
                }
                let value = PathBuf::from(&text);
                upstream.ca.push(Located { value, text, pointer: node.pointer });
            }
        }
        Some(upstream)
    }

    fn literal_auth(&mut self, node: &Node<'_>) -> Option<KeySource> {
        let auth = node.string();
        match auth.as_deref().map(String::as_str) {
            None => {
                self.error(node, "`proxy_auth` is not valid Unicode (half of a surrogate pair)")
            }
            Some("") => self.error(node, "`proxy_auth` is empty"),
            Some(auth) if auth.chars().any(char::is_control) => {
                self.error(node, "`proxy_auth` has a control character");
            }
            Some(auth) => return Some(KeySource::Literal(LiteralKey::new(auth.to_owned()))),
        }
        None
    }
}
