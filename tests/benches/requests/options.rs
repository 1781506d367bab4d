//! The command line.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

pub(crate) const HELP: &str = "\
cargo xtask bench requests [OPTION…]

  --scenario NAME     only this one; repeatable
  --contender NAME    only this one; repeatable
  --rounds N          so many rounds, each in an order of its own [default: 5]
  --quick             one short round: does it work?
  --json              JSON on standard output, the table on standard error
  --list              the names
";

pub(crate) struct Options {
    pub(crate) scenarios: Vec<String>,
    pub(crate) contenders: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    pub(crate) json: bool,
    pub(crate) list: bool,
    /// Peers that are not on `PATH`; xtask builds or installs them.
    pub(crate) hudsucker: Option<PathBuf>,
    pub(crate) envoy: Option<PathBuf>,
    /// The seed of the order.
    pub(crate) seed: u64,
}

impl Options {
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            scenarios: vec![],
            contenders: vec![],
            rounds: 0,
            quick: false,
            json: false,
            list: false,
            hudsucker: None,
            envoy: None,
            seed: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() | 1,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--scenario" => options.scenarios.push(value()?),
                "--contender" => options.contenders.push(value()?),
                "--rounds" => options.rounds = value()?.parse()?,
                "--hudsucker" => options.hudsucker = Some(value()?.into()),
                "--envoy" => options.envoy = Some(value()?.into()),
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--list" => options.list = true,
                // Cargo's.
                "--bench" => {}
                _ => bail!("there is no option {argument}\n\n{HELP}"),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 1 } else { 5 };
        }
        Ok(options)
    }

    /// Whether a name is selected. Without a selection, all are.
    pub(crate) fn chosen<'a, T>(
        all: &'a [T],
        named: &[String],
        name: impl Fn(&T) -> &'static str,
    ) -> Result<Vec<&'a T>> {
        for wanted in named {
            let known: Vec<&str> = all.iter().map(&name).collect();
            ensure!(
                known.contains(&wanted.as_str()),
                "there is no {wanted}; there are {}",
                known.join(", ")
            );
        }
        let is_chosen =
            |one: &&T| named.is_empty() || named.iter().any(|wanted| wanted == name(one));
        Ok(all.iter().filter(is_chosen).collect())
    }

    /// The duration of a timed load.
    pub(crate) fn seconds(&self) -> f64 {
        if self.quick { 0.25 } else { 2.0 }
    }

    /// The size of a counted load.
    pub(crate) fn count(&self, whole: usize) -> usize {
        if self.quick { (whole / 10).max(2) } else { whole }
    }

    /// The length of a large body.
    pub(crate) fn large(&self) -> u64 {
        if self.quick { 8 << 20 } else { 100 << 20 }
    }
}
