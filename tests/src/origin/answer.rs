//! An origin's answers, by the path of the request:
//!
//! | path | answer |
//! | --- | --- |
//! | `/echo` | the request's head and body as text; `?encoding=gzip\|br\|deflate\|zstd`, `?in=header\|trailer\|location\|bytes` |
//! | `/bytes/N` | N bytes of a pattern |
//! | `/events/N` | N server-sent events, `?interval_ms=` apart |
//! | `/gated` | `first`, then, once the test opens the gate, `last` |
//! | `/said` | each piece that the test says, when it says it; `/said/N` announces N bytes, `?encoding=gzip` |
//! | `/cut/N` | promises 2N bytes, breaks off after N |
//! | `/status/CODE` | that status |
//! | `/redirect/CODE?to=URL` | that status, with `location: URL` |
//! | `/hang` | nothing, until the client goes away |
//! | `/late/N` | 200, N milliseconds after the request |
//! | `/drip` | a byte now and then, until the client goes away |
//! | `/upload` | length and SHA-256 of the request's body |
//! | `/trailers` | a body and the trailer `grpc-status: 0` |
//! | `/set?NAME=VALUE&…` | those response fields |
//! | `/early/CODE` | that status without reading the request's body |
//! | `/eager` | 200 at once, and the request's body is read meanwhile |
//! | `/ws` | a WebSocket that echoes |
//! | `/OWNER/NAME.git/…` | a repository, once the test has set some (module `git`) |
//! | `/v1/…` of a model's API | an answer as that API gives it ([`super::api`]), on a WebSocket too |
//! | a path of [`Shared::files`] | that file |
//! | anything else | 200 and a JSON object that names the request |
//!
//! `/…/lab/KIND…` is the same as `/KIND…`, so that a test can put any of them below the path that
//! its rule names.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Version};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::Shared;
use super::body::{Feed, Frames, hex};
use super::record::pairs;
use super::{api, git, websocket};

/// The longest that the gate stays shut.
pub(super) const GATE: Duration = Duration::from_secs(20);

