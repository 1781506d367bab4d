//! The path of a request: no panic, idempotent, and no dot segment at any depth of decoding.
#![no_main]

use interceptor_policy::CanonicalPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let Ok(canonical) = CanonicalPath::parse(path) else { return };
    assert_eq!(CanonicalPath::parse(canonical.as_str()).as_ref(), Ok(&canonical));
    let mut bytes = canonical.as_str().as_bytes().to_vec();
    for _ in 0..8 {
        for segment in bytes.split(|byte| matches!(byte, b'/' | b'\\')) {
            let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
            assert!(name != b"." && name != b"..", "{path:?}");
        }
        let decoded = decode(&bytes);
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
});

/// One round of percent-decoding, malformed escapes left as they are.
fn decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(byte) = bytes.get(position) {
        match (byte, digit(bytes.get(position + 1)), digit(bytes.get(position + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                position += 3;
            }
            _ => {
                decoded.push(*byte);
                position += 1;
            }
        }
    }
    decoded
}
