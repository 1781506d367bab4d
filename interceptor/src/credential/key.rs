//! A real key in memory: validated once, zeroized on drop, never displayed.

use std::borrow::Cow;
use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interceptor_policy::ProxyUrlError;
use smallvec::SmallVec;
use zeroize::Zeroizing;

use super::location::KeyLocation;
use super::pem::{self, CertificateProblem};
use super::sources::SourceProblem;
use crate::sigv4::Pair;

/// The minimum length of a key in bytes. A shorter one occurs in ordinary text, and redacting it
/// would corrupt every response; no service issues such keys.
pub const SHORTEST: usize = 4;

/// The maximum length of a key in bytes: what origins accept in one header.
pub const LONGEST: usize = 8 * 1024;

/// A key: visible ASCII, [`SHORTEST`] to [`LONGEST`] bytes, so that it fits a header value or query
/// unescaped. The credential of an upstream proxy is one too, by rules of its own, and so are a
/// client certificate and its private key, in PEM.
pub struct RealKey(Zeroizing<String>);

/// What a secret is, and so what it may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The key of a credential.
    Key,
    /// The credential of an upstream proxy: `user:password` or `Bearer TOKEN`.
    ProxyAuth,
    /// The certificates that a client presents; no secret, but kept like one.
    Certificate,
    /// The private key of such a certificate.
    PrivateKey,
    /// The keys of an AWS account: id, secret and, if there is one, session token, a line each.
    Aws,
}

/// What precedes the token in a proxy's credential.
const BEARER: &str = "Bearer ";
/// The shortest password that is searched for without its user: shorter ones are ordinary words.
const SHORTEST_PASSWORD: usize = 8;

/// A problem with a key or its source. Never shows any part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// The variable is not set.
    #[error("is not set")]
    Unset,
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It contains no key.
    #[error("is empty")]
    Empty,
    /// It is too short.
    #[error(
        "is shorter than {SHORTEST} characters; it would match ordinary text in every response"
    )]
    TooShort,
    /// It is too long.
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
    /// It has a character that is invalid in a header, or that belongs to a format rather than a
    /// key.
    #[error(
        "has a space, a line end, a control character or a non-ASCII character as character {0}; \
         a key is visible ASCII alone (a scheme such as `Bearer` belongs to `inject`)"
    )]
    Character(usize),
    /// It is no id of an access key.
    #[error("is not the id of an access key, which has letters and digits")]
    NotAwsId,
    /// A part of it has a problem of its own.
    #[error("`{part}` {place}, {problem}")]
    Part {
        /// The field.
        part: &'static str,
        /// Where it is.
        place: Box<KeyLocation>,
        /// What is wrong.
        problem: Box<KeyProblem>,
    },
    /// It is no credential of a proxy.
    #[error("is neither `user:password` nor `Bearer TOKEN`")]
    NotProxyAuth,
    /// It is not the URL of a proxy.
    #[error("does not name a proxy: {0}")]
    Proxy(ProxyUrlError),
    /// It is not a file of roots.
    #[error("has no certificate in it (PEM)")]
    NoCertificate,
    /// What is wrong with a client certificate.
    #[error(transparent)]
    Certificate(CertificateProblem),
    /// It is not of the credential's key, but of its client certificate.
    #[error(transparent)]
    OfCertificate(Box<KeyProblem>),
    /// It is of the private key of its client certificate.
    #[error(transparent)]
    OfCertificateKey(Box<KeyProblem>),
    /// Its source has none.
    #[error(transparent)]
    Source(SourceProblem),
    /// Its program was not in the policy before.
    #[error(
        "is not run, because it is new here: a policy that is read again starts no program that \
         it did not have; start the sandbox again, or give the policy through the API"
    )]
    NewProgram,
    /// Its service was not in the policy before.
    #[error(
        "is not asked, because it is new here: a policy that is read again asks no service that \
         it did not have; start the sandbox again, or give the policy through the API"
    )]
    NewService,
    /// Its placeholder contains it.
    #[error("is part of its own placeholder, so the two cannot be distinguished")]
    InPlaceholder,
}

impl From<CertificateProblem> for KeyProblem {
    fn from(problem: CertificateProblem) -> KeyProblem {
        KeyProblem::Certificate(problem)
    }
}

impl KeyProblem {
    /// The same, of what a credential has beside its key.
    pub(super) fn of(self, content: Content) -> KeyProblem {
        match content {
            Content::Certificate => KeyProblem::OfCertificate(Box::new(self)),
            Content::PrivateKey => KeyProblem::OfCertificateKey(Box::new(self)),
            Content::Key | Content::ProxyAuth | Content::Aws => self,
        }
    }

    /// The problem itself, of whatever it is.
    pub(crate) fn itself(&self) -> &KeyProblem {
        match self {
            KeyProblem::OfCertificate(problem) | KeyProblem::OfCertificateKey(problem) => problem,
            other => other,
        }
    }
}

impl Content {
    /// The most bytes of a file with it: the longest, and a line end.
    pub(super) fn longest(self) -> usize {
        match self {
            Content::Key | Content::ProxyAuth | Content::Aws => LONGEST + 2,
            Content::Certificate | Content::PrivateKey => pem::LONGEST,
        }
    }

