//! Server-sent events: each says when the origin wrote it, on the clock that all processes of a
//! machine share.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;

use super::Done;
use super::connection::Target;
use crate::events::{moment, written};
use crate::world::HOST;

pub(super) async fn run(target: Arc<Target>, path: &str, streams: usize) -> Result<Done> {
    let (mut firsts, mut delays) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for _ in 0..streams {
        let to = target.address(HOST, false).await?;
        let start = Instant::now();
        let mut sender = target.connect(HOST, to, false).await?;
        let mut body = target.ask(&mut sender, HOST, path, None).await?.into_body();
        let (mut text, mut first) = (String::new(), None);
        while let Some(frame) = body.frame().await {
            let now = moment()?;
            let data = frame?.into_data().unwrap_or_default();
            text.push_str(std::str::from_utf8(&data)?);
            while let Some((event, rest)) = text.split_once("\n\n") {
                first.get_or_insert_with(|| start.elapsed().as_secs_f64() * 1e3);
                delays.push(now.saturating_sub(written(event)?).as_secs_f64() * 1e3);
                text = rest.to_owned();
            }
        }
        ensure!(text.is_empty(), "half an event: {text:?}");
        firsts.push(first.context("no event came")?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut done = Done { requests: streams, seconds, ..Done::default() };
    done.time("first", &firsts);
    done.time("delay", &delays);
    Ok(done)
}
