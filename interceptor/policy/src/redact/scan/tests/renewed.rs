//! Streams that are searched for another key from some place on.

use super::*;

/// As usual as [`KEY`], and as long.
const BEFORE: &str = "sk-Ab3~d9e0/f4a1c7+Z8yX66kWv2uT1sR0qP5oN9mL7g3==";

fn of(keys: &[(&str, &str)]) -> Arc<Scanner> {
    Arc::new(Scanner::new(keys.iter().map(|(key, with)| (key.as_bytes(), with.as_bytes()))))
}

/// The output for a text that is searched with `new` from `at` on.
fn renewed(old: &Arc<Scanner>, new: &Arc<Scanner>, text: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut scrub = Scrub::new(Arc::clone(old));
    let mut out = scrub.push(Bytes::copy_from_slice(&text[..at])).to_vec();
    scrub.renew(new).ok()?;
    out.extend_from_slice(&scrub.push(Bytes::copy_from_slice(&text[at..])));
    out.extend_from_slice(&scrub.finish());
    Some(out)
}

#[test]
fn a_spelling_that_was_begun_is_found_wherever_the_key_becomes_known() {
    let old = of(&[(BEFORE, PLACEHOLDER)]);
    let new = of(&[(BEFORE, PLACEHOLDER), (KEY, PLACEHOLDER)]);
    for (name, spelling) in spellings(KEY) {
        let text = around(&spelling);
        let whole = stream(&new, &text, &[]).0;
        assert_ne!(whole, text, "{name}");
        for at in 0..=text.len() {
            let out = renewed(&old, &new, &text, at).unwrap();
            // From behind it, there is nothing to find.
            let is_past = at > text.len() - b"\" and more }\n\n".len();
            assert!(out == whole || is_past && out == text, "{name} from {at}");
        }
    }
}

#[test]
fn a_key_with_other_characters_is_found_whole_or_the_stream_ends() {
    let (old, new) = (scanner(), of(&[(KEY, PLACEHOLDER), ODD]));
    let mut found = 0;
    for text in [format!("an event\n\n{} more ", ODD.0), format!("<p>\"{}\" and more ", ODD.0)] {
        let whole = stream(&new, text.as_bytes(), &[]).0;
        assert_ne!(whole, text.as_bytes());
        let begins = text.find(ODD.0).unwrap();
        for at in 0..begins + ODD.0.len() {
            if let Some(out) = renewed(&old, &new, text.as_bytes(), at) {
                assert_eq!(out, whole, "from {at} of {text}");
                found += 1;
            }
        }
    }
    // Up to the first character that only this key has: `a%41b&amp;c\u003d` waits.
    assert!(found > 20, "{found}");
    for (before, ends) in [
        ("", false),
        ("data: 1\n\n", false),
        ("a word ", false),
        ("a word", false),
        ("{\"a\":1}", true),
        ("say \"", true),
        ("<e>", true),
        ("say \"abc", true),
    ] {
        let mut scrub = Scrub::new(Arc::clone(&old));
        scrub.push(Bytes::copy_from_slice(before.as_bytes()));
        assert_eq!(scrub.renew(&new).is_err(), ends, "{before:?}");
        // Back to fewer characters, nothing is lost.
        let mut scrub = Scrub::new(Arc::clone(&new));
        scrub.push(Bytes::copy_from_slice(before.as_bytes()));
        assert_eq!(scrub.renew(&old), Ok(()), "{before:?}");
    }
    let mut scrub = Scrub::new(old);
    scrub.push(Bytes::from_static(b"{\"a\":1}"));
    scrub.boundary();
    assert_eq!(scrub.renew(&new), Ok(()), "no key spans two messages");
}

#[test]
fn a_longer_key_is_found_unless_part_of_a_run_that_long_has_passed() {
    let longer = KEY.repeat(4);
    let (old, new) = (scanner(), of(&[(KEY, PLACEHOLDER), (&longer, PLACEHOLDER)]));
    assert!(new.most > old.most);
    for (run, ends) in [(0, false), (1000, false), (old.most - 1, false), (old.most, true)] {
        let mut scrub = Scrub::new(Arc::clone(&old));
        scrub.push(Bytes::from_static(b"and "));
        scrub.push(Bytes::from(b"a".repeat(run)));
        assert_eq!(scrub.renew(&new).is_err(), ends, "{run}");
    }
    let text = around(longer.as_bytes());
    let whole = stream(&new, &text, &[]).0;
    for at in 0..text.len() - 14 {
        assert_eq!(renewed(&old, &new, &text, at).unwrap(), whole, "from {at}");
    }
}
