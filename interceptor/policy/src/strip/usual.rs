//! Names of headers that most requests have. What becomes of them is found once per policy, and
//! then by a comparison or two.

/// In no order.
const USUAL: [&str; 47] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "anthropic-beta",
    "anthropic-version",
    "baggage",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "dnt",
    "host",
    "if-modified-since",
    "if-none-match",
    "openai-beta",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade-insecure-requests",
    "user-agent",
    "x-amz-date",
    "x-amz-target",
    "x-app",
    "x-github-api-version",
    "x-goog-api-client",
    "x-request-id",
    "x-stainless-arch",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
];

/// Longer names are not among them.
const LONGEST: usize = 32;

/// Those of the usual names that a policy passes.
#[derive(Clone, Debug, Default)]
pub(super) struct Usual {
    by_length: [Vec<&'static str>; LONGEST],
}

impl Usual {
    /// Those that `passes` is true for.
    pub(super) fn new(passes: impl Fn(&str) -> bool) -> Usual {
        let mut usual = Usual::default();
        for name in USUAL.into_iter().filter(|name| passes(name)) {
            if let Some(names) = usual.by_length.get_mut(name.len()) {
                names.push(name);
            }
        }
        usual
    }

    /// Whether a name is one of them, as it is written.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.by_length.get(name.len()).is_some_and(|names| names.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_passes_is_held_and_no_other() {
        let usual = Usual::new(|name| name != "x-app");
        for name in USUAL {
            assert_eq!(usual.holds(name), name != "x-app", "{name}");
        }
        let long = "x".repeat(LONGEST);
        for name in ["", "x-apq", "Accept", "accept_encoding", &long] {
            assert!(!usual.holds(name), "{name}");
        }
    }
}
