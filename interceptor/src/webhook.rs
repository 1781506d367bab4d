//! The webhook of `serve --config` (`approvals.webhook`): every question is POSTed to it, and what
//! it answers with 200 decides, like an answer of the API. It can approve no more than the question
//! proposes, and whatever else it says or does changes nothing.
//!
//! A body is signed: `x-interceptor-signature: sha256=…`, HMAC-SHA256 over it in hexadecimal.

mod queue;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use interceptor_policy::{Authority, Catalogue, Host, Policy, Scheme, check};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use self::queue::{Queue, Untold};
use crate::control::{answer_of, question_text};
use crate::fleet::{Fleet, QuestionView};
use crate::tls::client::ClientConfigs;
use crate::upstream::{Road, Terms, UpstreamError};

/// The header with the signature.
const SIGNATURE: &str = "x-interceptor-signature";
/// The largest answer, in bytes.
const LARGEST: usize = 64 * 1024;
/// Any host and any address: the operator named it.
const ANYWHERE: &str = r#"{"network":{"allow":["*","0.0.0.0/0","::/0"]}}"#;

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    /// Its URL is none.
    #[error("the webhook's URL is not https://HOST[:PORT]/PATH: {0}")]
    Url(&'static str),
    /// Its secret is too short to be one.
    #[error("the webhook's secret is shorter than 16 bytes")]
    ShortSecret,
}

