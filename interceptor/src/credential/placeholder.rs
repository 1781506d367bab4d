//! The stand-in for a real key inside the sandbox: shaped like the service's keys, worthless, and
//! recognisable.

use std::convert::Infallible;
use std::fmt;

use aws_lc_rs::rand;
use interceptor_policy::PlaceholderShape;

use super::key::RealKey;
use super::seed::Seed;

/// How many characters of the random part identify a placeholder: enough to rule out collisions (at
/// least 96 bits in hexadecimal, 124 with case folded).
pub(crate) const PROBE: usize = 24;

/// The maximum length of a placeholder that matches its key's length, in bytes.
const LONGEST_ALIKE: usize = 512;

/// The fewest characters that identify a placeholder of another process, and its maximum length in
/// bytes: fewer would be found everywhere.
const SHORTEST_PROBE: usize = 16;
const LONGEST: usize = 2 * LONGEST_ALIKE;

/// A placeholder: derived, or generated once per sandbox and credential, and stable while the
/// sandbox lives.
#[derive(Clone, PartialEq, Eq)]
pub struct Placeholder {
    text: String,
    /// The offset of the random part in `text`.
    random: usize,
    probe: usize,
    /// The one for the secret that belongs to it, where the credential is a pair.
    secret: Option<Box<Placeholder>>,
}

/// The system provided no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system provided no random bytes")]
pub struct NoRandomness;

