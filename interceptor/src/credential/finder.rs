//! Recognises placeholders anywhere in a text: literal, in another case, with URL, string or HTML
//! escapes, or inside base64 (hence Basic credentials) and hexadecimal.
//!
//! One search automaton covers the probes of all of a sandbox's placeholders and their encodings.
//! Texts shorter than a probe are skipped, so an ordinary request costs a few hundred nanoseconds.

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};
use interceptor_policy::redact::scan::pattern::forms;
use interceptor_policy::redact::scan::{LEVELS, Reading, may_escape, unescape};

use super::glance::Glance;
use super::placeholder::{PROBE, Placeholder};

/// Finds placeholders, identified by their position in the original list.
#[derive(Debug)]
pub(super) struct PlaceholderFinder {
    /// What the automaton need not look at.
    glance: Glance,
    automaton: AhoCorasick,
    /// Which placeholder each pattern belongs to.
    owners: Vec<usize>,
}

impl PlaceholderFinder {
    pub(super) fn new<'a>(
        placeholders: impl Iterator<Item = &'a Placeholder>,
    ) -> Result<PlaceholderFinder, aho_corasick::BuildError> {
        let mut patterns = Vec::new();
        let mut owners = Vec::new();
        for (index, placeholder) in placeholders.enumerate() {
            for one in placeholder.all() {
                for form in forms(one.probe().as_bytes(), b"") {
                    patterns.push(form.find);
                    owners.push(index);
                }
            }
        }
        let glance = Glance::new(patterns.iter().map(|pattern| &pattern[..]));
        let automaton = AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostFirst)
            // A DFA of one placeholder takes 200 KiB, and each sandbox has its own.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(patterns.iter().map(|pattern| &pattern[..]))?;
        Ok(PlaceholderFinder { glance, automaton, owners })
    }

    /// Adds every placeholder in a text to `found`, once each.
    pub(super) fn find(&self, text: &[u8], found: &mut Vec<usize>) {
        self.each(text, |owner| {
            if !found.contains(&owner) {
                found.push(owner);
            }
        });
    }

    /// Whether a text holds this placeholder.
    pub(super) fn holds(&self, index: usize, text: &[u8]) -> bool {
        let mut held = false;
        self.each(text, |owner| held |= owner == index);
        held
    }

    /// Calls `found` with every placeholder that is in a text, as often as it is.
    fn each(&self, text: &[u8], mut found: impl FnMut(usize)) {
        let mut decoded;
        let mut text = text;
        for _ in 0..=LEVELS {
            if text.len() < PROBE || self.owners.is_empty() {
                return;
            }
            if self.glance.may_hold(text) {
                for hit in self.automaton.find_iter(text) {
                    found(self.owners[hit.pattern().as_usize()]);
                }
            }
            if !may_escape(text) {
                return;
            }
            decoded = unescape(text, Reading::All).bytes;
            text = &decoded;
        }
    }

    /// Whether a text contains any placeholder.
    #[cfg(test)]
    pub(super) fn any(&self, text: &[u8]) -> bool {
        let mut found = Vec::new();
        self.find(text, &mut found);
        !found.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use zeroize::Zeroizing;

    use super::*;
    use crate::credential::RealKey;
    use interceptor_policy::PlaceholderShape;

    fn drawn() -> Placeholder {
        let key = RealKey::parse(Zeroizing::new(b"sk-real".to_vec())).expect("a key");
        Placeholder::draw(&PlaceholderShape::default(), &key).expect("randomness")
    }

    #[test]
    fn c4_a_placeholder_is_recognised_however_it_is_dressed() {
        let (one, two) = (drawn(), drawn());
        let finder = PlaceholderFinder::new([&one, &two].into_iter()).expect("an automaton");
        let text = two.as_str();
        let encode =
            |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        for dressed in [
            text.to_owned(),
            format!("Bearer {text}"),
            format!("session=1; token={text}; other=2"),
            text.to_ascii_uppercase(),
            text.to_ascii_lowercase(),
            format!("xx{text}yy"),
            format!("{text}{text}"),
            encode(text),
            encode(&encode(text)),
            text.replacen('o', "%6F", 1).replace('-', "%2d"),
            text.bytes().map(|byte| format!("\\u{byte:04x}")).collect(),
            text.replace('-', "\\\\u002D").replace('a', "&#x61;"),
            format!("Basic {}", STANDARD.encode(format!("user:{text}"))),
            format!("Basic {}", STANDARD.encode(format!("{text}:"))),
            URL_SAFE_NO_PAD.encode(format!("{{\"key\":\"{text}\"}}")),
            text.bytes().map(|byte| format!("{byte:02X}")).collect(),
            two.probe().to_owned(),
        ] {
            let mut found = Vec::new();
            finder.find(dressed.as_bytes(), &mut found);
            assert_eq!(found, [1], "{dressed}");
        }
    }

    #[test]
    fn a_placeholder_is_recognised_at_every_place_of_a_text() {
        let (one, two) = (drawn(), drawn());
        let finder = PlaceholderFinder::new([&one, &two].into_iter()).expect("an automaton");
        for encoded in [two.as_str().to_owned(), STANDARD.encode(two.as_str())] {
            for before in 0..100 {
                let text = [&".".repeat(before)[..], &encoded, &".".repeat(before % 7)].concat();
                let mut found = Vec::new();
                finder.find(text.as_bytes(), &mut found);
                assert_eq!(found, [1], "{text}");
            }
        }
    }

    #[test]
    fn c12_what_only_looks_like_a_placeholder_is_none() {
        let (one, other_sandbox) = (drawn(), drawn());
        let finder = PlaceholderFinder::new([&one].into_iter()).expect("an automaton");
        let half = one.as_str().len() - 20;
        for text in [
            other_sandbox.as_str(),
            "proxy-managed-",
            "",
            &one.as_str()[..half],
            "%",
            "%%%%%%%%%%%%%%%%%%%%%%%%%%%%%",
        ] {
            assert!(!finder.any(text.as_bytes()), "{text}");
        }
    }
}
