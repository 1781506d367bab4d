//! Clients of other projects: wrk and h2load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::Done;
use super::connection::Target;
use crate::world::HOST;

/// The time limit.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(target: Arc<Target>, command: Vec<String>, h2: bool) -> Result<Done> {
    // In the sandbox every name uses the usual port.
    let port = match target.way().to {
        None => 443,
        Some(_) if !target.way().connect => target.address(HOST, h2).await?.port(),
        // These clients do not support CONNECT.
        Some(_) => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            tokio::spawn(relay(target.clone(), listener, h2));
            port
        }
    };
    let fill = |word: &String| {
        word.replace("{PORT}", &port.to_string()).replace("{KEY}", &target.authorization)
    };
    let words: Vec<String> = command.iter().map(fill).collect();
    let (program, arguments) = words.split_first().context("no command")?;
    let began = Instant::now();
    let output = Command::new(program).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.context("it does not end")??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}: {error}{text}", output.status);
    Ok(Done { output: text, seconds: began.elapsed().as_secs_f64(), ..Done::default() })
}

/// Sends CONNECT on behalf of its clients. It is part of the load, not of the contender.
async fn relay(target: Arc<Target>, listener: TcpListener, h2: bool) -> Result<()> {
    let to = target.address(HOST, h2).await?;
    loop {
        let (mut client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        let target = target.clone();
        tokio::spawn(async move {
            let mut proxy = target.tcp(HOST, to).await?;
            copy_bidirectional(&mut client, &mut proxy).await?;
            anyhow::Ok(())
        });
    }
}