    /// What is wrong with a longer file.
    pub(super) fn too_long(self) -> KeyProblem {
        match self {
            Content::Key | Content::ProxyAuth | Content::Aws => KeyProblem::TooLong,
            Content::Certificate | Content::PrivateKey => CertificateProblem::TooLong.into(),
        }
    }
}

impl RealKey {
    /// Parses the content of a document, variable or file; drops one trailing line end.
    ///
    /// # Errors
    /// If it is not a valid key; see [`KeyProblem`].
    pub fn parse(text: Zeroizing<Vec<u8>>) -> Result<RealKey, KeyProblem> {
        let bytes = text.strip_suffix(b"\n").unwrap_or(&text);
        let bytes = if bytes.len() < text.len() {
            bytes.strip_suffix(b"\r").unwrap_or(bytes)
        } else {
            bytes
        };
        if let Some(at) = bytes.iter().position(|byte| !byte.is_ascii_graphic()) {
            return Err(KeyProblem::Character(at + 1));
        }
        match bytes.len() {
            0 => return Err(KeyProblem::Empty),
            1..SHORTEST => return Err(KeyProblem::TooShort),
            SHORTEST..=LONGEST => {}
            _ => return Err(KeyProblem::TooLong),
        }
        let key: String = bytes.iter().copied().map(char::from).collect();
        Ok(RealKey(Zeroizing::new(key)))
    }

    /// Parses a secret of that kind.
    ///
    /// # Errors
    /// If it is not valid; see [`KeyProblem`].
    pub(super) fn parse_as(
        content: Content,
        text: Zeroizing<Vec<u8>>,
    ) -> Result<RealKey, KeyProblem> {
        match content {
            Content::Key => RealKey::parse(text),
            Content::ProxyAuth => RealKey::parse_proxy_auth(&text),
            Content::Certificate => Ok(RealKey(pem::certificates(&text)?)),
            Content::PrivateKey => Ok(RealKey(pem::private_key(&text)?)),
            Content::Aws => {
                let lines = text.split(|byte| *byte == b'\n');
                let parse = |line: &[u8]| RealKey::parse(Zeroizing::new(line.to_vec()));
                let parts: Vec<RealKey> = lines.map(parse).collect::<Result<_, _>>()?;
                RealKey::of_aws(&parts.iter().collect::<Vec<_>>())
            }
        }
    }

