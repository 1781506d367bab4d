//! Writes a Java key store of trusted certificates in JKS format
//! (`sun.security.provider.JavaKeyStore`), which every JVM reads without a password.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// The conventional password for stores of public certificates; it protects nothing.
const PASSWORD: &str = "changeit";
/// The salt of the format's keyed digest.
const SALT: &[u8] = b"Mighty Aphrodite";

/// Builds a store that trusts `certificates`.
pub(crate) fn key_store(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    let now_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let mut store = Vec::new();
    store.extend(MAGIC.to_be_bytes());
    store.extend(VERSION.to_be_bytes());
    store.extend((certificates.len() as u32).to_be_bytes());
    for (index, certificate) in certificates.iter().enumerate() {
        store.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        push_text(&mut store, &format!("root-{index}"));
        store.extend(now_ms.to_be_bytes());
        push_text(&mut store, "X.509");
        store.extend((certificate.len() as u32).to_be_bytes());
        store.extend(certificate.as_ref());
    }
    let mut keyed = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    keyed.update(&password);
    keyed.update(SALT);
    keyed.update(&store);
    store.extend(keyed.finish().as_ref());
    store
}

/// Java's `writeUTF`: a two-byte length, then the text (ASCII here, so modified UTF-8 equals
/// ASCII).
fn push_text(store: &mut Vec<u8>, text: &str) {
    store.extend((text.len() as u16).to_be_bytes());
    store.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_jks() {
        let store = key_store(&[CertificateDer::from(vec![0x30, 0x00])]);
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1]);
        assert_eq!(store[12..24], *b"\0\0\0\x02\0\x06root-0");
        assert_eq!(store[32..45], *b"\0\x05X.509\0\0\0\x02\x30\x00");
        assert_eq!(store.len(), 45 + 20);
    }
}
