//! Reads `ask`: what is asked of a person instead of being refused.

use super::super::document::AskDocument;
use super::super::json::Node;
use super::{ASK, Reader};

impl Reader {
    pub(super) fn ask(&mut self, node: &Node<'_>) -> Option<AskDocument> {
        let [hosts, timeout] = self.fields(node, "`ask`", ASK)?;
        let hosts = hosts.map(|node| {
            let rules = self.rules(&node, "`hosts`");
            if node.elements().is_some_and(|elements| elements.is_empty()) {
                self.error(
                    &node,
                    "`hosts` is empty and nothing would be asked; leave it out to \
                                   ask about any host",
                );
            }
            for rule in rules.iter().filter(|rule| rule.value.tcp) {
                let at = rule.pointer.clone();
                self.errors.push(super::Problem {
                    line: self.lines.get(&at).copied(),
                    ..super::Problem::new(
                        at,
                        "`tcp://` means nothing here: only HTTP requests are \
                                               asked about",
                    )
                });
            }
            rules
        });
        let timeout_seconds = timeout.and_then(|node| {
            let value = node.whole_number().filter(|value| *value > 0);
            if value.is_none() {
                self.error(&node, "`timeout_seconds` is a whole number greater than zero");
            }
            value
        });
        Some(AskDocument { hosts, timeout_seconds })
    }
}
