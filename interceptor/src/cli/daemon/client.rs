//! HTTP/1.1 over the control socket.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::problem::DaemonProblem;
use super::spoken::Spoken;
use crate::control::{self, Process};

/// The largest response accepted, in bytes.
const LONGEST: usize = 64 << 20;
/// Time limit for a response to begin and, except for event streams, to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait before each further attempt to connect.
const AGAIN: Duration = Duration::from_millis(20);

/// Why a request to the daemon failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ApiError {
    /// Nothing answers at the socket.
    #[error("cannot reach the daemon at {path}: {cause}{remedy}", path = path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The daemon belongs to another user.
    #[error("the daemon at {path} hung up: only root and the user it runs as may use it: try sudo",
        path = path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
    },
    /// Who listens there is not whom it should be.
    #[error("nothing was asked at {path}: who listens there {why}", path = path.display())]
    Impostor {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The daemon's response is malformed or cut off.
    #[error("the daemon at {path} gave an unexpected answer: {what}", path = path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(Box<DaemonProblem>),
    /// The response cannot be printed.
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// A control socket.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Address {
    /// Its path.
    pub(in crate::cli) path: PathBuf,
    /// Whether a run should listen there: root, outside every sandbox. The directory is its user's.
    pub(in crate::cli) is_run: bool,
}

/// A successful response.
#[derive(Debug)]
pub(in crate::cli) struct ApiResponse {
    /// Its body.
    pub(in crate::cli) body: Bytes,
    /// The user who answered.
    pub(in crate::cli) by: u32,
}

/// The user who answered, in the extensions of a response.
#[derive(Clone, Copy, Debug)]
struct AnsweredBy(u32);

/// A request.
#[derive(Debug)]
pub(in crate::cli) struct ApiRequest {
    /// The method.
    pub(in crate::cli) method: Method,
    /// The path, with a query or without.
    pub(in crate::cli) path: String,
    /// The body and its media type.
    pub(in crate::cli) body: Option<(&'static str, Vec<u8>)>,
}

impl ApiRequest {
    /// A GET.
    pub(in crate::cli) fn get(path: impl Into<String>) -> ApiRequest {
        ApiRequest { method: Method::GET, path: path.into(), body: None }
    }
}

/// Sends a request and reads the whole response.
pub(in crate::cli) async fn ask(
    socket: &Address,
    question: ApiRequest,
) -> Result<ApiResponse, ApiError> {
    let malformed = |what: String| ApiError::Malformed { path: socket.path.clone(), what };
    let late = || malformed(format!("no answer within {} seconds", PATIENCE.as_secs()));
    let answer = begin(socket, question).await?;
    let by = answer.extensions().get::<AnsweredBy>().map_or(u32::MAX, |by| by.0);
    let body = Limited::new(answer.into_body(), LONGEST).collect();
    let body = tokio::time::timeout(PATIENCE, body).await.map_err(|_| late())?;
    let body = body.map_err(|error| malformed(error.to_string()))?.to_bytes();
    Ok(ApiResponse { body, by })
}

/// Connects, waiting if the listen queue is full.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let late = tokio::time::Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket).await {
            // A full queue (connect(2)). A blocking connect would hold this process up for as long
            // as the daemon is stopped.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected,
        }
        if tokio::time::Instant::now() > late {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The user who listens at the other end, if it is whom the address says.
///
/// # Errors
/// Else.
fn server(stream: &UnixStream, socket: &Address) -> Result<u32, ApiError> {
    let impostor = |why| ApiError::Impostor { path: socket.path.clone(), why };
    let credentials = stream.peer_cred().map_err(|cause| unreachable(&socket.path, cause))?;
    // The kernel noted both when the socket began to listen.
    let process = Process::of(stream, credentials.pid().filter(|pid| *pid > 0)).ok();
    let place = process.as_ref().and_then(control::is_in_sandbox);
    if place == Some(true) {
        return Err(impostor("is in a sandbox"));
    }
    if socket.is_run && credentials.uid() != 0 {
        return Err(impostor("is not root, as a run is"));
    }
    if socket.is_run && process.is_none() {
        return Err(impostor("has exited"));
    }
    Ok(credentials.uid())
}

/// Sends a request and waits for the head of a successful response.
pub(in crate::cli) async fn begin(
    address: &Address,
    question: ApiRequest,
) -> Result<Response<Incoming>, ApiError> {
    let socket = address.path.as_path();
    let malformed = |what: String| ApiError::Malformed { path: socket.to_owned(), what };
    let stream = connect(socket).await.map_err(|cause| unreachable(socket, cause))?;
    let by = server(&stream, address)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(Spoken::over(stream)))
        .await
        .map_err(|error| malformed(error.to_string()))?;
    // Ends with the connection; errors reach the waiting request.
    tokio::spawn(connection);
    let mut request =
        Request::builder().method(question.method).uri(&question.path).header("host", "localhost");
    let body = match question.body {
        Some((kind, body)) => {
            request = request.header("content-type", kind);
            Bytes::from(body)
        }
        None => Bytes::new(),
    };
    let request = request.body(Full::new(body)).map_err(|error| malformed(error.to_string()))?;
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    let mut answer = answer
        .map_err(|_| malformed(format!("no answer within {} seconds", PATIENCE.as_secs())))?
        .map_err(|error| match is_ours(socket) {
            true => malformed(error.to_string()),
            false => ApiError::Foreign { path: socket.to_owned() },
        })?;
    if answer.status().is_success() {
        answer.extensions_mut().insert(AnsweredBy(by));
        return Ok(answer);
    }
    let status: StatusCode = answer.status();
    // If the body cannot be read, the status remains.
    let body = Limited::new(answer.into_body(), LONGEST).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    Err(ApiError::Refused(Box::new(DaemonProblem::read(status, &body).at(&question.path))))
}

/// Whether this user may use the daemon: root or the socket's owner.
fn is_ours(socket: &Path) -> bool {
    let user = nix::unistd::geteuid();
    user.is_root()
        || std::fs::metadata(socket).is_ok_and(|metadata| metadata.uid() == user.as_raw())
}

fn unreachable(socket: &Path, cause: io::Error) -> ApiError {
    let remedy = match cause.kind() {
        io::ErrorKind::NotFound => {
            "; start it with `interceptor serve`, or name its socket with --control"
        }
        io::ErrorKind::PermissionDenied => {
            "; only root and the user that the daemon runs as may use it: try sudo"
        }
        io::ErrorKind::ConnectionRefused => {
            "; the daemon exited and left its socket behind: restart it with `interceptor serve`"
        }
        io::ErrorKind::TimedOut => "; it accepts no connections: it may be stopped",
        _ => "",
    };
    ApiError::Unreachable { path: socket.to_owned(), cause, remedy }
}
