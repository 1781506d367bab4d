//! Sends requests according to a plan, JSON on standard input, and writes one report per connection
//! to standard output.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Barrier;

use super::tls;
use crate::origin::body::hex;
use crate::origin::record::pairs;

/// The most bytes of a body in a report.
const SHOWN: usize = 1 << 20;

/// A plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// `HOST:PORT` to connect to.
    pub connect: String,
    /// The name in the ClientHello; without it, no TLS.
    pub sni: Option<String>,
    /// `h2` or `http/1.1`: offered by ALPN, and required.
    pub protocol: String,
    /// The number of connections, all open before the first request.
    pub connections: usize,
    /// The requests of every connection: in sequence over HTTP/1.1, concurrent over HTTP/2.
    pub requests: Vec<Ask>,
}

/// One request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ask {
    /// The method.
    pub method: String,
    /// The host: `Host`, or `:authority`.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Further fields. `$NAME` at the end of a value is replaced with that variable of the sandbox.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

/// The result of a connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Why there was no connection.
    pub error: Option<String>,
    /// The address that `getpeername` shows.
    pub peer: String,
    /// The result of each request, in the order of the plan.
    pub answers: Vec<Answer>,
}

/// The result of a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Why there was no complete answer.
    pub error: Option<String>,
    /// The status; 0 when there was none.
    pub status: u16,
    /// The fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The first mebibyte of the body.
    pub body: String,
    /// Its length.
    pub body_bytes: u64,
    /// The lengths of its first thousand pieces: chunks or DATA frames.
    #[serde(default)]
    pub pieces: Vec<usize>,
    /// The SHA-256 of the whole body, in hex.
    pub sha256: String,
    /// The trailer fields.
    pub trailers: Vec<(String, String)>,
}

impl Plan {
    /// One connection to `host`, over TLS, speaking `protocol`.
    pub fn https(host: &str, protocol: &str) -> Plan {
        Plan {
            connect: format!("{host}:443"),
            sni: Some(host.to_owned()),
            protocol: protocol.to_owned(),
            connections: 1,
            requests: vec![],
        }
    }

    /// One connection to `host` in the clear.
    pub fn http(host: &str) -> Plan {
        Plan { connect: format!("{host}:80"), sni: None, ..Plan::https(host, "http/1.1") }
    }

    /// Adds a request to the host of the connection.
    #[must_use]
    pub fn ask(self, method: &str, path: &str) -> Plan {
        self.ask_with(method, path, &[], "")
    }

