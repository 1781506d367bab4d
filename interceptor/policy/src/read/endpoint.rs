//! Reads the endpoint rules of a credential.

use super::super::document::{EndpointDocument, Located};
use super::super::inject::is_token;
use super::super::json::Node;
use super::super::pattern::PathPattern;
use super::{ENDPOINT, Reader};

impl Reader {
    pub(super) fn endpoints(&mut self, node: &Node<'_>) -> Vec<EndpointDocument> {
        let Some(elements) = self.elements(node, "`endpoints`") else { return Vec::new() };
        if elements.is_empty() {
            self.warn(
                node,
                "an empty `endpoints` permits nothing; leave the field out to permit any method \
                 and path",
            );
        }
        elements.iter().filter_map(|node| self.endpoint(node)).collect()
    }

    fn endpoint(&mut self, node: &Node<'_>) -> Option<EndpointDocument> {
        let [methods, paths, aws, ask] = self.fields(node, "an endpoint rule", ENDPOINT)?;
        if methods.is_none() {
            self.error(node, "the field `methods` is missing; an empty list means any method");
        }
        if paths.is_none() {
            self.error(node, "the field `paths` is missing; [\"/\"] means any path");
        }
        let methods = methods.and_then(|node| self.methods(&node));
        let paths = paths.and_then(|node| self.paths(&node));
        // A value that is neither true nor false must not permit.
        let ask = ask.is_some_and(|node| self.bool(&node, "`ask`").unwrap_or(true));
        let aws = match aws {
            Some(node) => Some(self.aws_scopes(&node)?),
            None => None,
        };
        let pointer = node.pointer.clone();
        Some(EndpointDocument { methods: methods?, paths: paths?, aws, ask, pointer })
    }

    /// The methods; `None` if one is invalid, because a rule without it would not be the rule that
    /// was meant.
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
                self.error(&node, "`*` is not a method; an empty list means any method");
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
            self.error(
                node,
                "`paths` is empty and the rule would match nothing; [\"/\"] means any path",
            );
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
}
