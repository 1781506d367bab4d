//! hudsucker, by the small program in `tests/peers`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::haproxy::ca;
use super::{Contender, outside};
use crate::load::Way;
use crate::options::Options;
use crate::process::{Peer, bound};
use crate::world::{World, secret};

pub(super) fn start(world: &World, options: &Options) -> Result<Contender> {
    let program =
        options.hudsucker.as_ref().context("it is not built: `cargo xtask bench requests` does")?;
    let place = world.place("hudsucker")?;
    let (certificate, key) = ca()?;
    let trust = secret(&place.join("trust.pem"), &certificate)?;
    let mut command = bound(program);
    command.arg(&trust).arg(secret(&place.join("ca.key"), &key)?).arg(world.roots());
    command.arg(secret(&place.join("key"), &world.key)?).arg(world.origin.address.to_string());
    command.stdout(Stdio::piped());
    let mut proxy = Peer::start(command)?;
    let mut lines = BufReader::new(proxy.0.stdout.take().context("it is piped")?).lines();
    let mut address = || anyhow::Ok(lines.next().context("it ended")??.parse()?);
    let (h1, h2) = (address()?, address()?);
    let way = Way { to: Some(h1), to_h2: Some(h2), connect: true, trust: Some(trust) };
    Contender::new(outside()?, &way, Some(proxy))
}
