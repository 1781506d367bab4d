//! `cargo xtask ebpf`.

use anyhow::{Result, bail};

pub(crate) fn run(_arguments: &[String]) -> Result<()> {
    bail!("`cargo xtask ebpf` is not built yet")
}