pub(crate) async fn answer(
    request: Request<Incoming>,
    number: usize,
    shared: Arc<Shared>,
) -> Response<Frames> {
    let whole = request.uri().path().to_owned();
    let repository = shared.repositories.get().zip(git::Asked::of(&request));
    if let Some(((root, token), asked)) = repository {
        let body = read(request, number, &shared).await;
        return git::serve(asked, body, root, token).await;
    }
    let path = whole.as_str();
    let path = path.rsplit_once("/lab/").map_or(path, |(_, rest)| rest);
    let query = Query(request.uri().query().unwrap_or_default().to_owned());
    let (kind, argument) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    let count = argument.parse().unwrap_or(0_u64);
    if request.headers().contains_key("sec-websocket-key") && path == "/v1/responses" {
        let mut refusal = Response::new(Frames::full("no WebSockets here\n"));
        *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
        let refuses = shared.refuses_websockets.load(Ordering::SeqCst);
        return if refuses { refusal } else { websocket::upgrade(request, &shared) };
    }
    match kind {
        "ws" => return websocket::upgrade(request, &shared),
        "early" => {
            let mut response = Response::new(Frames::full("early\n"));
            *response.status_mut() =
                StatusCode::from_u16(argument.parse().unwrap_or(200)).unwrap_or_default();
            return response;
        }
        "eager" => {
            tokio::spawn(async move { read(request, number, &shared).await });
            return Response::new(Frames::full("eager\n"));
        }
        "hang" => {
            // Dropped with the connection or the stream, when the client has gone.
            let _vanished = Vanished(shared.clone());
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let described = describe(&request);
    let echoed = head(&request);
    let host = host(&request);
    let body = read(request, number, &shared).await;
    if let Some(response) =
        file(&whole, &shared).or_else(|| api::answer(&host, &whole, &body, &shared))
    {
        return response;
    }
    match kind {
        "echo" => echo(echoed, body, &query).await,
        "bytes" => Response::new(Frames::pattern(count)),
        "events" => events(count, &query, shared),
        "gated" => gated(shared),
        "said" => said((count > 0).then_some(count), query.get("encoding").is_some(), &shared),
        "cut" => Response::new(Frames::fed(Some(2 * count), move |feed| async move {
            feed.data(vec![b'x'; usize::try_from(count).unwrap_or(0)]).await;
            // Data that is still buffered when the body fails would be lost.
            tokio::time::sleep(Duration::from_millis(100)).await;
            feed.abort().await;
        })),
        "status" => {
            let status = argument.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
            let mut response = Response::new(Frames::full(format!("status {argument}\n")));
            *response.status_mut() = status.unwrap_or(StatusCode::BAD_REQUEST);
            response
        }
        "redirect" => {
            let mut response = Response::new(Frames::full("elsewhere\n"));
            *response.status_mut() = argument
                .parse()
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok())
                .unwrap_or_default();
            if let Some(url) =
                query.get("to").and_then(|url| http::HeaderValue::from_str(&url).ok())
            {
                response.headers_mut().insert("location", url);
            }
            response
        }
        "late" => {
            tokio::time::sleep(Duration::from_millis(count)).await;
            Response::new(Frames::full("late\n"))
        }
        "drip" => Response::new(Frames::fed(None, |feed| async move {
            while feed.data("drop\n").await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            shared.vanished.fetch_add(1, Ordering::SeqCst);
        })),
        "upload" => {
            let text = format!(
                "{} {}\n",
                body.len(),
                hex(digest::digest(&digest::SHA256, &body).as_ref())
            );
            Response::new(Frames::full(text))
        }
        "trailers" => trailers(),
        "set" => set(&query),
        _ => {
            let mut response = Response::new(Frames::full(described));
            response
                .headers_mut()
                .insert("content-type", http::HeaderValue::from_static("application/json"));
            response
        }
    }
}

struct Vanished(Arc<Shared>);

impl Drop for Vanished {
    fn drop(&mut self) {
        self.0.vanished.fetch_add(1, Ordering::SeqCst);
    }
}

/// The query of a request: `NAME=VALUE` pairs, percent-escapes of values decoded.
struct Query(String);

impl Query {
    fn pairs(&self) -> impl Iterator<Item = (&str, String)> {
        self.0
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name, unescaped(value)))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let decoded =
            escape.filter(|_| *first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the body, keeping at most 16 MiB of it, and records its length, hash and trailers.
async fn read(request: Request<Incoming>, number: usize, shared: &Shared) -> Vec<u8> {
    const KEPT: usize = 16 << 20;
    // hyper tells of the end of a body that outlasts its answer with the next request only.
    let announced = (request.version() <= Version::HTTP_11)
        .then(|| request.headers().get("content-length")?.to_str().ok()?.parse().ok())
        .flatten();
    let mut body = request.into_body();
    let mut kept = Vec::new();
    let mut hash = digest::Context::new(&digest::SHA256);
    let (mut length, mut trailers) = (0, vec![]);
    while announced != Some(length)
        && let Some(frame) = body.frame().await
    {
        // A body that the client aborted has no end in the records.
        let Ok(frame) = frame else { return kept };
        match frame.into_data() {
            Ok(data) => {
                length += data.len() as u64;
                hash.update(&data);
                if kept.len() + data.len() <= KEPT {
                    kept.extend_from_slice(&data);
                }
            }
            Err(frame) => trailers.extend(frame.into_trailers().iter().flat_map(pairs)),
        }
    }
    shared.records.end(number, length, hex(hash.finish().as_ref()), trailers);
    kept
}

fn head<B>(request: &Request<B>) -> String {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in pairs(request.headers()) {
        text.push_str(&format!("{name}: {value}\n"));
    }
    text + "\n"
}

fn file(path: &str, shared: &Shared) -> Option<Response<Frames>> {
    let files = shared.files.lock().expect("no test thread panicked");
    let (kind, content) = files.get(path)?;
    let mut response = Response::new(Frames::full(content.clone()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    Some(response)
}

pub(super) fn host<B>(request: &Request<B>) -> String {
    let host = request.headers().get("host").and_then(|value| value.to_str().ok());
    request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or(host)
        .unwrap_or_default()
        .to_owned()
}

fn describe<B>(request: &Request<B>) -> String {
    let host = host(request);
    let method = request.method().as_str();
    let path = request.uri().path();
    format!(
        "{}\n",
        serde_json::json!({"origin": "saw it", "host": host, "method": method, "path": path})
    )
}

async fn echo(head: String, body: Vec<u8>, query: &Query) -> Response<Frames> {
    let auth: String = head.lines().filter(|line| line.starts_with("authorization:")).collect();
    let auth =
        http::HeaderValue::from_str(&auth).unwrap_or(http::HeaderValue::from_static("unprintable"));
    let mut bytes = head.into_bytes();
    bytes.extend(body);
    let mut encoding = None;
    if let Some(name) = query.get("encoding") {
        // Enough text to make the encoders compress, with the key in it.
        bytes = bytes.repeat(20);
        bytes = encoded(&name, bytes).await;
        encoding = http::HeaderValue::from_str(&name).ok();
    }
    let mut response = match query.get("in").as_deref() {
        Some("header") => {
            let mut response = Response::new(Frames::full("in a header\n"));
            response.headers_mut().insert("x-echo", auth);
            return response;
        }
        Some("location") => {
            let mut response = Response::new(Frames::full("moved\n"));
            *response.status_mut() = StatusCode::FOUND;
            let target = auth.to_str().unwrap_or_default().replace([' ', ':'], "");
            let target =
                http::HeaderValue::from_str(&format!("/next?key={target}")).expect("visible ASCII");
            response.headers_mut().insert("location", target);
            return response;
        }
        Some("trailer") => {
            let mut response = Response::new(Frames::fed(None, |feed| async move {
                feed.data("in a trailer\n").await;
                feed.trailers(http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-echo"),
                    auth,
                )]))
                .await;
            }));
            response.headers_mut().insert("trailer", http::HeaderValue::from_static("x-echo"));
            return response;
        }
        // One frame per byte, so that every boundary within the key occurs.
        Some("bytes") => Response::new(Frames::fed(None, |feed| async move {
            for byte in bytes {
                if !feed.data(vec![byte]).await {
                    return;
                }
            }
        })),
        _ => Response::new(Frames::full(bytes)),
    };
    if let Some(encoding) = encoding {
        response.headers_mut().insert("content-encoding", encoding);
    }
    response
}

async fn encoded(encoding: &str, bytes: Vec<u8>) -> Vec<u8> {
    macro_rules! with {
        ($encoder:ident) => {{
            let mut encoder = $encoder::new(Vec::new());
            encoder.write_all(&bytes).await.expect("memory takes it");
            encoder.shutdown().await.expect("memory takes it");
            encoder.into_inner()
        }};
    }
    match encoding {
        "gzip" => with!(GzipEncoder),
        "br" => with!(BrotliEncoder),
        "deflate" => with!(ZlibEncoder),
        "zstd" => with!(ZstdEncoder),
        _ => bytes,
    }
}

fn events(count: u64, query: &Query, shared: Arc<Shared>) -> Response<Frames> {
    let interval = query.get("interval_ms").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut response = Response::new(Frames::fed(None, move |feed| async move {
        for event in 0..count {
            if !feed.data(format!("id: {event}\ndata: event {event}\n\n")).await {
                shared.vanished.fetch_add(1, Ordering::SeqCst);
                return;
            }
            tokio::time::sleep(Duration::from_millis(interval)).await;
        }
    }));
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/event-stream"));
    response
}

fn gated(shared: Arc<Shared>) -> Response<Frames> {
    let mut response = Response::new(Frames::fed(None, |feed: Feed| async move {
        feed.data("data: first\n\n").await;
        let opened = tokio::time::timeout(GATE, shared.gate.notified()).await;
        feed.data(if opened.is_ok() { "data: last\n\n" } else { "data: the gate stayed shut\n\n" })
            .await;
    }));
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/event-stream"));
    response
}

/// What the test says, as long as it is not over.
pub(super) async fn hear(heard: &mut watch::Receiver<Vec<Bytes>>, number: usize) -> Option<Bytes> {
    let said = heard.wait_for(|said| said.len() > number).await.ok()?;
    Some(said[number].clone()).filter(|piece| !piece.is_empty())
}

fn said(length: Option<u64>, gzip: bool, shared: &Shared) -> Response<Frames> {
    let mut heard = shared.said.subscribe();
    let mut response = Response::new(Frames::fed(length, move |feed| async move {
        let mut encoder = GzipEncoder::new(Vec::new());
        let mut number = 0;
        while let Some(mut piece) = hear(&mut heard, number).await {
            number += 1;
            if gzip {
                encoder.write_all(&piece).await.expect("memory takes it");
                encoder.flush().await.expect("memory takes it");
                piece = std::mem::take(encoder.get_mut()).into();
            }
            if !feed.data(piece).await {
                return;
            }
        }
        if gzip {
            encoder.shutdown().await.expect("memory takes it");
            feed.data(encoder.into_inner()).await;
        }
    }));
    let kind = http::HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", kind);
    if gzip {
        let gzip = http::HeaderValue::from_static("gzip");
        response.headers_mut().insert("content-encoding", gzip);
    }
    response
}

fn trailers() -> Response<Frames> {
    let mut response = Response::new(Frames::fed(None, |feed| async move {
        feed.data("body before trailers\n").await;
        let mut fields = http::HeaderMap::new();
        fields.insert("grpc-status", http::HeaderValue::from_static("0"));
        fields.insert("grpc-message", http::HeaderValue::from_static("done"));
        feed.trailers(fields).await;
    }));
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("trailer", http::HeaderValue::from_static("grpc-status, grpc-message"));
    response
}

fn set(query: &Query) -> Response<Frames> {
    let mut response = Response::new(Frames::full("fields set\n"));
    for (name, value) in query.pairs() {
        let name = http::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_str(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
