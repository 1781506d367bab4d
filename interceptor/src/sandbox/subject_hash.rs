//! The name under which OpenSSL looks for a certificate in a directory: a hash of its subject (openssl-rehash(1)).
//!
//! The subject is brought into OpenSSL's canonical form first: every text in UTF-8, ASCII letters in lower case, spaces trimmed and
//! collapsed, the attributes encoded one after the other without the sequence around them (`x509_name_canon` in OpenSSL).

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::der_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// `HASH.0`, or `None` for what is no certificate.
pub(crate) fn file_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let canonical = canonical(parsed.subject())?;
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &canonical);
    let first: [u8; 4] = hash.as_ref().first_chunk().copied()?;
    Some(format!("{:08x}.0", u32::from_le_bytes(first)))
}

fn canonical(name: &X509Name<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for relative in name.iter_rdn() {
        let mut set = Vec::new();
        for attribute in relative.iter() {
            let mut pair = attribute.attr_type().to_der_vec().ok()?;
            pair.extend(canonical_value(attribute.attr_value())?);
            push(&mut set, 0x30, &pair);
        }
        push(&mut out, 0x31, &set);
    }
    Some(out)
}

fn canonical_value(value: &Any<'_>) -> Option<Vec<u8>> {
    let text = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString => {
            std::str::from_utf8(value.data).ok()?.to_owned()
        }
        // Latin and wide forms belong to certificates older than this program's authorities.
        Tag::T61String | Tag::BmpString | Tag::UniversalString => return None,
        _ => return value.to_der_vec().ok(),
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let mut out = Vec::new();
    push(&mut out, 0x0c, words.join(" ").to_ascii_lowercase().as_bytes());
    Some(out)
}

/// Appends a value with its tag and length (X.690, definite form).
fn push(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    match u8::try_from(value.len()) {
        Ok(short @ 0..=127) => out.push(short),
        _ => {
            let length = (value.len() as u32).to_be_bytes();
            let significant: Vec<u8> = length.iter().copied().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | significant.len() as u8);
            out.extend(significant);
        }
    }
    out.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;

    /// The system's directory of roots was named by OpenSSL itself: an oracle of more than a hundred subjects.
    #[test]
    fn the_hash_is_that_of_openssl() {
        let mut agreed = 0;
        for entry in std::fs::read_dir("/etc/ssl/certs").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.len() != 10 || !name.ends_with(".0") {
                continue;
            }
            let certificate = CertificateDer::from_pem_file(entry.path()).unwrap();
            match file_name(&certificate) {
                Some(computed) => {
                    assert_eq!(computed, name);
                    agreed += 1;
                }
                None => assert!(!certificate.is_empty()),
            }
        }
        assert!(agreed > 50, "{agreed}");
    }
}
