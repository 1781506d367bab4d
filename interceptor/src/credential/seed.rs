//! What stable placeholders are derived from: a secret of the user's, the user and the policy. The
//! same credential then has the same placeholder in every run, and no other credential has it.

use aws_lc_rs::hmac;

/// The length of a user's secret, in bytes.
pub(crate) const SECRET: usize = 32;

/// The source of the placeholders of one user's runs with one policy.
pub(crate) struct Seed(hmac::Key);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

impl Seed {
    /// From the secret, the user's number, and what tells the policy from others.
    pub(crate) fn new(secret: &[u8; SECRET], user: u32, policy: &[u8]) -> Seed {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let own = mac(&secret, &[b"placeholders of a policy\0", &user.to_le_bytes(), policy]);
        Seed(hmac::Key::new(hmac::HMAC_SHA256, own.as_ref()))
    }

    /// The bytes of a credential's placeholder, one block after the other.
    pub(super) fn blocks(&self, credential: &str) -> impl FnMut() -> [u8; 32] {
        let credential = mac(&self.0, &[b"placeholder of a credential\0", credential.as_bytes()]);
        let key = hmac::Key::new(hmac::HMAC_SHA256, credential.as_ref());
        let mut number = 0_u64;
        move || {
            number += 1;
            let mut block = [0; 32];
            block.copy_from_slice(mac(&key, &[&number.to_le_bytes()]).as_ref());
            block
        }
    }
}

fn mac(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_makes_another_placeholder_and_the_same_parts_the_same() {
        let block = |secret: u8, user: u32, policy: &str, credential: &str| {
            Seed::new(&[secret; SECRET], user, policy.as_bytes()).blocks(credential)()
        };
        let one = block(1, 1000, "file\0/p.json", "openai");
        assert_eq!(one, block(1, 1000, "file\0/p.json", "openai"));
        for other in [
            block(2, 1000, "file\0/p.json", "openai"),
            block(1, 1001, "file\0/p.json", "openai"),
            block(1, 1000, "file\0/q.json", "openai"),
            block(1, 1000, "text\0/p.json", "openai"),
            block(1, 1000, "file\0/p.json", "anthropic"),
        ] {
            assert_ne!(one, other);
        }
        let seed = Seed::new(&[1; SECRET], 1, b"");
        let mut blocks = seed.blocks("a");
        assert_ne!(blocks(), blocks());
        assert_eq!(format!("{seed:?}"), "Seed(…)");
    }
}
