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

use super::problem::Problem;

/// The longest answer that is taken, in bytes.
const LONGEST: usize = 64 << 20;
/// How long an answer may take to begin and, but for event streams, to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Failure {
    /// Nobody answers at the socket.
    #[error("cannot reach the daemon at {path}: {cause}{remedy}", path = path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The daemon is another user's.
    #[error("the daemon at {path} hung up: only root and the user that it runs as may speak with it: try sudo",
        path = path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon does not speak as it should, or no more.
    #[error("the daemon at {path} gave an unexpected answer: {what}", path = path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
        /// In which way.
        what: String,
    },
    /// The daemon refuses.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// What came cannot be printed.
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// An answer that is no refusal.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its body.
    pub(super) body: Bytes,
}

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    /// The method.
    pub(super) method: Method,
    /// The path, with a query or without.
    pub(super) path: String,
    /// A body and its type.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
}

impl Question {
    /// A GET.
    pub(super) fn get(path: impl Into<String>) -> Question {
        Question { method: Method::GET, path: path.into(), body: None }
    }
}

/// Asks, and waits for the whole answer.
pub(super) async fn ask(socket: &Path, question: Question) -> Result<Answer, Failure> {
    let strange = |what: String| Failure::Strange { path: socket.to_owned(), what };
    let late = || strange(format!("no answer within {} seconds", PATIENCE.as_secs()));
    let answer = begin(socket, question).await?;
    let body = Limited::new(answer.into_body(), LONGEST).collect();
    let body = tokio::time::timeout(PATIENCE, body).await.map_err(|_| late())?;
    let body = body.map_err(|error| strange(error.to_string()))?.to_bytes();
    Ok(Answer { body })
}

/// Connects; where many others are before us, waits for its turn.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let socket = socket.to_owned();
    // One that does not block fails at once where the queue is full (connect(2), EAGAIN).
    let connecting = tokio::task::spawn_blocking(move || {
        let stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    let connected = connecting.await.map_err(io::Error::other)?;
    connected.and_then(UnixStream::from_std)
}

/// Asks, and waits for the beginning of an answer that is no refusal.
pub(super) async fn begin(socket: &Path, question: Question) -> Result<Response<Incoming>, Failure> {
    let strange = |what: String| Failure::Strange { path: socket.to_owned(), what };
    let stream = connect(socket).await.map_err(|cause| unreachable(socket, cause))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| strange(error.to_string()))?;
    // It ends with the connection; what goes wrong is seen by the one who waits for the answer.
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
    let request = request.body(Full::new(body)).map_err(|error| strange(error.to_string()))?;
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    let answer = answer
        .map_err(|_| strange(format!("no answer within {} seconds", PATIENCE.as_secs())))?
        .map_err(|error| match is_ours(socket) {
            true => strange(error.to_string()),
            false => Failure::Foreign { path: socket.to_owned() },
        })?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status: StatusCode = answer.status();
    // What cannot be read of a refusal leaves its status.
    let body = Limited::new(answer.into_body(), LONGEST).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    Err(Failure::Refused(Box::new(Problem::read(status, &body).at(&question.path))))
}

/// Whether this user may speak with the daemon: root, and who owns its socket.
fn is_ours(socket: &Path) -> bool {
    let user = nix::unistd::geteuid();
    user.is_root() || std::fs::metadata(socket).is_ok_and(|metadata| metadata.uid() == user.as_raw())
}

fn unreachable(socket: &Path, cause: io::Error) -> Failure {
    let remedy = match cause.kind() {
        io::ErrorKind::NotFound => "; start it with `interceptor serve`, or name its socket with --control",
        io::ErrorKind::PermissionDenied => {
            "; only root and the user that the daemon runs as may speak with it: try sudo"
        }
        io::ErrorKind::ConnectionRefused => {
            "; the daemon has ended and left its socket behind: start it again with `interceptor serve`"
        }
        _ => "",
    };
    Failure::Unreachable { path: socket.to_owned(), cause, remedy }
}
