//! One connection from the sandbox, HTTP/1.1 or HTTP/2, served until it ends. `super::serve`
//! handles its requests.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use http::{Response, StatusCode};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use interceptor_policy::{Limits, Reason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::aside::Aside;
use super::context::{Context, STREAMS, count, most};
use super::frames::{Frames, Tally, Unfinished};
use super::rest::{Counted, Home};
use super::serve::handle;
use super::stall::Stall;
use super::strict::{Ceilings, Strict};
use super::unserved::{Cut, Watch, explain};
use crate::proxy::Sandbox;

/// HTTP/2 flow-control windows towards the sandbox: how much it may send before we read.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Maximum bytes waiting to be written per HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;
/// How far beyond `limits.header_bytes` h2 still passes on an HTTP/2 head, so that its record has a
/// method and path. h2 skips up to four times as much and then closes the connection; `frames`
/// explains both. An incomplete head can cost this sum in bytes plus, in fields of 33 bytes each,
/// two to four times as much in table entries: about 2 MB.
const HEAD_MARGIN: u32 = 448 * 1024;
/// How long an idle HTTP/2 connection may take to end after its GOAWAY.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long an idle connection may wait for a request once another process serves new connections.
/// Closing it at once would lose a request already on its way.
const LAST_REQUEST: Duration = Duration::from_secs(5);

/// Serves HTTP/1.1 until the connection ends. `first` holds bytes already read from it.
///
/// What it needs is made here rather than in the future, which then is small while it waits: a
/// future keeps room for its arguments besides what is made of them.
pub(crate) fn h1<S>(
    stream: S,
    first: BytesMut,
    mut context: Context,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = context.limits;
    let stream = Stall::new(stream, limits.idle_timeout, context.activity.clone()).beating();
    let (stream, notes) = Strict::new(stream, first, ceilings(context.sandbox.clone(), limits));
    context.notes = Some(notes.clone());
    let context = Arc::new(context);
    let over = context.over.clone().drop_guard();
    let ends = Aside::new(idle_or_ordered(context.clone()));
    // Boxed, because it is moved to hyper and back.
    let (stream, cut) = (Box::new(stream), Cut { context, notes });
    async move {
        let (_over, cut) = (over, cut);
        tokio::select! {
            biased;
            ended = served(stream, &cut.context) => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            },
            () = ends => return,
        }
        // A connection that has become a WebSocket keeps its place and its time limits.
        let switched = cut.context.switched.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(switched) = switched {
            let _ = switched.await; // its record says how it ended
        }
    }
}

/// Waits until an HTTP/1.1 connection must end: it was silent for too long, or is ordered to.
async fn idle_or_ordered(context: Arc<Context>) {
    tokio::select! {
        () = context.activity.silence(context.limits.idle_timeout) => {
            context.activity.end(Reason::IdleTimeout);
            tracing::debug!("a connection was silent for limits.idle_timeout_seconds");
        }
        () = ordered_to_end(context.sandbox.stopping(), context.close.clone()) => {}
    }
}

/// Serves the requests of an HTTP/1.1 connection. hyper's state exists only while a request is in
/// progress.
async fn served<S>(mut stream: Box<Strict<Stall<S>>>, context: &Arc<Context>) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (home, drain) = (Home::new(), context.sandbox.draining());
    // While the process drains, each response says that it is the last on its connection: see
    // `handle`.
    let mut silent = std::pin::pin!(async {
        drain.cancelled().await;
        tokio::time::sleep(LAST_REQUEST).await;
    });
    let mut is_told = false;
    loop {
        let (asked, open) = (context.clone(), home.clone());
        // Boxed, so that hyper reserves only a pointer for it while no request is in progress.
        let service = service_fn(move |request| {
            let (context, open) = (asked.clone(), open.open());
            Box::pin(async move {
                let answered = handle(context, request).await;
                answered.map(|response| response.map(|body| Counted { body, _open: open }))
            })
        });
        let lent = TokioIo::new(home.lend(stream));
        let mut connection = Box::pin(
            http1_builder(&context.limits).serve_connection(lent, service).with_upgrades(),
        );
        if is_told {
            connection.as_mut().graceful_shutdown();
            return connection.await;
        }
        let still = Aside::new(async {
            tokio::select! {
                () = silent.as_mut() => true,
                () = home.rest(&context.activity) => false,
            }
        });
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            is_last = still => if is_last {
                connection.as_mut().graceful_shutdown();
                return connection.await;
            }
        }
        let Some(mut idle) = home.take_back(connection) else { return Ok(()) };
        context.sandbox.tidy.rested();
        tokio::select! {
            begun = poll_fn(|cx| idle.poll_begun(cx)) => if let Err(error) = begun {
                tracing::debug!(%error, "an idle connection ended");
                return Ok(());
            },
            () = silent.as_mut() => is_told = true,
        }
        stream = idle;
    }
}

/// Configures hyper for an HTTP/1.1 connection that began with these limits.
fn http1_builder(limits: &Limits) -> http1::Builder {
    let (most_bytes, most_headers) = most(limits);
    let mut builder = http1::Builder::new();
    builder
        // The filter limits how long a head may take, and `Activity::silence` how long a connection
        // may be idle between requests.
        .header_read_timeout(None)
        .max_headers(count(most_headers).saturating_add(1))
        .max_header_size(count(most_bytes).saturating_add(1024));
    builder
}

