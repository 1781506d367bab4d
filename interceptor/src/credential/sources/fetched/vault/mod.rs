//! Secrets of Vault and OpenBao: KV of both versions, and engines whose secrets have a lease.
//!
//! One session serves all fetches of a source, because a secret id may be good for one login, and a
//! lease ends with the token that it was read by. A fetch that is due renews the token and the
//! lease; one that is not due, because an origin refused the key, reads the secret anew.

mod answer;
mod session;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderName, Method};
use interceptor_policy::{ServiceUrl, VaultAuth, VaultSource};
use jiff::Timestamp;
use rustls::ClientConfig;
use serde_json::json;
use zeroize::Zeroizing;

use self::answer::{Auth, Found, Login, Renewed, Unwrapped};
pub(super) use self::session::Session;
use self::session::{Lease, Token};
use super::super::printed::{self, End, Printed};
use super::super::problem::SourceProblem;
use super::Fetched;
use crate::fetch::{Answer, Request};
use crate::tls::client;

/// The field that carries a token.
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");

/// What is refused, as an error names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Unwrap,
    Login,
    Read,
    /// What may fail without consequence.
    Aside,
}

impl Step {
    /// What a status means at this step, in words of ours.
    fn problem(self, status: u16) -> SourceProblem {
        let code = match (self, status) {
            (_, 503) => Some("it is sealed"),
            (_, 429 | 472 | 473) => Some("it is on standby, or limits requests"),
            (Step::Unwrap, 400 | 403) => Some("the wrapped secret_id has expired or was used"),
            (Step::Login, 400 | 403) => {
                Some("the role_id or secret_id is unknown, has expired or was used up")
            }
            (Step::Read, 403) => Some("its token may not read that path, or has expired"),
            (Step::Read, 404) => Some("there is no secret at that path"),
            (Step::Read, 400 | 405) => Some("that path cannot be read"),
            _ => None,
        };
        SourceProblem::Answered { status, code }
    }
}

/// What became of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Had {
    Same,
    Renewed,
    New,
}

/// The server for one fetch.
struct Server<'a> {
    fetched: &'a Fetched,
    source: &'a VaultSource,
    tls: Option<Arc<ClientConfig>>,
    deadline: Instant,
}

impl Fetched {
    /// A secret of a server.
    pub(super) fn vault(
        &self,
        source: &VaultSource,
        now: Timestamp,
    ) -> Result<Printed, SourceProblem> {
        let server = Server::new(self, source)?;
        // A panic leaves at worst a token or a lease that is asked for again.
        let mut session = self.vault.lock().unwrap_or_else(PoisonError::into_inner);
        let had = server.authenticate(&mut session)?;
        if let Some(lease) = server.renew_lease(&mut session, had)? {
            return session.printed(lease, source.ttl, now);
        }
        let found = match server.read(&session) {
            // The token may have been revoked.
            Err(SourceProblem::Answered { status: 403, .. })
                if had != Had::New && server.can_log_in() =>
            {
                session.end();
                server.authenticate(&mut session)?;
                server.read(&session)?
            }
            found => found?,
        };
        let lease = Lease::new(found, &source.field)?;
        session.printed(lease, source.ttl, now)
    }
}