    /// Adds a request with fields and a body.
    #[must_use]
    pub fn ask_with(
        mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Plan {
        let host = self
            .connect
            .rsplit_once(':')
            .map_or(self.connect.as_str(), |(host, _)| host)
            .to_owned();
        let headers =
            headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.requests.push(Ask {
            method: method.into(),
            host,
            path: path.into(),
            headers,
            body: body.into(),
        });
        self
    }
}

impl Answer {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Reads this as a refusal.
    ///
    /// # Panics
    /// If it is not one.
    #[track_caller]
    pub fn refusal(&self) -> crate::outcome::Refusal {
        assert_eq!(self.error, None, "{self:?}");
        crate::outcome::Refusal::read(
            self.status,
            self.header("x-interceptor-decision"),
            &self.body,
        )
    }
}

/// `fetch`.
///
/// # Errors
/// If the plan does not parse or a standard stream fails.
pub fn main() -> Result<ExitCode> {
    let plan: Plan = serde_json::from_reader(std::io::stdin()).context("the plan")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reports = runtime.block_on(all(plan));
    println!("{}", serde_json::to_string(&reports)?);
    Ok(ExitCode::SUCCESS)
}

/// Every connection of a plan.
async fn all(plan: Plan) -> Vec<Report> {
    let plan = Arc::new(plan);
    let barrier = Arc::new(Barrier::new(plan.connections));
    let connections: Vec<_> =
        (0..plan.connections).map(|_| tokio::spawn(one(plan.clone(), barrier.clone()))).collect();
    let mut reports = Vec::new();
    for connection in connections {
        let failed = |error: String| Report { error: Some(error), ..Report::default() };
        reports.push(connection.await.unwrap_or_else(|error| failed(error.to_string())));
    }
    reports
}

async fn one(plan: Arc<Plan>, barrier: Arc<Barrier>) -> Report {
    let mut report = Report::default();
    let stream = tls::connect(&plan.connect).await;
    // Every connection must get here, even a failed one, because the others wait for it.
    let _ = tokio::time::timeout(Duration::from_secs(20), barrier.wait()).await;
    let outcome = async {
        let stream = stream?;
        report.peer = stream.peer_addr()?.to_string();
        match &plan.sni {
            None => converse(TokioIo::new(stream), &plan, "http").await,
            Some(sni) => {
                let stream =
                    tls::handshake(stream, sni, std::slice::from_ref(&plan.protocol)).await?;
                let agreed =
                    stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default();
                anyhow::ensure!(
                    agreed == plan.protocol.as_bytes()
                        || (agreed.is_empty() && plan.protocol == "http/1.1"),
                    "ALPN agreed on {:?}, not {}",
                    String::from_utf8_lossy(&agreed),
                    plan.protocol
                );
                converse(TokioIo::new(stream), &plan, "https").await
            }
        }
    };
    match outcome.await {
        Ok(answers) => report.answers = answers,
        Err(error) => report.error = Some(format!("{error:#}")),
    }
    report
}

async fn converse<S>(stream: TokioIo<S>, plan: &Plan, scheme: &str) -> Result<Vec<Answer>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut answers = Vec::new();
    if plan.protocol == "h2" {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        let driver = tokio::spawn(connection);
        let mut streams = Vec::new();
        for ask in &plan.requests {
            let mut sender = sender.clone();
            let request = request(ask, &format!("{scheme}://{}{}", ask.host, ask.path));
            streams.push(tokio::spawn(
                async move { answer(sender.send_request(request?).await).await },
            ));
        }
        for stream in streams {
            answers.push(
                stream
                    .await
                    .map_err(anyhow::Error::from)
                    .and_then(|answer| answer)
                    .unwrap_or_else(failed),
            );
        }
        driver.abort();
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        let driver = tokio::spawn(connection);
        for ask in &plan.requests {
            let asked = async {
                let mut request = request(ask, &ask.path)?;
                request.headers_mut().insert("host", ask.host.parse()?);
                sender.ready().await?;
                answer(sender.send_request(request).await).await
            };
            answers.push(asked.await.unwrap_or_else(failed));
        }
        driver.abort();
    }
    Ok(answers)
}

fn failed(error: anyhow::Error) -> Answer {
    Answer { error: Some(format!("{error:#}")), ..Answer::default() }
}

/// `$NAME` at the end of a value stands for a variable of the sandbox, because only the sandbox
/// knows a placeholder.
fn with_variable(value: &str) -> String {
    let replaced =
        value.split_once('$').and_then(|(before, name)| Some((before, std::env::var(name).ok()?)));
    replaced.map_or_else(|| value.to_owned(), |(before, variable)| format!("{before}{variable}"))
}

fn request(ask: &Ask, uri: &str) -> Result<Request<Full<Bytes>>> {
    let mut builder = Request::builder().method(ask.method.as_str()).uri(uri);
    for (name, value) in &ask.headers {
        builder = builder.header(name, with_variable(value));
    }
    Ok(builder.body(Full::from(ask.body.clone().into_bytes()))?)
}

async fn answer(response: hyper::Result<Response<hyper::body::Incoming>>) -> Result<Answer> {
    let response = response?;
    let mut answer = Answer {
        status: response.status().as_u16(),
        headers: pairs(response.headers()),
        ..Answer::default()
    };
    let mut body = response.into_body();
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut shown = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => {
                answer.body_bytes += data.len() as u64;
                if answer.pieces.len() < 1000 {
                    answer.pieces.push(data.len());
                }
                hash.update(&data);
                let room = SHOWN - shown.len();
                shown.extend_from_slice(&data[..data.len().min(room)]);
            }
            Ok(Err(frame)) => answer.trailers.extend(frame.into_trailers().iter().flat_map(pairs)),
            Err(error) => {
                answer.error = Some(format!("the body broke off: {error}"));
                break;
            }
        }
    }
    answer.sha256 = hex(hash.finish().as_ref());
    answer.body = String::from_utf8_lossy(&shown).into_owned();
    Ok(answer)
}
