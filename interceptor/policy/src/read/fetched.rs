//! Reads a source that is asked over HTTP, and the secrets that it presents.

use super::super::credential::{ExecSource, KeySource, LiteralKey};
use super::super::fetched::{Assertion, ClientAuth, FetchedSource, Grant, Oauth2Source};
use super::super::json::{Kind, Node};
use super::super::service_url::ServiceUrl;
use super::{EXEC, FETCHED, Reader};

const OAUTH2: [&str; 13] = [
    "token_url",
    "grant",
    "client_id",
    "client_secret",
    "client_auth",
    "refresh_token",
    "assertion_key",
    "key_id",
    "subject",
    "audience",
    "scope",
    "timeout_seconds",
    "ttl_seconds",
];
const GRANTS: [&str; 3] = ["client_credentials", "refresh_token", "jwt_bearer"];
/// The longest text of a source in bytes.
const LONGEST: usize = 4096;

/// Whether an object has a member of one of these names.
pub(super) fn has_one(node: &Node<'_>, names: &[&str]) -> bool {
    let mut members = node.members().into_iter().flatten();
    node.kind() == Kind::Object && members.any(|member| names.contains(&member.name.as_str()))
}

impl Reader {
    /// A key that a service gives.
    pub(super) fn fetched(&mut self, node: &Node<'_>) -> Option<KeySource> {
        let [oauth2, vault] = self.fields(node, "a key from a service", FETCHED)?;
        let known = self.errors.len();
        let source = match (oauth2, vault) {
            (Some(node), None) => FetchedSource::Oauth2(Box::new(self.oauth2(&node)?)),
            (None, Some(node)) => FetchedSource::Vault(Box::new(self.vault(&node)?)),
            _ => {
                self.error(node, "a key comes from one source: give one of these fields");
                return None;
            }
        };
        (self.errors.len() == known).then_some(KeySource::Fetched(source))
    }

    fn oauth2(&mut self, node: &Node<'_>) -> Option<Oauth2Source> {
        let known = self.errors.len();
        let [
            url,
            grant,
            client_id,
            client_secret,
            client_auth,
            refresh_token,
            assertion_key,
            key_id,
            subject,
            audience,
            scope,
            timeout,
            ttl,
        ] = self.fields(node, "`oauth2`", OAUTH2)?;
        let token_url = self.service_url(node, url.as_ref(), "token_url");
        let grant = self.required(node, grant.as_ref(), "grant");
        let grant_name = grant.and_then(|node| self.choice(&node, "`grant`", &GRANTS));
        let client_id = client_id.and_then(|node| self.text(&node, "`client_id`"));
        let has_secret = client_secret.is_some();
        let client_secret = client_secret.and_then(|node| self.input(&node, "`client_secret`"));
        let client_auth = self.client_auth(client_auth.as_ref());
        let scope = scope.and_then(|node| self.text(&node, "`scope`"));
        let timeout = self.seconds(timeout, &ExecSource::TIMEOUTS, FetchedSource::TIMEOUT);
        let ttl = self.seconds(ttl, &ExecSource::TTLS, ExecSource::TTL);
        let own = [refresh_token, assertion_key, key_id, subject, audience];
        self.are_of(&own, grant_name);
        let is_known = (client_id.is_some(), has_secret);
        let grant = self.grant(node, grant_name?, own, is_known)?;
        if has_secret && client_id.is_none() && self.errors.len() == known {
            self.error(node, "`client_secret` needs `client_id`: whose it is");
        }
        if self.errors.len() > known {
            return None;
        }
        Some(Oauth2Source {
            token_url: token_url?,
            grant,
            client_id,
            client_secret,
            client_auth: client_auth?,
            scope,
            timeout: timeout?,
            ttl: ttl?,
        })
    }

    fn client_auth(&mut self, node: Option<&Node<'_>>) -> Option<ClientAuth> {
        let Some(node) = node else { return Some(ClientAuth::Basic) };
        let chosen = self.choice(node, "`client_auth`", &["basic", "post"])?;
        Some(if chosen == 0 { ClientAuth::Basic } else { ClientAuth::Post })
    }