impl<'a> Server<'a> {
    fn new(fetched: &'a Fetched, source: &'a VaultSource) -> Result<Server<'a>, SourceProblem> {
        let problem = |problem: String| SourceProblem::Input { field: "ca", problem };
        let tls = match &source.ca {
            None => None,
            Some(path) => {
                let read = fetched.household.read(path, client::LARGEST_ROOTS);
                let shown = path.display();
                let pem = read.map_err(|error| {
                    problem(format!("in the file {shown}, cannot be read: {error}"))
                })?;
                let tls = client::trusting_only(&pem);
                Some(tls.map_err(|why| problem(format!("in the file {shown}: {why}")))?)
            }
        };
        let deadline = Instant::now() + source.timeout;
        Ok(Server { fetched, source, tls, deadline })
    }

    fn url(&self, path: &str) -> ServiceUrl {
        self.source.address.below(&format!("/v1/{path}"))
    }

    /// Sends a request; an answer of another status than 2xx is an error.
    fn send(
        &self,
        step: Step,
        request: Request,
        token: Option<&[u8]>,
    ) -> Result<Answer, SourceProblem> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SourceProblem::Silent(self.source.timeout));
        }
        let request = match token {
            Some(token) => request.field(TOKEN, token),
            None => request,
        };
        let request = match &self.tls {
            Some(tls) => request.trusting(tls.clone()),
            None => request,
        };
        let answer = self.fetched.client.send(&request, left)?;
        match answer.status.is_success() {
            true => Ok(answer),
            false => Err(step.problem(answer.status.as_u16())),
        }
    }

    fn post(&self, path: &str, body: &serde_json::Value) -> Request {
        let body = Zeroizing::new(body.to_string().into_bytes());
        Request::new(Method::POST, self.url(path)).body("application/json", body)
    }

    fn can_log_in(&self) -> bool {
        matches!(self.source.auth, VaultAuth::AppRole { .. })
    }

    /// Sees to it that there is a token: renews one that is due, or logs in again.
    fn authenticate(&self, session: &mut Session) -> Result<Had, SourceProblem> {
        if let VaultAuth::Token(_) = &self.source.auth {
            session.use_token(&self.fetched.inputs.text("token")?);
        }
        let Some(token) = session.token.as_mut() else {
            session.token = Some(self.new_token(session)?);
            return Ok(Had::New);
        };
        if !token.is_due() {
            return Ok(Had::Same);
        }
        if token.is_renewable() && self.renew_token(token).is_ok_and(|is_enough| is_enough) {
            return Ok(Had::Renewed);
        }
        let has_ended = token.has_ended();
        if !has_ended && !self.can_log_in() {
            return Ok(Had::Same);
        }
        match self.new_token(session) {
            Ok(token) => {
                session.end();
                session.token = Some(token);
                Ok(Had::New)
            }
            // A secret id may be used up; then the token there is serves to its end.
            Err(_) if !has_ended => Ok(Had::Same),
            Err(problem) => Err(problem),
        }
    }

    fn new_token(&self, session: &mut Session) -> Result<Token, SourceProblem> {
        match &self.source.auth {
            VaultAuth::Token(_) => Ok(self.known(self.fetched.inputs.text("token")?)),
            VaultAuth::AppRole { role_id, is_wrapped, .. } => {
                self.log_in(session, role_id, *is_wrapped)
            }
        }
    }

    /// A token that was given; how long it lasts is asked, if it may ask.
    fn known(&self, text: Zeroizing<Vec<u8>>) -> Token {
        let request = Request::new(Method::GET, self.url("auth/token/lookup-self"));
        let told = self.send(Step::Aside, request, Some(&text)).ok();
        let auth = told.and_then(|told| answer::read::<answer::LookedUp>(&told).ok());
        match auth {
            Some(found) => Token::new(text, found.data.ttl, found.data.renewable),
            None => Token::new(text, 0, false),
        }
    }

    /// Renews a token. Returns whether it lasts about as long again, rather than to its last end.
    fn renew_token(&self, token: &mut Token) -> Result<bool, SourceProblem> {
        let request = self.post("auth/token/renew-self", &json!({}));
        let told = self.send(Step::Aside, request, Some(token.expose()))?;
        let Login { auth: Auth { lease_duration, renewable, .. } } = answer::read(&told)?;
        Ok(token.renewed(lease_duration, renewable))
    }

    fn log_in(
        &self,
        session: &mut Session,
        role_id: &str,
        is_wrapped: bool,
    ) -> Result<Token, SourceProblem> {
        let given = self.fetched.inputs.text("secret_id")?;
        let secret_id = if is_wrapped { self.unwrapped(session, &given)? } else { given };
        let problem = |problem: &str| SourceProblem::Input {
            field: "secret_id",
            problem: problem.to_owned(),
        };
        let text = std::str::from_utf8(&secret_id).map_err(|_| problem("is not text"))?;
        let login = answer::login(role_id, text);
        let request = Request::new(Method::POST, self.url("auth/approle/login"));
        let told = self.send(Step::Login, request.body("application/json", login), None)?;
        let Login { auth } = answer::read(&told)?;
        let token = auth.client_token.ok_or(SourceProblem::NoToken)?;
        let token = Zeroizing::new(token.expose().as_bytes().to_vec());
        Ok(Token::new(token, auth.lease_duration, auth.renewable))
    }

    /// The secret id that a response holds, which can be taken out once.
    fn unwrapped(
        &self,
        session: &mut Session,
        given: &Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, SourceProblem> {
        if let Some(known) = session.unwrapped(given) {
            return Ok(known);
        }
        let request = self.post("sys/wrapping/unwrap", &json!({}));
        let told = self.send(Step::Unwrap, request, Some(given))?;
        let Unwrapped { data } = answer::read(&told)?;
        let text = Zeroizing::new(data.secret_id.expose().as_bytes().to_vec());
        session.keep_unwrapped(given, &text);
        Ok(text)
    }

    /// The lease, if it is due and could be renewed; `None` if the secret is to be read.
    fn renew_lease(&self, session: &mut Session, had: Had) -> Result<Option<Lease>, SourceProblem> {
        let Some(lease) = session.lease.take() else { return Ok(None) };
        if !lease.is_due() {
            // It was the token that was due, which bounds the lease; or an origin refused the key.
            let is_kept = had == Had::Renewed && lease.left().is_some();
            return Ok(Some(lease).filter(|_| is_kept));
        }
        let body = answer::renewal(lease.id(), lease.whole.as_secs());
        let request = Request::new(Method::POST, self.url("sys/leases/renew"));
        let request = request.body("application/json", body);
        let token = session.token.as_ref().map(Token::expose);
        match self.send(Step::Aside, request, token) {
            Ok(told) => {
                let Renewed { lease_duration, renewable } = answer::read(&told)?;
                Ok(lease.renewed(Duration::from_secs(lease_duration), renewable))
            }
            // It was revoked, or cannot be renewed any more.
            Err(SourceProblem::Answered { status: 400 | 403 | 404, .. }) => Ok(None),
            Err(other) => {
                session.lease = Some(lease);
                Err(other)
            }
        }
    }

    fn read(&self, session: &Session) -> Result<Found, SourceProblem> {
        let request = Request::new(Method::GET, self.url(&self.source.path));
        let token = session.token.as_ref().map(Token::expose);
        answer::found(&self.send(Step::Read, request, token)?)
    }
}

impl Session {
    /// The key of a lease, which is kept to be renewed. It lasts no longer than the token that it
    /// was read by.
    fn printed(
        &mut self,
        lease: Lease,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Printed, SourceProblem> {
        let most = self.token.as_ref().and_then(Token::left);
        let bounded = |time: Duration| most.map_or(time, |most| time.min(most));
        let key = Zeroizing::new(lease.key().to_vec());
        let printed = match lease.left() {
            Some(left) => printed::lasting(key, End::In(bounded(left).as_secs_f64()), ttl, now),
            None => printed::lasting(key, End::Never, bounded(ttl), now),
        };
        self.lease = Some(lease);
        printed
    }
}
