//! Parses limits such as `512`, `2g` or `none`.

/// A limit; `None` means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound(pub(super) Option<u64>);

/// The sandbox itself needs a few processes; with fewer, commands would fail obscurely.
const FEWEST_PROCESSES: u64 = 8;
/// Likewise for memory.
const LEAST_MEMORY: u64 = 16 << 20;

/// A number of processes.
pub(super) fn processes(text: &str) -> Result<Bound, String> {
    bound(text, |text| text.parse().ok(), FEWEST_PROCESSES, "a whole number")
}

/// A number of bytes.
pub(super) fn memory(text: &str) -> Result<Bound, String> {
    let bytes = |text: &str| {
        let text = text.to_ascii_lowercase();
        let text = text.strip_suffix('b').unwrap_or(&text);
        let (digits, shift) = match text.as_bytes().last()? {
            b'k' => (&text[..text.len() - 1], 10),
            b'm' => (&text[..text.len() - 1], 20),
            b'g' => (&text[..text.len() - 1], 30),
            b't' => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        digits.parse::<u64>().ok()?.checked_mul(1 << shift)
    };
    bound(text, bytes, LEAST_MEMORY, "a number of bytes, as `2g` or `512m`")
}

fn bound(
    text: &str,
    parse: impl Fn(&str) -> Option<u64>,
    least: u64,
    what: &str,
) -> Result<Bound, String> {
    match (text, parse(text)) {
        ("none", _) => Ok(Bound(None)),
        (_, Some(number)) if number >= least => Ok(Bound(Some(number))),
        (_, Some(_)) => Err(format!("at least {least}, or `none`")),
        (_, None) => Err(format!("{what}, or `none`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_people_write_them_and_nonsense_is_refused() {
        assert_eq!(processes("512"), Ok(Bound(Some(512))));
        assert_eq!(processes("none"), Ok(Bound(None)));
        for (text, bytes) in [
            ("16777216", 16 << 20),
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("2g", 2 << 30),
            ("2GB", 2 << 30),
            ("20000k", 20000 << 10),
            ("1t", 1 << 40),
        ] {
            assert_eq!(memory(text), Ok(Bound(Some(bytes))), "{text}");
        }
        for text in ["", "g", "-1", "1.5g", "2x", "99999999999t", "ü", "0", "1"] {
            assert!(memory(text).is_err(), "{text}");
        }
        for text in ["", "-1", "0", "1", "many", "1k"] {
            assert!(processes(text).is_err(), "{text}");
        }
    }
}
