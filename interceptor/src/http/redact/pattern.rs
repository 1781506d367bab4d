//! The forms in which an origin may give a key back: the key itself and what common encoders make of it.
//!
//! Covered: the literal key; base64 (RFC 4648, both alphabets) at each of its three alignments, so `user:key` of Basic is
//! found too; hexadecimal; percent-encoding (RFC 3986) as strict and as lenient encoders write it, in both letter cases;
//! JSON string escapes (RFC 8259) as the usual serialisers write them; HTML character references. Not covered, and not
//! coverable: encryption, compression inside a body that is not declared, other character sets, rot13.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// One byte string to find and what to put in its place.
pub(crate) struct Pattern {
    /// What to find: a form of a real key.
    pub(crate) find: Zeroizing<Vec<u8>>,
    /// What replaces it: the same form of the placeholder.
    pub(crate) replacement: Vec<u8>,
    /// How many leading bytes the two share. Those are no secret: the placeholder shows them.
    pub(crate) shared: usize,
}

/// Every form of `key`, each with the same form of `placeholder`; the literal one first, no form twice.
pub(crate) fn forms(key: &[u8], placeholder: &[u8]) -> Vec<Pattern> {
    let mut found: Vec<Pattern> = Vec::new();
    let mut add = |find: Zeroizing<Vec<u8>>, replacement: Zeroizing<Vec<u8>>| {
        if !find.is_empty() && found.iter().all(|known| *known.find != *find) {
            let shared = find.iter().zip(replacement.iter()).take_while(|(a, b)| a == b).count();
            found.push(Pattern { find, replacement: replacement.to_vec(), shared });
        }
    };
    let mut encode = |encoder: &dyn Fn(&[u8]) -> Zeroizing<Vec<u8>>| add(encoder(key), encoder(placeholder));
    encode(&|text| Zeroizing::new(text.to_vec()));
    for encoder in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        for alignment in 0..3 {
            encode(&|text| base64_inside(&encoder, alignment, text));
        }
    }
    for digits in [b"0123456789abcdef", b"0123456789ABCDEF"] {
        encode(&|text| hexadecimal(text, digits));
        // encodeURIComponent leaves `!'()*` alone, encodeURI and many hand-written encoders the reserved ones too.
        for kept in [&b"-._~"[..], b"-._~!'()*", b"-._~!'()*;,/?:@&=+$#", b"-._~!$&'()*+,;=:@", b"-._~/"] {
            encode(&|text| percent_encoded(text, kept, digits));
        }
        for escaped in [&b""[..], b"<>&", b"<>&'", b"<>&'+`\""] {
            encode(&|text| json_escaped(text, escaped, digits));
        }
    }
    encode(&|text| replaced(text, &[(b'"', "\\\""), (b'\\', "\\\\"), (b'/', "\\/")]));
    for quote in ["&#39;", "&#x27;", "&apos;", "'"] {
        for double in ["&quot;", "&#34;"] {
            encode(&|text| {
                replaced(
                    text,
                    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'"', double), (b'\'', quote)],
                )
            });
        }
    }
    found
}

/// The characters of a base64 text that are the same whatever stands before and behind `text` in what was encoded, when
/// `alignment` bytes (modulo 3) stand before it.
fn base64_inside(
    encoder: &base64::engine::GeneralPurpose,
    alignment: usize,
    text: &[u8],
) -> Zeroizing<Vec<u8>> {
    let padded = Zeroizing::new([&[0; 2][..alignment], text].concat());
    let encoded = Zeroizing::new(encoder.encode(&*padded));
    let whole: Range<usize> = (alignment * 8).div_ceil(6)..padded.len() * 8 / 6;
    Zeroizing::new(encoded.as_bytes().get(whole).unwrap_or_default().to_vec())
}

fn hexadecimal(text: &[u8], digits: &[u8; 16]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2));
    text.iter().for_each(|byte| push_hex(&mut out, *byte, digits));
    out
}

fn percent_encoded(text: &[u8], kept: &[u8], digits: &[u8; 16]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 3));
    for byte in text {
        if byte.is_ascii_alphanumeric() || kept.contains(byte) {
            out.push(*byte);
        } else {
            out.push(b'%');
            push_hex(&mut out, *byte, digits);
        }
    }
    out
}

/// A JSON string's inside: quote and backslash escaped, and those of `escaped` as `\u00xx`, quote among them if it is there.
fn json_escaped(text: &[u8], escaped: &[u8], digits: &[u8; 16]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 6));
    for byte in text {
        if escaped.contains(byte) {
            out.extend_from_slice(b"\\u00");
            push_hex(&mut out, *byte, digits);
        } else {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
    }
    out
}

fn replaced(text: &[u8], table: &[(u8, &str)]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 6));
    for byte in text {
        match table.iter().find(|(from, _)| from == byte) {
            Some((_, to)) => out.extend_from_slice(to.as_bytes()),
            None => out.push(*byte),
        }
    }
    out
}

fn push_hex(out: &mut Vec<u8>, byte: u8, digits: &[u8; 16]) {
    out.push(digits[usize::from(byte >> 4)]);
    out.push(digits[usize::from(byte & 15)]);
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn finds(key: &str) -> Vec<String> {
        forms(key.as_bytes(), b"sk-proxy-managed-0000")
            .iter()
            .map(|pattern| String::from_utf8(pattern.find.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn base64_is_found_at_every_alignment_and_with_anything_around_it() {
        for key in ["sk-real", "sk-reall", "sk-really", "a+b/c?d~e>f"] {
            let found = finds(key);
            for before in ["", "u", "us", "use", "user:"] {
                for behind in ["", "x", "xy", "xyz"] {
                    let text = STANDARD.encode(format!("{before}{key}{behind}"));
                    assert!(found.iter().any(|find| text.contains(find)), "{before}{key}{behind} as {text}");
                }
            }
        }
    }

    #[test]
    fn what_common_encoders_make_of_a_key_is_among_the_forms() {
        let found = finds(r#"a+b/c=d"e\f<g>'h&i"#);
        for form in [
            r#"a+b/c=d"e\f<g>'h&i"#,
            "a%2Bb%2Fc%3Dd%22e%5Cf%3Cg%3E%27h%26i",
            "a%2bb%2fc%3dd%22e%5cf%3cg%3e%27h%26i",
            "a%2Bb%2Fc%3Dd%22e%5Cf%3Cg%3E'h%26i",
            r#"a+b/c=d\"e\\f<g>'h&i"#,
            r#"a+b/c=d\"e\\f\u003cg\u003e'h\u0026i"#,
            r#"a\u002Bb/c=d\u0022e\\f\u003Cg\u003E\u0027h\u0026i"#,
            r#"a+b\/c=d\"e\\f<g>'h&i"#,
            "a+b/c=d&quot;e\\f&lt;g&gt;&#39;h&amp;i",
            "612b622f633d6422655c663c673e27682669",
        ] {
            assert!(found.iter().any(|find| find == form), "{form}");
        }
    }

    #[test]
    fn an_ordinary_key_has_few_forms() {
        assert!(finds("sk-abcdef0123456789").len() <= 6, "{:?}", finds("sk-abcdef0123456789"));
    }

    #[test]
    fn no_form_holds_a_line_end_so_a_finished_event_is_never_held_back() {
        for find in finds(r#"a+b/c=d"e\f<g>'h&i"#) {
            assert!(!find.contains(['\n', '\r', ' ', '\0']), "{find}");
        }
    }
}
