//! Large bodies, down or up, each on a connection or a stream of its own.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use super::Done;
use super::connection::{Sender, Target};
use crate::world::HOST;

pub(super) async fn run(
    target: Arc<Target>,
    path: String,
    up: Option<u64>,
    h2: bool,
    streams: usize,
) -> Result<Done> {
    let mut senders = Vec::new();
    for _ in 0..streams {
        let sender = match senders.last() {
            Some(Sender::H2(sender)) => Sender::H2(sender.clone()),
            _ => target.connection(h2).await?,
        };
        senders.push(sender);
    }
    let began = Instant::now();
    let mut workers = Vec::new();
    for (number, mut sender) in senders.into_iter().enumerate() {
        let target = target.clone();
        // Concurrent uploads must not write to one file.
        let path = if up.is_some() { format!("{path}{number}") } else { path.clone() };
        workers.push(tokio::spawn(async move {
            let down = target.fetch(&mut sender, HOST, &path, up).await?;
            anyhow::Ok(up.unwrap_or(down))
        }));
    }
    let mut bytes = 0;
    for worker in workers {
        bytes += worker.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Done { requests: streams, bytes, seconds, ..Done::default() })
}
