//! Token endpoints (RFC 6749): client_credentials, refresh_token, and jwt_bearer (RFC 7523).

use http::Method;
use interceptor_policy::{Assertion, ClientAuth, Grant, Oauth2Source};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::json;
use zeroize::Zeroizing;

use super::super::printed::Printed;
use super::super::problem::SourceProblem;
use super::Fetched;
use super::jwt::{Signer, unique};
use super::rotation::Rotation;
use super::token::{self, Given};
use crate::fetch::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How long an assertion holds, in seconds.
const ASSERTED: i64 = 300;
/// How far ahead of the endpoint's clock this one may be.
const SKEW: i64 = 30;

/// What application/x-www-form-urlencoded leaves as it is, but for the space, which is `%20` here.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A form in the body of a request, in memory that does not move while it grows.
pub(super) struct Form(Zeroizing<Vec<u8>>);

impl Form {
    /// The longest: a few secrets, three bytes a byte.
    const LONGEST: usize = 512 * 1024;

    pub(super) fn new(grant: &str) -> Form {
        let mut form = Form(Zeroizing::new(Vec::with_capacity(Form::LONGEST)));
        form.add("grant_type", grant.as_bytes());
        form
    }

    pub(super) fn add(&mut self, name: &str, value: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
        percent_encode(value, FORM).for_each(|part| self.0.extend_from_slice(part.as_bytes()));
    }

    pub(super) fn into_body(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

impl Fetched {
    /// A token of an endpoint.
    pub(super) fn oauth2(
        &self,
        source: &Oauth2Source,
        now: Timestamp,
    ) -> Result<Printed, SourceProblem> {
        match &source.grant {
            Grant::ClientCredentials => {
                Ok(self.ask(source, Form::new("client_credentials"), now)?.token)
            }
            Grant::JwtBearer(assertion) => {
                let mut form = Form::new("urn:ietf:params:oauth:grant-type:jwt-bearer");
                let assertion = self.assertion(source, assertion, now)?;
                form.add("assertion", assertion.as_bytes());
                Ok(self.ask(source, form, now)?.token)
            }
            Grant::RefreshToken(_) => self.refresh(source, now),
        }
    }

    /// A token for a refresh token. If the endpoint gives another refresh token, the one before is
    /// dead, and the new one is kept before the token is used.
    fn refresh(&self, source: &Oauth2Source, now: Timestamp) -> Result<Printed, SourceProblem> {
        let first = self.inputs.text("refresh_token")?;
        let client = source.client_id.as_deref().unwrap_or_default();
        let endpoint = source.token_url.to_string();
        let household = self.household.as_ref();
        let mut rotation = Rotation::begin(household, [&endpoint, client], &first, self.timeout())?;
        let mut form = Form::new("refresh_token");
        form.add("refresh_token", rotation.current());
        let Given { token, refresh } = self.ask(source, form, now)?;
        if let Some(refresh) = refresh {
            rotation.replace(refresh.expose().as_bytes())?;
        }
        Ok(token)
    }

    /// Asks the endpoint, as the client.
    fn ask(
        &self,
        source: &Oauth2Source,
        mut form: Form,
        now: Timestamp,
    ) -> Result<Given, SourceProblem> {
        if let Some(scope) = &source.scope {
            form.add("scope", scope.as_bytes());
        }
        let mut request = Request::new(Method::POST, source.token_url.clone());
        let client = source.client_id.as_deref();
        let secret = self.inputs.has("client_secret");
        let secret = secret.then(|| self.inputs.text("client_secret")).transpose()?;
        match (client, secret, source.client_auth) {
            (Some(client), Some(secret), ClientAuth::Basic) => {
                // Both are encoded as in a form first (RFC 6749 section 2.3.1).
                let encoded = |text: &[u8]| percent_encode(text, FORM).to_string();
                let secret = Zeroizing::new(encoded(&secret));
                let pair = Zeroizing::new([&encoded(client.as_bytes()), ":", &secret].concat());
                let basic = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
                request = request.authorization("Basic", basic.as_bytes());
            }
            (Some(client), secret, _) => {
                // An assertion names the client itself.
                if secret.is_some() || !matches!(source.grant, Grant::JwtBearer(_)) {
                    form.add("client_id", client.as_bytes());
                }
                secret.iter().for_each(|secret| form.add("client_secret", secret));
            }
            (None, ..) => {}
        }
        let request = request.body("application/x-www-form-urlencoded", form.into_body());
        token::read(&self.send(&request)?, source.ttl, now)
    }

    /// The assertion of a client.
    fn assertion(
        &self,
        source: &Oauth2Source,
        assertion: &Assertion,
        now: Timestamp,
    ) -> Result<Zeroizing<String>, SourceProblem> {
        let problem =
            |text: &str| SourceProblem::Input { field: "assertion_key", problem: text.to_owned() };
        let pem = self.inputs.text("assertion_key")?;
        let signer = Signer::parse(&pem);
        let signer = signer.ok_or_else(|| {
            problem("is no private key, PEM, of RSA (2048 bits or more) or P-256")
        })?;
        let client = source.client_id.as_deref().unwrap_or_default();
        let now = now.as_second();
        let endpoint = source.token_url.to_string();
        let claims = json!({
            "iss": client,
            "sub": assertion.subject.as_deref().unwrap_or(client),
            "aud": assertion.audience.as_deref().unwrap_or(&endpoint),
            "iat": now - SKEW,
            "exp": now + ASSERTED,
            "jti": unique().ok_or_else(|| problem("cannot sign: there are no random bytes"))?,
        });
        let signed = signer.sign(&claims, assertion.key_id.as_deref());
        signed.ok_or_else(|| problem("cannot sign"))
    }
}
