//! Signed assertions: JSON Web Tokens (RFC 7519) in the compact form (RFC 7515).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use zeroize::{Zeroize as _, Zeroizing};

/// The least size of an RSA key in bytes (RFC 7518 section 3.3).
const LEAST_MODULUS: usize = 256;

/// A key that signs assertions. It is zeroized by the library that holds it.
pub(super) enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
}

impl Signer {
    /// Reads a private key, PEM. `None` if it is none of a kind that is known.
    pub(super) fn parse(pem: &[u8]) -> Option<Signer> {
        let mut der = PrivateKeyDer::from_pem_slice(pem).ok()?;
        let signer = match &der {
            PrivateKeyDer::Pkcs1(key) => rsa(RsaKeyPair::from_der(key.secret_pkcs1_der()).ok()),
            PrivateKeyDer::Sec1(key) => {
                let key = key.secret_sec1_der();
                p256(EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key).ok())
            }
            PrivateKeyDer::Pkcs8(key) => {
                let key = key.secret_pkcs8_der();
                rsa(RsaKeyPair::from_pkcs8(key).ok()).or_else(|| {
                    p256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).ok())
                })
            }
            _ => None,
        };
        der.zeroize();
        signer
    }

    /// Signs claims. `None` if the library cannot.
    pub(super) fn sign(&self, claims: &Value, key_id: Option<&str>) -> Option<Zeroizing<String>> {
        let algorithm = match self {
            Signer::Rsa(_) => "RS256",
            Signer::P256(_) => "ES256",
        };
        let mut header = json!({ "alg": algorithm, "typ": "JWT" });
        if let Some(key_id) = key_id {
            header["kid"] = key_id.into();
        }
        let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encoded(&header), encoded(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).ok()?;
                signature
            }
            Signer::P256(key) => key.sign(&random, signed.as_bytes()).ok()?.as_ref().to_vec(),
        };
        Some(Zeroizing::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

fn rsa(key: Option<RsaKeyPair>) -> Option<Signer> {
    key.filter(|key| key.public_modulus_len() >= LEAST_MODULUS).map(Signer::Rsa)
}

fn p256(key: Option<EcdsaKeyPair>) -> Option<Signer> {
    key.map(Signer::P256)
}

/// A name that no other assertion has, `jti`.
pub(super) fn unique() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}
