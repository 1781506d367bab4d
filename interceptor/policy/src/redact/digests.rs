//! Digests of what an origin sent. The digest of a widened range covers bytes that the client does
//! not get, and reveals them: if all but one byte of the text is known, it gives that byte. The
//! digest of an encoded body does not match the decoded body that is passed on.

use http::{HeaderMap, HeaderName};

/// A header whose name contains one of these is treated as a digest.
const WORDS: [&str; 8] = ["digest", "checksum", "hash", "md5", "crc32", "crc64", "sha1", "sha256"];

/// Headers that ask for a digest of a part, or for a body with digests in it; letters and digits
/// alone.
const ASKS: [&str; 7] = [
    "wantdigest",
    "wantcontentdigest",
    "wantreprdigest",
    "xamzchecksummode",
    "xmsrangegetcontentmd5",
    "xmsrangegetcontentcrc64",
    "xmsstructuredbody",
];

/// Removes all digests.
pub fn remove(fields: &mut HeaderMap) {
    let is_digest = |name: &&HeaderName| WORDS.iter().any(|word| name.as_str().contains(word));
    let digests: Vec<HeaderName> = fields.keys().filter(is_digest).cloned().collect();
    digests.iter().for_each(|name| drop(fields.remove(name)));
}

/// Whether a request header asks for a digest. Takes the letters and digits of its name.
pub fn is_asked_for(folded: &str) -> bool {
    ASKS.contains(&folded)
}
