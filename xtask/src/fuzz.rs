//! `cargo xtask fuzz`.

use anyhow::{Result, bail};

pub(crate) fn run(_arguments: &[String]) -> Result<()> {
    bail!("`cargo xtask fuzz` is not built yet")
}