    /// The keys of an AWS account: id, secret and, if there is one, session token.
    ///
    /// # Errors
    /// If the id is none.
    pub(super) fn of_aws(parts: &[&RealKey]) -> Result<RealKey, KeyProblem> {
        let [id, _, ..] = parts else { return Err(KeyProblem::Empty) };
        // It stands in the scope of a signature, between slashes.
        let is_plain = id.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_plain || parts.len() > 3 {
            return Err(KeyProblem::NotAwsId);
        }
        let length = parts.iter().map(|part| part.0.len() + 1).sum();
        let mut text = Zeroizing::new(String::with_capacity(length));
        for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            text.push_str(&part.0);
        }
        Ok(RealKey(text))
    }

    /// The parts of the keys of an AWS account.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('\n')
    }

    /// The pair that requests are signed with, if it is one.
    pub(crate) fn pair(&self) -> Option<Pair<'_>> {
        let mut parts = self.parts();
        Some(Pair { id: parts.next()?, secret: parts.next()?, token: parts.next() })
    }

    /// Parses the credential of a proxy, which stands in one line.
    fn parse_proxy_auth(text: &[u8]) -> Result<RealKey, KeyProblem> {
        let text = std::str::from_utf8(text).map_err(|_| KeyProblem::NotProxyAuth)?;
        let text =
            text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(KeyProblem::Empty);
        }
        if text.len() > LONGEST {
            return Err(KeyProblem::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(KeyProblem::NotProxyAuth);
        }
        let secret = match text.strip_prefix(BEARER) {
            Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => token,
            None if text.contains(':') => text,
            _ => return Err(KeyProblem::NotProxyAuth),
        };
        if secret.len() < SHORTEST {
            return Err(KeyProblem::TooShort);
        }
        Ok(RealKey(Zeroizing::new(text.to_owned())))
    }

    /// The value of `proxy-authorization` (RFC 9110 section 11.7.1) for the credential of a proxy.
    pub(super) fn authorization(&self) -> Zeroizing<String> {
        if self.0.starts_with(BEARER) {
            return self.0.clone();
        }
        let encoded = Zeroizing::new(STANDARD.encode(self.0.as_bytes()));
        Zeroizing::new(format!("Basic {}", encoded.as_str()))
    }

    /// What is searched for, so that it is found whatever stands around it.
    pub(super) fn searched(&self, content: Content) -> SmallVec<[Cow<'_, [u8]>; 2]> {
        let whole = self.0.as_str();
        let mut lines = self.parts();
        let texts = match content {
            Content::Key => [Some(whole), None, None],
            Content::ProxyAuth => match whole.strip_prefix(BEARER) {
                Some(token) => [Some(token), None, None],
                None => {
                    let password = whole.split_once(':').map(|(_, password)| password);
                    [Some(whole), password.filter(|text| text.len() >= SHORTEST_PASSWORD), None]
                }
            },
            Content::Aws => [lines.next(), lines.next(), lines.next()],
            Content::Certificate => [None, None, None],
            Content::PrivateKey => return pem::searched(whole),
        };
        texts.into_iter().flatten().map(|text| Cow::Borrowed(text.as_bytes())).collect()
    }

    /// The key itself. Call only to inject it into a request or to search for it in a response.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is a private key in PEM; no other key has a space.
    pub(super) fn is_pem(&self) -> bool {
        self.0.starts_with("-----BEGIN ")
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for RealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RealKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<RealKey, KeyProblem> {
        RealKey::parse(Zeroizing::new(text.to_vec()))
    }

    #[test]
    fn c10_a_malformed_key_is_refused_and_never_shown() {
        let long = [b'k'; LONGEST + 1];
        let huge = [b'k'; 64 * 1024];
        let table: [(&[u8], &str); 17] = [
            (b"", "Empty"),
            (b"\n", "Empty"),
            (b"\r\n", "Empty"),
            (b"abc", "TooShort"),
            (b"abc\n", "TooShort"),
            (b"sk-secret\nvalue", "Character(10)"),
            (b"sk-secret\rvalue", "Character(10)"),
            (b"sk-secret\0value", "Character(10)"),
            (b"sk-secret\r\nX-Evil: 1", "Character(10)"),
            (b"sk-secret\n\n", "Character(10)"),
            (b"sk-secret ", "Character(10)"),
            (b" sk-secret", "Character(1)"),
            (b"Bearer sk-secret", "Character(7)"),
            ("sk-secret\u{e9}".as_bytes(), "Character(10)"),
            (b"sk-secret\x7f", "Character(10)"),
            (&long, "TooLong"),
            (&huge, "TooLong"),
        ];
        for (text, problem) in table {
            let error = parse(text).expect_err("refused");
            assert_eq!(format!("{error:?}"), problem);
            assert!(
                !error.to_string().contains("secret") && !error.to_string().contains("kkkk"),
                "{error}"
            );
        }
    }

    #[test]
    fn c10_a_line_end_at_the_end_is_no_part_of_a_key() {
        for text in [&b"sk-real"[..], b"sk-real\n", b"sk-real\r\n"] {
            assert_eq!(parse(text).expect("a key").expose(), "sk-real");
        }
        assert!(matches!(parse(b"sk-real\r"), Err(KeyProblem::Character(8))));
        assert_eq!(
            parse(br#"a"b'c\d,e;f=g"#).expect("quotes are no trouble").expose(),
            r#"a"b'c\d,e;f=g"#
        );
    }

    #[test]
    fn the_credential_of_a_proxy_is_a_user_and_a_password_or_a_token() {
        let parse = |text: &[u8]| RealKey::parse_proxy_auth(text);
        for (text, header, searched) in [
            ("me:s3cret", "Basic bWU6czNjcmV0", &["me:s3cret"][..]),
            (
                "me:a long s3cret\n",
                "Basic bWU6YSBsb25nIHMzY3JldA==",
                &["me:a long s3cret", "a long s3cret"],
            ),
            ("me:\u{e4}:b\r\n", "Basic bWU6w6Q6Yg==", &["me:\u{e4}:b"]),
            ("Bearer abc.DEF-123", "Bearer abc.DEF-123", &["abc.DEF-123"]),
            ("Bearer:xyz", "Basic QmVhcmVyOnh5eg==", &["Bearer:xyz"]),
        ] {
            let auth = parse(text.as_bytes()).expect(text);
            assert_eq!(auth.authorization().as_str(), header);
            let found = auth.searched(Content::ProxyAuth);
            assert!(
                found.iter().map(|text| &text[..]).eq(searched.iter().map(|text| text.as_bytes()))
            );
            assert_eq!(format!("{auth:?}"), "RealKey(…)");
        }
        let long = ["me:", &"x".repeat(LONGEST)].concat();
        for (text, problem) in [
            (&b""[..], "Empty"),
            (b"\n", "Empty"),
            (b"secret", "NotProxyAuth"),
            (b"Basic bWU6czNjcmV0", "NotProxyAuth"),
            (b"Bearer ", "TooShort"),
            (b"Bearer a b", "NotProxyAuth"),
            (b"a:b", "TooShort"),
            (b"me:secret\r\nx-evil: 1", "NotProxyAuth"),
            (b"me:secret\n\n", "NotProxyAuth"),
            (b"me:\xff\xff", "NotProxyAuth"),
            (long.as_bytes(), "TooLong"),
        ] {
            let error = parse(text).expect_err("refused");
            assert_eq!(format!("{error:?}"), problem, "{}", text.escape_ascii());
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn c11_debug_shows_nothing_of_a_key() {
        assert_eq!(format!("{:?}", parse(b"sk-real").expect("a key")), "RealKey(…)");
    }
}
