//! The first and third scenarios with other projects' clients, wrk and h2load. The proxy's CPU time
//! should agree with those scenarios.

use anyhow::{Context, Result};
use interceptor_tests::measure::clients::{completed_by_h2load, completed_by_wrk};

use super::{Measure, PER, Scenario, Values, higher, http2, keepalive, lower};
use crate::contender::Contender;
use crate::load::Task;
use crate::options::Options;
use crate::world::{HOST, SMALL, World};

pub(super) static WRK: Scenario =
    Scenario { name: "wrk", title: "the same by wrk", measures: MEASURES, fresh: false, run: wrk };

pub(super) static H2LOAD: Scenario = Scenario {
    name: "h2load",
    title: "the same by h2load",
    measures: MEASURES,
    fresh: false,
    run: h2load,
};

const MEASURES: &[Measure] = &[lower("CPU s/10,000"), higher("requests/s")];

fn wrk(world: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    keepalive::warm_up(contender, options, &keepalive::steady(options))?;
    // It accepts whole seconds only.
    let seconds = options.seconds().ceil();
    let words = format!("wrk -t 1 -c {} -d {seconds} -H", keepalive::CONNECTIONS);
    run(world, contender, &words, false, completed_by_wrk)
}

fn h2load(world: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    let (connections, streams) = (http2::CONNECTIONS, http2::STREAMS);
    let load = crate::load::Steady { h2: true, connections, streams, ..keepalive::steady(options) };
    keepalive::warm_up(contender, options, &load)?;
    let seconds = options.seconds().ceil();
    let words = format!("h2load -t 1 -c {connections} -m {streams} -D {seconds} -H");
    run(world, contender, &words, true, completed_by_h2load)
}

/// The title ends before the header names.
fn run(
    world: &World,
    contender: &mut Contender,
    words: &str,
    h2: bool,
    completed: fn(&str) -> Result<f64>,
) -> Result<Values> {
    let mut command: Vec<String> = Vec::new();
    if !contender.resolves {
        // Nobody else may resolve the host to this machine.
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        command.extend(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
                .map(str::to_owned),
        );
        command.push(world.hosts()?.display().to_string());
    }
    command.extend(words.split(' ').map(str::to_owned));
    command.push("authorization: {KEY}".to_owned());
    if !h2 {
        // It adds another one unless the name is spelled like this.
        command.extend(["-H".to_owned(), format!("Host: {HOST}")]);
    }
    command.push(format!("https://{HOST}:{{PORT}}{SMALL}"));
    let (done, cpu) = contender.measure(&Task::Outside { command, h2 })?;
    let requests = completed(&done.output).with_context(|| done.output.clone())?;
    Ok(vec![cpu.map(|cpu| cpu / requests * PER), Some(requests / done.seconds)])
}
