//! The interceptor, as users start it: it searches answers for the key and writes records.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use interceptor_tests::guest::Cgroup;
use interceptor_tests::measure::processes::Tree;
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

use super::{Contender, outside};
use crate::load::Way;
use crate::options::Options;
use crate::process::{Peer, bound};
use crate::world::{DOMAIN, KEY_VARIABLE, World, secret};

/// `interceptor run`, with the load inside.
pub(super) fn run(world: &World, _: &Options) -> Result<Contender> {
    in_sandbox(world, governed(world)?)
}

/// The same without a key: connections are opened, judged and recorded, and nothing is injected.
pub(super) fn no_credential(world: &World, _: &Options) -> Result<Contender> {
    in_sandbox(world, open())
}

fn in_sandbox(world: &World, policy: Value) -> Result<Contender> {
    let mut command = Command::new(binary("interceptor"));
    command.arg("run").args(["--quiet", "--user", "root"]);
    options(&mut command, world, &policy)?;
    let load = std::env::current_exe()?;
    command.arg("--").arg(&load);
    let mut contender = Contender::new(command, &Way::default(), None)?;
    // The load is a descendant of the proxy but not part of it.
    contender.tree = Some(Tree::new(contender._load.id()).without(&load)?);
    // It is up.
    contender.run(&crate::load::Task::Hold { path: String::new(), connections: 0 })?;
    Ok(contender)
}

/// `interceptor attach`, with the load in the cgroup.
pub(super) fn attach(world: &World, _: &Options) -> Result<Contender> {
    let cgroup = Cgroup::new();
    let mut command = bound(binary("interceptor"));
    command.arg("attach").args(["--json", "--quiet", "--cgroup"]).arg(cgroup.path());
    options(&mut command, world, &governed(world)?)?;
    command.stdout(Stdio::piped());
    let mut proxy = Peer::start(command)?;
    let mut line = String::new();
    BufReader::new(proxy.0.stdout.take().context("it is piped")?).read_line(&mut line)?;
    let said: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| line.clone());
    let trust = secret(&world.place("attach")?.join("trust.pem"), &text(&said["ca_pem"])?)?;
    let placeholder = text(&said["env"][KEY_VARIABLE])?;
    let load = outside()?;
    let mut inside = cgroup.command(load.get_program());
    inside.args(load.get_args()).env(KEY_VARIABLE, placeholder);
    let mut contender =
        Contender::new(inside, &Way { trust: Some(trust), ..Way::default() }, Some(proxy))?;
    contender._cgroup = Some(cgroup);
    Ok(contender)
}

fn options(command: &mut Command, world: &World, policy: &Value) -> Result<()> {
    let place = world.place("interceptor")?;
    command.arg("--policy").arg(secret(&place.join("policy.json"), &policy.to_string())?);
    command.arg("--audit").arg(place.join("audit.jsonl"));
    command.arg("--upstream-ca").arg(world.roots());
    command.arg("--resolve").arg(format!("*.{DOMAIN}:443:{}", world.origin.address));
    ensure!(Path::new(&binary("interceptor")).is_file(), "the interceptor is not built");
    Ok(())
}

/// Names that are allowed, and limits that this load does not meet.
fn open() -> Value {
    json!({
        "network": { "allow": [format!("*.{DOMAIN}")] },
        "limits": {
            "connections": 8192, "requests": 8192,
            "mints_per_second": 100_000, "mints_burst": 100_000,
        },
    })
}

/// A key for the names, and rules for its endpoints.
fn governed(world: &World) -> Result<Value> {
    let mut policy = open();
    policy["credentials_v2"] = json!({ "bench": {
        "key": { "file": world.secret("key", &world.key)? },
        "hosts": [format!("*.{DOMAIN}")],
        "env": KEY_VARIABLE,
        "endpoints": [
            { "methods": ["GET"], "paths": ["/files/*", "/events"] },
            { "methods": ["PUT"], "paths": ["/up/*"] },
        ],
    } });
    Ok(policy)
}