impl Placeholder {
    /// Generates a placeholder of this shape.
    ///
    /// It has the key's length, unless the random part would be too short: clients that check a
    /// key's length accept it, and redaction keeps a response's length. It reveals nothing but that
    /// length.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn draw(shape: &PlaceholderShape, key: &RealKey) -> Result<Placeholder, NoRandomness> {
        Placeholder::of(shape, key, || {
            let mut bytes = [0_u8; 32];
            rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
            Ok(bytes)
        })
    }

    /// The placeholder that a credential always has with this seed.
    pub(super) fn derive(
        shape: &PlaceholderShape,
        key: &RealKey,
        seed: &Seed,
        credential: &str,
    ) -> Placeholder {
        let mut blocks = seed.blocks(credential);
        let made: Result<_, Infallible> = Placeholder::of(shape, key, || Ok(blocks()));
        match made {
            Ok(placeholder) => placeholder,
        }
    }

    fn of<E>(
        shape: &PlaceholderShape,
        key: &RealKey,
        mut blocks: impl FnMut() -> Result<[u8; 32], E>,
    ) -> Result<Placeholder, E> {
        if *shape == PlaceholderShape::aws_access_key_id() {
            return Placeholder::pair(shape, blocks);
        }
        let around = shape.prefix.len() + shape.suffix.len();
        // No client looks at how long a private key is.
        let length = if key.is_pem() { 0 } else { key.length().min(LONGEST_ALIKE) };
        let alike = length.saturating_sub(around);
        let random = if alike >= shape.random.min(PROBE) { alike } else { shape.random };
        Placeholder::fitting(shape, random, &mut blocks)
    }

    /// A placeholder with so many random characters.
    fn fitting<E>(
        shape: &PlaceholderShape,
        random: usize,
        blocks: &mut impl FnMut() -> Result<[u8; 32], E>,
    ) -> Result<Placeholder, E> {
        let length = shape.prefix.len() + random + shape.suffix.len();
        let mut text = String::with_capacity(length);
        text.push_str(&shape.prefix);
        let characters = shape.alphabet.characters();
        // Reject bytes beyond the largest multiple of the alphabet's size, to avoid bias.
        let fair = 256 - 256 % characters.len();
        let mut missing = random;
        while missing > 0 {
            let bytes = blocks()?;
            for byte in bytes.into_iter().map(usize::from).filter(|byte| *byte < fair).take(missing)
            {
                text.push(char::from(characters[byte % characters.len()]));
                missing -= 1;
            }
        }
        let probe = PROBE.min(text.len() - shape.prefix.len());
        text.push_str(&shape.suffix);
        Ok(Placeholder { text, random: shape.prefix.len(), probe, secret: None })
    }

    /// The placeholder pair of an AWS credential, whatever the lengths of its keys.
    fn pair<E>(
        id: &PlaceholderShape,
        mut blocks: impl FnMut() -> Result<[u8; 32], E>,
    ) -> Result<Placeholder, E> {
        let secret = PlaceholderShape::aws_secret_access_key();
        let id = Placeholder::fitting(id, id.random, &mut blocks)?;
        let secret = Placeholder::fitting(&secret, secret.random, &mut blocks)?;
        Ok(Placeholder { secret: Some(Box::new(secret)), ..id })
    }

    /// Restores another process's placeholder from its text and the offset and length of its probe.
    /// `None` if those do not fit the text, or no process would have made it.
    pub(super) fn restore(text: String, random: usize, probe: usize) -> Option<Placeholder> {
        let plain = text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_graphic());
        let usual = (SHORTEST_PROBE..=PROBE).contains(&probe);
        (plain && usual && text.get(random..random.checked_add(probe)?).is_some())
            .then_some(Placeholder { text, random, probe, secret: None })
    }

    /// With the placeholder of the secret that belongs to it.
    pub(super) fn with_secret(self, secret: Placeholder) -> Placeholder {
        Placeholder { secret: Some(Box::new(secret)), ..self }
    }

    /// The placeholder of the secret that belongs to it.
    pub(crate) fn secret(&self) -> Option<&Placeholder> {
        self.secret.as_deref()
    }

    /// Itself, and that of its secret.
    pub(super) fn all(&self) -> impl Iterator<Item = &Placeholder> {
        std::iter::once(self).chain(self.secret())
    }

    /// Itself for the first part of a key, that of its secret for the others.
    pub(super) fn of_part(&self, part: usize) -> &Placeholder {
        self.secret().filter(|_| part > 0).unwrap_or(self)
    }

    /// The offset and length of the probe.
    pub(super) fn probe_place(&self) -> (usize, usize) {
        (self.random, self.probe)
    }

    /// The placeholder as the sandbox sees it. It is not secret.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part that identifies it.
    pub(crate) fn probe(&self) -> &str {
        &self.text[self.random..self.random + self.probe]
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Placeholder").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use zeroize::Zeroizing;

    use super::*;
    use interceptor_policy::Alphabet;

    fn key(length: usize) -> RealKey {
        RealKey::parse(Zeroizing::new(vec![b'k'; length])).expect("a key")
    }

    #[test]
    fn c12_placeholders_are_shaped_as_asked_and_never_alike() {
        let shape = PlaceholderShape {
            prefix: "sk-proj-proxy-managed-".into(),
            random: 32,
            alphabet: Alphabet::LowerHex,
            suffix: "-x".into(),
        };
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let drawn = Placeholder::draw(&shape, &key(10)).expect("randomness");
            let text = drawn.as_str();
            let random = text
                .strip_prefix(&shape.prefix)
                .and_then(|text| text.strip_suffix("-x"))
                .expect("the shape");
            assert!(
                random.len() == 32
                    && random.bytes().all(|byte| shape.alphabet.characters().contains(&byte))
            );
            assert_eq!(drawn.probe(), &random[..PROBE]);
            assert!(seen.insert(drawn.probe().to_owned()), "drawn twice");
        }
    }

    #[test]
    fn a_derived_placeholder_stays_when_the_key_rotates() {
        let shape = PlaceholderShape::default();
        let seed = Seed::new(&[7; 32], 1000, b"file");
        let derive = |length, name| Placeholder::derive(&shape, &key(length), &seed, name);
        let one = derive(164, "own");
        assert_eq!(one, derive(164, "own"));
        assert_eq!(one.as_str().len(), 164);
        assert_ne!(one.probe(), derive(164, "other").probe());
        assert_eq!(one.probe(), derive(80, "own").probe());
    }

    #[test]
    fn a_placeholder_is_as_long_as_its_key_unless_that_is_too_short_to_be_random() {
        let shape = PlaceholderShape::default();
        let least = shape.prefix.len() + PROBE + shape.suffix.len();
        let as_shaped = shape.prefix.len() + shape.random + shape.suffix.len();
        for (key_length, length) in [
            (4, as_shaped),
            (least - 1, as_shaped),
            (least, least),
            (as_shaped - 1, as_shaped - 1),
            (as_shaped + 1, as_shaped + 1),
            (164, 164),
            (LONGEST_ALIKE, LONGEST_ALIKE),
            (LONGEST_ALIKE + 1, LONGEST_ALIKE),
            (8192, LONGEST_ALIKE),
        ] {
            let drawn = Placeholder::draw(&shape, &key(key_length)).expect("randomness");
            assert_eq!(drawn.as_str().len(), length, "for {key_length}");
            assert_eq!(drawn.probe().len(), PROBE);
        }
    }

    #[test]
    fn p8_a_placeholder_that_nobody_would_make_is_not_restored() {
        let restore = |text: &str, random, probe| {
            Placeholder::restore(text.to_owned(), random, probe).is_some()
        };
        for length in [4, LONGEST_ALIKE, 8192] {
            let drawn = Placeholder::draw(&PlaceholderShape::default(), &key(length)).unwrap();
            let (random, probe) = drawn.probe_place();
            assert!(restore(drawn.as_str(), random, probe), "{length}");
        }
        let text = "k".repeat(LONGEST);
        assert!(restore(&text, 0, PROBE));
        assert!(!restore(&format!("{text}k"), 0, PROBE), "too long");
        for (random, probe) in [(0, 0), (0, 1), (0, 15), (0, PROBE + 1), (0, LONGEST)] {
            assert!(!restore(&text, random, probe), "{probe}");
        }
        assert!(!restore(&text, LONGEST - 1, PROBE) && !restore(&text, usize::MAX, PROBE));
    }
}
