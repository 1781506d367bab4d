//! Small requests, one after the other on each stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::connection::{Sender, Target};
use super::{Done, Steady};
use crate::world::HOST;

pub(super) async fn run(target: Arc<Target>, steady: Steady) -> Result<Done> {
    let steady = Arc::new(steady);
    let mut senders = Vec::new();
    for _ in 0..steady.connections {
        if steady.fresh {
            senders.push(None);
            continue;
        }
        let sender = target.connection(steady.h2).await?;
        match sender {
            Sender::H1(_) => senders.push(Some(sender)),
            Sender::H2(sender) => {
                senders.extend((0..steady.streams).map(|_| Some(Sender::H2(sender.clone()))));
            }
        }
    }
    let began = Instant::now();
    let deadline = began + Duration::from_secs_f64(steady.seconds);
    let work = |sender| tokio::spawn(stream(target.clone(), steady.clone(), sender, deadline));
    let workers: Vec<_> = senders.into_iter().map(work).collect();
    let (mut times, mut bytes) = (Vec::new(), 0);
    for worker in workers {
        let (more, read) = worker.await??;
        times.extend(more);
        bytes += read;
    }
    ensure!(!times.is_empty(), "nothing was answered");
    let seconds = began.elapsed().as_secs_f64();
    let mut done = Done { requests: times.len(), bytes, seconds, ..Done::default() };
    done.time("request", &times);
    Ok(done)
}

async fn stream(
    target: Arc<Target>,
    steady: Arc<Steady>,
    mut kept: Option<Sender>,
    deadline: Instant,
) -> Result<(Vec<f64>, u64)> {
    let (mut times, mut bytes) = (Vec::new(), 0);
    while Instant::now() < deadline {
        let start = Instant::now();
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => target.connection(steady.h2).await?,
        };
        bytes += target.fetch(&mut sender, HOST, &steady.path, None).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        kept = (!steady.fresh).then_some(sender);
    }
    Ok((times, bytes))
}
