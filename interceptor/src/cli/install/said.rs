//! What became of a proof.

use std::io::Write;
use std::process::ExitCode;

/// Says whether a container that must be refused egress was, and ends accordingly.
pub(super) fn said(
    output: &mut impl Write,
    proof: anyhow::Result<String>,
) -> anyhow::Result<ExitCode> {
    match proof {
        Ok(shown) => {
            writeln!(output, "proved: a container under a policy was refused egress: {shown}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "interceptor: NOT proved: a container that must be refused egress was not: \
                 {error:#}"
            );
            Ok(ExitCode::FAILURE)
        }
    }
}
