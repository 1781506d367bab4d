//! Names that nobody has requested before: a connection and a request for each. Names are resolved
//! before the clock starts, because not every contender takes part in that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, ensure};

use super::Done;
use super::connection::Target;
use crate::world::SMALL;

/// A contender may fail the first connections to a name.
const TRIES: usize = 4;

pub(super) async fn run(target: Arc<Target>, names: Vec<String>, at_once: usize) -> Result<Done> {
    let names = Arc::new(Mutex::new(VecDeque::from(names)));
    let began = Instant::now();
    let work = |_| tokio::spawn(work(target.clone(), names.clone()));
    let workers: Vec<_> = (0..at_once).map(work).collect();
    let (mut times, mut failed) = (Vec::new(), 0);
    for worker in workers {
        let (more, failures) = worker.await??;
        times.extend(more);
        failed += failures;
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut done = Done { requests: times.len(), seconds, failed, ..Done::default() };
    done.time("name", &times);
    Ok(done)
}

async fn work(
    target: Arc<Target>,
    names: Arc<Mutex<VecDeque<String>>>,
) -> Result<(Vec<f64>, usize)> {
    let (mut times, mut failed) = (Vec::new(), 0);
    loop {
        let Some(name) = names.lock().ok().and_then(|mut names| names.pop_front()) else {
            return Ok((times, failed));
        };
        let to = target.address(&name, false).await?;
        let start = Instant::now();
        let mut last = None;
        for attempt in 0..TRIES {
            let asked = async {
                let mut sender = target.connect(&name, to, false).await?;
                target.fetch(&mut sender, &name, SMALL, None).await
            };
            last = asked.await.err();
            if last.is_none() {
                break;
            }
            failed += usize::from(attempt == 0);
        }
        ensure!(last.is_none(), "{name}: {last:?}");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
}
