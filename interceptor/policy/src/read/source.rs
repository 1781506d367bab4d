//! Reads where a key comes from, if that is more than a variable or a file.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::credential::{ExecSource, KeySource, Prints};
use super::super::json::Node;
use super::{EXEC, Reader};

impl Reader {
    /// A program that prints a key.
    pub(super) fn program(&mut self, node: &Node<'_>) -> Option<KeySource> {
        self.program_source(node, Prints::Key).map(KeySource::Exec)
    }

    /// A program that prints keys.
    pub(super) fn program_source(&mut self, node: &Node<'_>, prints: Prints) -> Option<ExecSource> {
        let known = self.errors.len();
        let [exec, timeout, ttl] = self.fields(node, "a key from a program", EXEC)?;
        let Some(exec) = exec else {
            if self.errors.len() == known {
                self.error(node, "the field `exec` is missing: the program and its arguments");
            }
            return None;
        };
        let argv = self.argv(&exec)?;
        let timeout = self.seconds(timeout, &ExecSource::TIMEOUTS, ExecSource::TIMEOUT);
        let ttl = self.seconds(ttl, &ExecSource::TTLS, ExecSource::TTL);
        Some(ExecSource { argv, timeout: timeout?, ttl: ttl?, prints })
    }

    fn argv(&mut self, node: &Node<'_>) -> Option<Vec<String>> {
        let known = self.errors.len();
        let nodes = self.elements(node, "`exec`")?;
        if nodes.is_empty() || nodes.len() > ExecSource::MOST_ARGUMENTS {
            let most = ExecSource::MOST_ARGUMENTS;
            self.error(node, format!("`exec` is a program and its arguments, at most {most}"));
            return None;
        }
        let mut argv = Vec::with_capacity(nodes.len());
        for node in &nodes {
            let Some(text) = self.string(node, "an argument") else { continue };
            if text.contains('\0') || text.len() > ExecSource::LONGEST_ARGUMENT {
                let most = ExecSource::LONGEST_ARGUMENT;
                self.error(node, format!("an argument has at most {most} bytes and no NUL"));
            }
            argv.push(text);
        }
        // The working directory is the sandbox's to write.
        let is_found = argv.first().is_some_and(|program| {
            !program.is_empty() && (program.starts_with('/') || !program.contains('/'))
        });
        if self.errors.len() == known && !is_found {
            self.error(
                &nodes[0],
                "a program is named as in PATH, or by its absolute path; no shell reads the line",
            );
        }
        (self.errors.len() == known).then_some(argv)
    }

    /// A number of seconds within a range; the default if it is left out.
    pub(super) fn seconds(
        &mut self,
        node: Option<Node<'_>>,
        range: &RangeInclusive<u64>,
        default: Duration,
    ) -> Option<Duration> {
        let Some(node) = node else { return Some(default) };
        self.locate(&node);
        let seconds = node.whole_number().filter(|value| range.contains(value));
        if seconds.is_none() {
            let (least, most) = (range.start(), range.end());
            self.error(&node, format!("this is a whole number of seconds, {least} to {most}"));
        }
        seconds.map(Duration::from_secs)
    }
}
