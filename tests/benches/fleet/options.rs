//! The command line.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "\
cargo xtask bench fleet [OPTION…]

  --loaded N,N…     sizes at which each sandbox sends a request a second [default: 1,100,1000]
  --idle N,N…       further sizes at which nothing happens [default: 10000]
  --requests N      so many from each sandbox [default: 10]
  --seconds N       so long nothing happens [default: 10]
  --json            JSON on standard output, the table on standard error
";

pub(crate) struct Options {
    loaded: Vec<usize>,
    still: Vec<usize>,
    pub(crate) requests: u32,
    pub(crate) idle: Duration,
    pub(crate) json: bool,
}

impl Options {
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            loaded: vec![1, 100, 1000],
            still: vec![10_000],
            requests: 10,
            idle: Duration::from_secs(10),
            json: false,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--loaded" => options.loaded = sizes(&value()?)?,
                "--idle" => options.still = sizes(&value()?)?,
                "--requests" => options.requests = value()?.parse()?,
                "--seconds" => options.idle = Duration::from_secs(value()?.parse()?),
                "--json" => options.json = true,
                // Cargo's.
                "--bench" => {}
                _ => bail!("there is no option {argument}\n\n{HELP}"),
            }
        }
        ensure!(options.requests > 0 && !options.idle.is_zero(), "nothing would be measured");
        ensure!(!options.sizes().is_empty(), "no sizes are left");
        Ok(options)
    }

    /// Each size in ascending order, and whether requests are sent at it.
    pub(crate) fn sizes(&self) -> Vec<(usize, bool)> {
        let mut all: Vec<usize> = self.loaded.iter().chain(&self.still).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|size| (size, self.loaded.contains(&size))).collect()
    }

    /// The largest size.
    pub(crate) fn largest(&self) -> usize {
        self.sizes().last().map_or(1, |(size, _)| *size)
    }
}

/// Sizes separated by commas; none for an empty text.
fn sizes(text: &str) -> Result<Vec<usize>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let sizes: Vec<usize> = parts
        .map(|part| part.parse().with_context(|| format!("{part:?} is no number")))
        .collect::<Result<_>>()?;
    ensure!(!sizes.contains(&0), "a size is at least 1");
    Ok(sizes)
}
