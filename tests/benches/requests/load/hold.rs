//! Connections that have answered a request and are idle.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use super::Done;
use super::connection::{Sender, Target};
use crate::world::HOST;

/// The number opened at once.
const AT_ONCE: usize = 16;

pub(super) async fn run(
    target: Arc<Target>,
    path: String,
    connections: usize,
    held: &mut Vec<Sender>,
) -> Result<Done> {
    held.clear();
    let began = Instant::now();
    while held.len() < connections {
        let batch = AT_ONCE.min(connections - held.len());
        let mut workers = Vec::new();
        for _ in 0..batch {
            let (target, path) = (target.clone(), path.clone());
            workers.push(tokio::spawn(async move {
                let mut sender = target.connection(false).await?;
                target.fetch(&mut sender, HOST, &path, None).await?;
                anyhow::Ok(sender)
            }));
        }
        for worker in workers {
            held.push(worker.await??);
        }
    }
    // The runtime runs only during a task, so let dropped connections close now.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    Ok(Done { requests: connections, seconds: began.elapsed().as_secs_f64(), ..Done::default() })
}
