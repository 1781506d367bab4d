//! Formats numbers with nouns.

/// `1 sandbox`, `2 sandboxes`.
pub(crate) fn count(number: impl Into<u64>, noun: &str) -> String {
    match number.into() {
        1 => format!("1 {noun}"),
        number => format!("{number} {}", plural(noun)),
    }
}

/// The plural of a regular noun; of several words, of the last.
pub(crate) fn plural(noun: &str) -> String {
    let consonant_y =
        noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u']));
    if let Some(stem) = consonant_y {
        return format!("{stem}ies");
    }
    let hisses = ["s", "x", "z", "ch", "sh"].iter().any(|end| noun.ends_with(end));
    format!("{noun}{}", if hisses { "es" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_else_plural() {
        let table = [
            (0_u64, "sandbox", "0 sandboxes"),
            (1, "sandbox", "1 sandbox"),
            (2, "sandbox", "2 sandboxes"),
            (2, "process", "2 processes"),
            (3, "certificate authority", "3 certificate authorities"),
            (2, "key", "2 keys"),
            (1, "log line", "1 log line"),
            (7, "record", "7 records"),
        ];
        for (number, noun, text) in table {
            assert_eq!(count(number, noun), text);
        }
    }
}
