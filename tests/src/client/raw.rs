//! Sends standard input verbatim to an address, over TLS if a name is given, and prints the answer
//! until the other side closes or five seconds have passed. Exit status 7: no connection; 35: no
//! TLS; 28: the other side never closed.

use std::ffi::OsString;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::tls;

/// How long the other side may take to close.
const PATIENCE: Duration = Duration::from_secs(5);

/// `raw HOST:PORT [SNI]`.
///
/// # Errors
/// If the arguments are wrong or a standard stream fails.
pub fn main(arguments: &[OsString]) -> Result<ExitCode> {
    let text = |index: usize| arguments.get(index).and_then(|argument| argument.to_str());
    let to = text(0).context("HOST:PORT is missing")?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = match tls::connect(to).await {
            Ok(stream) => stream,
            Err(error) => return failed(7, &error),
        };
        match text(1) {
            None => exchange(stream, &bytes).await,
            Some(sni) => match tls::handshake(stream, sni, &["http/1.1".to_owned()]).await {
                Ok(stream) => exchange(stream, &bytes).await,
                Err(error) => failed(35, &error),
            },
        }
    })
}

fn failed(status: u8, error: &anyhow::Error) -> Result<ExitCode> {
    eprintln!("{error:#}");
    Ok(ExitCode::from(status))
}

async fn exchange(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> Result<ExitCode> {
    let (mut read, mut write) = tokio::io::split(stream);
    let exchanging = async {
        // The other side may close before it has read everything; its output until then counts.
        let _ = write.write_all(bytes).await;
        let _ = write.flush().await;
        let mut stdout = tokio::io::stdout();
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            stdout.write_all(&buffer[..length]).await?;
            stdout.flush().await?;
        }
        anyhow::Ok(ExitCode::SUCCESS)
    };
    match tokio::time::timeout(PATIENCE, exchanging).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(ExitCode::from(28)),
    }
}