/// The limits on heads, for a connection that began with these limits. Read for each head, so that
/// a new policy applies to open connections too.
fn ceilings(sandbox: Arc<Sandbox>, began: Limits) -> impl Fn() -> Ceilings {
    let (most_bytes, most_headers) = most(&began);
    move || {
        let limits = sandbox.limits();
        Ceilings {
            head_bytes: count(limits.header_bytes.min(most_bytes)),
            headers: count(limits.headers.min(most_headers)),
            time: limits.header_timeout,
        }
    }
}

/// Serves HTTP/2 until the connection ends. As [`h1`], it makes what it needs beforehand.
pub(crate) fn h2<S>(stream: S, context: Context) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = context.limits;
    let (most_bytes, _) = most(&limits);
    let outdated = context.outdated.clone();
    let context = Arc::new(context);
    let drain = context.sandbox.draining();
    let ends = Aside::new(ordered_to_end(context.sandbox.stopping(), context.close.clone()));
    let streams = Streams::new(context.sandbox.clone());
    let (activity, idle) = (context.activity.clone(), limits.idle_timeout);
    let begun = CancellationToken::new();
    let (first, is_begun) = (begun.clone(), AtomicBool::new(false));
    let tally = Tally::default();
    let stream = watched(Stall::new(stream, idle, activity.clone()), &context, &tally);
    let watch = Watch::new(context.clone(), tally.clone());
    let service = service_fn(move |request| {
        if !is_begun.swap(true, Ordering::Relaxed) {
            first.cancel();
        }
        tally.served();
        // Boxed, because a stream moves several times on its way to its task.
        Box::pin(tallied(tally.clone(), handle(context.clone(), request)))
    });
    let connection = Box::pin(
        http2_builder(streams, most_bytes).serve_connection(TokioIo::new(stream), service),
    );
    let mut told = Aside::new(told_to_end(drain, outdated, begun));
    let is_silent = activity.clone();
    // PING acknowledgements move bytes but prove nothing, and a closed window moves none, so only
    // activity within streams counts. A stream that waits for its origin has its own time limit.
    let mut silent = Aside::new(async move { is_silent.silence(idle).await });
    async move {
        let (mut watch, mut connection) = (watch, connection);
        let served = async {
            let mut is_told = false;
            loop {
                let watched = poll_fn(|cx| watch.watch(cx, |cx| connection.as_mut().poll(cx)));
                tokio::select! {
                    biased;
                    ended = watched => return ended,
                    // Streams that the client opens before it reads the GOAWAY are served too (RFC
                    // 9113 section 6.8).
                    () = &mut told, if !is_told => {
                        is_told = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = &mut silent => {
                        tracing::debug!("a connection was silent for limits.idle_timeout_seconds");
                        activity.end(Reason::IdleTimeout);
                        connection.as_mut().graceful_shutdown();
                        let ended = tokio::time::timeout(FAREWELL, connection.as_mut()).await;
                        return ended.unwrap_or(Ok(())); // anything left by then is cut off
                    }
                }
            }
        };
        tokio::select! {
            biased;
            ended = served => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            },
            () = ends => {}
        }
    }
}

/// Tells the watch of the frames of an error before the client can know of it.
async fn tallied<B, E>(
    tally: Tally,
    answered: impl Future<Output = Result<Response<B>, E>>,
) -> Result<Response<B>, E> {
    let answered = answered.await;
    let is_error = |status: StatusCode| status.is_client_error() || status.is_server_error();
    if answered.as_ref().is_ok_and(|answer| is_error(answer.status())) {
        tally.errs();
    }
    answered
}

/// Waits until an HTTP/2 connection must say that its requests are the last: another process serves
/// the sandbox, or its limits are outdated. hyper closes the connection without a GOAWAY if no
/// request has `begun` yet.
async fn told_to_end(
    drain: CancellationToken,
    outdated: CancellationToken,
    begun: CancellationToken,
) {
    tokio::select! {
        () = drain.cancelled() => {}
        () = outdated.cancelled() => return,
    }
    let _ = tokio::time::timeout(LAST_REQUEST, begun.cancelled()).await;
}

/// Waits until the connection must end because the sandbox does or a new policy says so.
async fn ordered_to_end(stop: CancellationToken, close: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = close.cancelled() => {
            tracing::debug!("a connection was closed: a new policy does not permit its host");
        }
    }
}

/// Watches the frames of an HTTP/2 connection.
fn watched<S>(stream: S, context: &Arc<Context>, tally: &Tally) -> Frames<S> {
    let (places, time) = (context.sandbox.heads.clone(), context.limits.header_timeout);
    let unfinished = Unfinished::new(places, time, context.activity.clone());
    Frames::new(stream, tally.clone(), unfinished, explain(context.clone()))
}

/// Configures hyper for an HTTP/2 connection with heads of at most `most_bytes`.
fn http2_builder(streams: Streams, most_bytes: u64) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(
            u32::try_from(most_bytes).unwrap_or(u32::MAX).saturating_add(HEAD_MARGIN),
        )
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(30));
    builder
}

/// Runs the streams of an HTTP/2 connection as tasks of the sandbox. They end with the sandbox,
/// which waits for them, so that each is recorded.
#[derive(Clone)]
struct Streams {
    sandbox: Arc<Sandbox>,
    /// The connection's own: one for all connections would be locked by all at once.
    stop: Arc<CancellationToken>,
}

impl Streams {
    fn new(sandbox: Arc<Sandbox>) -> Streams {
        let stop = Arc::new(sandbox.stopping().child_token());
        Streams { sandbox, stop }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let stop = self.stop.clone();
        self.sandbox.tasks.spawn(async move {
            tokio::select! {
                biased;
                _ = stream => {}
                () = stop.cancelled() => {}
            }
        });
    }
}
