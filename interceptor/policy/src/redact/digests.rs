//! Digests of what an origin sent. Of a part that was asked for with what borders it, one tells of
//! bytes that the client does not get: with a text known but for its last byte, that byte. Of
//! encoded bytes, it is not one of what is passed on.

use http::{HeaderMap, HeaderName};

/// A name with one of these in it is taken for that of a digest.
const WORDS: [&str; 8] = ["digest", "checksum", "hash", "md5", "crc32", "crc64", "sha1", "sha256"];

/// What asks for a digest of a part, or for a body with digests in it; letters and digits alone.
const ASKS: [&str; 7] = [
    "wantdigest",
    "wantcontentdigest",
    "wantreprdigest",
    "xamzchecksummode",
    "xmsrangegetcontentmd5",
    "xmsrangegetcontentcrc64",
    "xmsstructuredbody",
];

/// Removes all of them.
pub fn remove(fields: &mut HeaderMap) {
    let is_digest = |name: &&HeaderName| WORDS.iter().any(|word| name.as_str().contains(word));
    let digests: Vec<HeaderName> = fields.keys().filter(is_digest).cloned().collect();
    digests.iter().for_each(|name| drop(fields.remove(name)));
}

/// Whether a field of a request, by its name's letters and digits alone, asks for one.
pub fn is_asked_for(folded: &str) -> bool {
    ASKS.contains(&folded)
}
