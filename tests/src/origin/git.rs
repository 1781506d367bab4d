//! Real repositories over HTTP: git's `http-backend` behind a small CGI bridge (RFC 3875), with
//! GitHub's paths (`/OWNER/NAME.git/…`) and only Basic authentication as `x-access-token`.

use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::body::Frames;

/// The longest path that the bridge accepts.
const PATH: usize = 4096;

/// The parts of a request that the backend gets.
#[derive(Debug)]
pub(super) struct Asked {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
}

impl Asked {
    /// Takes the parts of a request, if it is for a repository.
    pub(super) fn of<B>(request: &http::Request<B>) -> Option<Asked> {
        let path = request.uri().path();
        (path.len() < PATH && path.contains(".git/")).then(|| Asked {
            method: request.method().to_string(),
            path: path.to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
        })
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The password given to `x-access-token`.
    fn token(&self) -> Option<String> {
        let encoded = self.header("authorization").strip_prefix("Basic ")?;
        let pair = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        pair.strip_prefix("x-access-token:").map(str::to_owned)
    }
}

/// Serves one request from the repositories below `root`, if it carries `token`.
pub(super) async fn serve(
    asked: Asked,
    body: Vec<u8>,
    root: &Path,
    token: &str,
) -> Response<Frames> {
    if asked.token().as_deref() != Some(token) {
        let mut refused = Response::new(Frames::full("Basic authentication is needed\n"));
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        refused.headers_mut().insert(
            "www-authenticate",
            HeaderValue::from_static("Basic realm=\"the lab's repositories\""),
        );
        return refused;
    }
    match backend(&asked, body, root).await {
        Ok(answer) => parse(&answer),
        Err(error) => failed(&format!("git http-backend: {error}")),
    }
}

async fn backend(asked: &Asked, body: Vec<u8>, root: &Path) -> std::io::Result<Vec<u8>> {
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        // Accept repositories that another user owns.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REMOTE_USER", "x-access-token")
        .env("REQUEST_METHOD", &asked.method)
        .env("PATH_INFO", &asked.path)
        .env("QUERY_STRING", &asked.query)
        .env("CONTENT_TYPE", asked.header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", asked.header("content-encoding"))
        .env("GIT_PROTOCOL", asked.header("git-protocol"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut input = child.stdin.take().ok_or_else(|| std::io::Error::other("no standard input"))?;
    let feeding = tokio::spawn(async move {
        // A backend that has read enough may close the pipe.
        let _ = input.write_all(&body).await;
    });
    let output = child.wait_with_output().await?;
    let _ = feeding.await;
    Ok(output.stdout)
}

/// The CGI answer: fields, an empty line, the body.
fn parse(answer: &[u8]) -> Response<Frames> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return failed("git http-backend answered nothing");
    };
    let mut response = Response::new(Frames::full(answer[end + 4..].to_vec()));
    for line in String::from_utf8_lossy(&answer[..end]).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse().ok());
            *response.status_mut() = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        } else if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn failed(message: &str) -> Response<Frames> {
    let mut response = Response::new(Frames::full(format!("{message}\n")));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