/// Why a question was not told, or its answer not taken.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("it cannot be reached: {0}")]
    Unreachable(#[from] UpstreamError),
    #[error("TLS failed: {0}")]
    Tls(#[from] io::Error),
    #[error("it does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is longer than {LARGEST} bytes or broke off")]
    Body,
    #[error("its answer is none: {0}")]
    Answer(String),
    #[error("there was no answer in time")]
    Timeout,
}

/// A webhook.
pub(crate) struct Webhook {
    host: Host,
    port: u16,
    is_tls: bool,
    /// `Host` and the target of the requests.
    authority: String,
    target: String,
    secret: hmac::Key,
    timeout: Duration,
    policy: Policy,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Webhook {
    /// A webhook at this URL.
    ///
    /// # Errors
    /// If the URL is not HTTPS (or HTTP to a loopback address), or the secret is too short.
    pub(crate) fn new(
        url: &str,
        secret: &[u8],
        timeout: Duration,
    ) -> Result<Webhook, WebhookError> {
        let uri: Uri = url.parse().map_err(|_| WebhookError::Url("it cannot be read"))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(WebhookError::Url("its scheme is neither https nor http")),
        };
        let authority = uri.authority().ok_or(WebhookError::Url("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(WebhookError::Url("it has a user"));
        }
        let parsed = Authority::parse(authority.as_str());
        let Authority { host, port } = parsed.map_err(|_| WebhookError::Url("its host is none"))?;
        let is_loopback = matches!(&host, Host::Ip(address) if address.is_loopback());
        // Whoever is on the way could approve.
        if !is_tls && !is_loopback {
            return Err(WebhookError::Url("http is for loopback addresses alone"));
        }
        if secret.len() < 16 {
            return Err(WebhookError::ShortSecret);
        }
        let policy = check(ANYWHERE, &Catalogue::builtin()).policy;
        Ok(Webhook {
            port: port.unwrap_or(if is_tls { 443 } else { 80 }),
            host,
            is_tls,
            authority: authority.to_string(),
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            timeout,
            policy: policy.ok_or(WebhookError::Url("no policy permits it"))?,
        })
    }

    /// Tells every question of the fleet until `stop` is cancelled.
    pub(crate) async fn serve(self: Arc<Self>, fleet: Arc<Fleet>, stop: CancellationToken) {
        // Before the questions are read, so that none is missed.
        let mut coming = fleet.approvals();
        let mut queue = Queue::default();
        queue.catch_up(&fleet.questions());
        let mut telling = JoinSet::new();
        loop {
            while let Some(Untold { id, sandbox }) = queue.next() {
                // Who asked may have given up meanwhile.
                let Some(question) = fleet.question(&id) else { continue };
                let (webhook, fleet) = (self.clone(), fleet.clone());
                let told = telling.spawn(async move { webhook.tell(&fleet, &question).await });
                queue.begin(told.id(), sandbox);
            }
            tokio::select! {
                heard = coming.recv() => if !queue.hear(heard, || fleet.questions()) {
                    return;
                },
                Some(ended) = telling.join_next_with_id() => queue.end(match ended {
                    Ok((task, ())) => task,
                    Err(error) => error.id(),
                }),
                () = stop.cancelled() => return,
            }
        }
    }

    async fn tell(&self, fleet: &Arc<Fleet>, question: &QuestionView) {
        let id = &question.id;
        if let Err(error) = self.ask(fleet, question_text(question), id).await {
            tracing::warn!(question = %id, %error, "the webhook decided nothing");
        }
    }

    /// Tells one question, and decides it if the answer does.
    async fn ask(&self, fleet: &Arc<Fleet>, question: String, id: &str) -> Result<(), TellError> {
        let answer = tokio::time::timeout(self.timeout, self.post(fleet, question)).await;
        let Some(answer) = answer.map_err(|_| TellError::Timeout)?? else { return Ok(()) };
        let answer = answer_of(&answer).map_err(TellError::Answer)?;
        let (fleet, id) = (fleet.clone(), id.to_owned());
        let decided = tokio::task::spawn_blocking(move || fleet.decide(&id, &answer, "webhook"));
        match decided.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(TellError::Answer(error.to_string())),
            Err(error) => Err(TellError::Answer(error.to_string())),
        }
    }

    /// POSTs a question. `None`: it leaves the decision to the API.
    async fn post(&self, fleet: &Fleet, question: String) -> Result<Option<String>, TellError> {
        let runtime = fleet.runtime();
        let road = Road::direct(ClientConfigs::new(runtime.client.clone()));
        let terms = Terms { policy: &self.policy, road: &road };
        let scheme = if self.is_tls { Scheme::Https } else { Scheme::Http };
        let dialed = runtime.upstream.connect(terms, scheme, &self.host, self.port).await?;
        if !self.is_tls {
            return self.speak(dialed.stream, question).await;
        }
        let name = match &self.host {
            Host::Ip(address) => ServerName::IpAddress((*address).into()),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        let connector = TlsConnector::from(runtime.client.clone());
        self.speak(connector.connect(name, dialed.stream).await?, question).await
    }

    async fn speak<S>(&self, stream: S, question: String) -> Result<Option<String>, TellError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let tag = hmac::sign(&self.secret, question.as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let request = Request::post(&self.target)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("interceptor/", env!("CARGO_PKG_VERSION")))
            .header(SIGNATURE, format!("sha256={hex}"))
            .body(Full::new(Bytes::from(question)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::ACCEPTED => return Ok(None),
                status => return Err(TellError::Status(status)),
            }
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|_| TellError::Body)?.to_bytes();
            let text = String::from_utf8(body.to_vec());
            Ok(Some(text.map_err(|_| TellError::Answer("it is not UTF-8".to_owned()))?))
        };
        // Nobody else drives the connection, which ends with the exchange.
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = connection => {
                ended?;
                exchange.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_has_a_url_over_tls_or_on_loopback_and_a_secret() {
        let new = |url: &str| Webhook::new(url, &[b'x'; 16], Duration::from_secs(1));
        for url in
            ["https://a.test/x?y=1", "https://a.test:8443", "http://127.0.0.1:80/", "http://[::1]/"]
        {
            assert!(new(url).is_ok(), "{url}");
        }
        for url in
            ["http://a.test/", "ftp://a.test/", "/x", "https://u:p@a.test/", "https:///x", ""]
        {
            assert!(new(url).is_err(), "{url}");
        }
        assert!(Webhook::new("https://a.test/", b"short", Duration::from_secs(1)).is_err());
        let shown =
            format!("{:?}", Webhook::new("https://a.test/", b"a secret canary!", Duration::ZERO));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