    /// Refuses the fields of other grants.
    fn are_of(&mut self, own: &[Option<Node<'_>>; 5], grant: Option<usize>) {
        const OF: [(usize, &str); 5] = [
            (1, "refresh_token"),
            (2, "assertion_key"),
            (2, "key_id"),
            (2, "subject"),
            (2, "audience"),
        ];
        for ((at, field), value) in OF.into_iter().zip(own) {
            if let (Some(node), Some(grant)) = (value, grant.filter(|grant| *grant != at)) {
                let (of, is) = (GRANTS[at], GRANTS[grant]);
                self.error(node, format!("`{field}` belongs to the grant {of}, not {is}"));
            }
        }
    }

    /// A grant by its place in the list, with its own fields; whether there are a client and its
    /// secret is known.
    fn grant(
        &mut self,
        node: &Node<'_>,
        at: usize,
        [refresh_token, assertion_key, key_id, subject, audience]: [Option<Node<'_>>; 5],
        (has_client, has_secret): (bool, bool),
    ) -> Option<Grant> {
        match at {
            0 => {
                if !has_secret || !has_client {
                    let why = "the grant client_credentials needs `client_id` and `client_secret`";
                    self.error(node, why);
                }
                Some(Grant::ClientCredentials)
            }
            1 => {
                let token = self.required(node, refresh_token.as_ref(), "refresh_token")?;
                Some(Grant::RefreshToken(self.input(&token, "`refresh_token`")?))
            }
            _ => {
                let key = self.required(node, assertion_key.as_ref(), "assertion_key")?;
                if !has_client {
                    self.error(node, "the grant jwt_bearer needs `client_id`: it is the issuer");
                }
                Some(Grant::JwtBearer(Assertion {
                    key: self.input(&key, "`assertion_key`")?,
                    key_id: key_id.and_then(|node| self.text(&node, "`key_id`")),
                    subject: subject.and_then(|node| self.text(&node, "`subject`")),
                    audience: audience.and_then(|node| self.text(&node, "`audience`")),
                }))
            }
        }
    }

    /// A field that must be there.
    pub(super) fn required<'a>(
        &mut self,
        node: &Node<'_>,
        field: Option<&Node<'a>>,
        name: &str,
    ) -> Option<Node<'a>> {
        if field.is_none() {
            self.error(node, format!("the field `{name}` is missing"));
        }
        field.cloned()
    }

    /// The URL of a service.
    pub(super) fn service_url(
        &mut self,
        node: &Node<'_>,
        field: Option<&Node<'_>>,
        name: &str,
    ) -> Option<ServiceUrl> {
        let field = self.required(node, field, name)?;
        let text = self.string(&field, &format!("`{name}`"))?;
        match ServiceUrl::parse(&text) {
            Ok(url) => Some(url),
            Err(error) => {
                self.error(&field, format!("`{name}`: {error}"));
                None
            }
        }
    }

    /// Which of these words a text is.
    fn choice(&mut self, node: &Node<'_>, what: &str, words: &[&str]) -> Option<usize> {
        let text = self.string(node, what)?;
        let found = words.iter().position(|word| *word == text);
        if found.is_none() {
            self.error(node, format!("{what} is one of `{}`", words.join("`, `")));
        }
        found
    }

    /// A text that is not secret: visible, and not without bounds.
    pub(super) fn text(&mut self, node: &Node<'_>, what: &str) -> Option<String> {
        let text = self.string(node, what)?;
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            self.error(node, format!("{what} has 1 to {LONGEST} bytes and no control character"));
            return None;
        }
        Some(text)
    }

    /// A secret that a source presents, or where it is.
    pub(super) fn input(&mut self, node: &Node<'_>, what: &str) -> Option<KeySource> {
        if has_one(node, &EXEC) {
            return self.program(node);
        }
        if has_one(node, &FETCHED) {
            self.error(node, format!("{what} cannot come from a service in its turn"));
            return None;
        }
        self.secret(node, what, Reader::literal_input)
    }

    fn literal_input(&mut self, node: &Node<'_>) -> Option<KeySource> {
        let text = node.string();
        match text.as_deref().map(String::as_str) {
            None => self.error(node, "this is not valid Unicode (half of a surrogate pair)"),
            Some("") => self.error(node, "this secret is empty"),
            Some(text) => return Some(KeySource::Literal(LiteralKey::new(text.to_owned()))),
        }
        None
    }
}
