//! Properties of redaction for any answer, however it is cut; and that the search finds what its
//! plain definition does.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use interceptor_policy::redact::scan::{Scanner, Scrub};

const KEY: &str = "sk-Rx8~c1f0/b6d2e+A9zQ77==";
const PLACEHOLDER: &str = "sk-proxy-managed-0123456ab";
/// Another key of the same length and the same alphabet.
const OTHER: &str = "==77Qz9A+e2d6b/0f1c~8xR-ks";

/// The longest text that is compared with the definition.
const MOST: usize = 1024;

static SCANNERS: LazyLock<[Arc<Scanner>; 2]> = LazyLock::new(|| {
    [KEY, OTHER].map(|key| {
        let pair = (key.as_bytes(), PLACEHOLDER.as_bytes());
        Arc::new(Scanner::new([pair].into_iter()))
    })
});

/// Spellings of the key; inputs name them by a byte.
static SPELLINGS: LazyLock<[String; 16]> = LazyLock::new(|| {
    let each = |escape: &dyn Fn(u8) -> String| KEY.bytes().map(escape).collect::<String>();
    let symbols = |escape: &dyn Fn(u8) -> String| {
        each(&|byte| match byte {
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => escape(byte),
        })
    };
    let encoded = STANDARD.encode(format!("Authorization: Bearer {KEY}"));
    [
        KEY.to_owned(),
        encoded.clone(),
        encoded.replace('/', "\\/"),
        format!("{}\r\n{}", &encoded[..40], &encoded[40..]),
        format!("{}\\n{}", &encoded[..50], &encoded[50..]),
        each(&|byte| format!("{byte:02x}")),
        each(&|byte| format!("{byte:02X}:")),
        each(&|byte| format!("0x{byte:02x}, ")),
        each(&|byte| format!("%{byte:02x}")),
        symbols(&|byte| format!("%25{byte:02X}")),
        symbols(&|byte| format!("\\u{byte:04x}")),
        symbols(&|byte| format!("\\\\u{{{byte:x}}}")),
        symbols(&|byte| format!("&#{byte};")),
        symbols(&|byte| format!("&amp;#x{byte:x};")),
        each(&|byte| format!("{}\0", char::from(byte))),
        symbols(&|byte| format!("\\{}", char::from(byte))),
    ]
});

/// Checks one answer: `data`, in which bytes from 0xf0 on stand for spellings, bytes from 0xe0 on
/// for the beginning of one, and 0xdf for a cut.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let mut text = Vec::new();
    let mut ends = Vec::new();
    let mut rest = data.iter();
    while let Some(byte) = rest.next() {
        let spelling = SPELLINGS[usize::from(byte & 15)].as_bytes();
        match byte {
            0xdf => ends.push(text.len()),
            0xe0..=0xef => {
                let length = rest.next().map_or(0, |length| usize::from(*length));
                text.extend_from_slice(&spelling[..length.min(spelling.len())]);
            }
            0xf0..=0xff => text.extend_from_slice(spelling),
            other => text.push(*other),
        }
    }
    ends.push(text.len());
    let [scanner, other] = &*SCANNERS;
    let whole = scanner.replace(&text);
    let (pieces, matches) = stream(scanner, &text, &ends);
    assert_eq!(pieces.concat(), whole.clone().unwrap_or_else(|| text.clone()));
    assert_eq!(whole.is_some(), matches > 0);
    assert_eq!(pieces.concat().len(), text.len());
    assert!(!pieces.concat().windows(KEY.len()).any(|part| part == KEY.as_bytes()));
    // The definition takes every byte for the beginning of a key.
    if text.len() < MOST {
        assert_eq!(scanner.found(&text), scanner.defined(&text));
    }
    let (others, found) = stream(other, &text, &ends);
    if matches == 0 && found == 0 {
        let sizes = |pieces: &[Bytes]| pieces.iter().map(Bytes::len).collect::<Vec<_>>();
        assert_eq!(sizes(&pieces), sizes(&others));
    }
}

fn stream(scanner: &Arc<Scanner>, text: &[u8], ends: &[usize]) -> (Vec<Bytes>, u64) {
    let mut scrub = Scrub::new(Arc::clone(scanner));
    let mut from = 0;
    let mut pieces: Vec<Bytes> = ends
        .iter()
        .map(|end| {
            scrub.push(Bytes::copy_from_slice(&text[std::mem::replace(&mut from, *end)..*end]))
        })
        .collect();
    pieces.push(scrub.finish());
    (pieces, scrub.matches())
}
