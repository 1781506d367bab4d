//! The client that runs inside a sandbox if a stock client cannot send what a test needs: planned
//! requests on one or many connections ([`fetch`]), steady requests from many sandboxes
//! ([`paced`]), verbatim bytes ([`raw`]), and the wrapper around other commands that afterwards
//! collects everything the sandbox could read ([`sweep`]).

pub mod fetch;
pub mod paced;
pub mod raw;
pub mod sweep;
pub mod tls;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the client: `fetch` or `paced` (a plan on standard input), `raw HOST:PORT [SNI]` (bytes on
/// standard input), or `wrap FILE -- COMMAND [ARG…]`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let mode = arguments.first().and_then(|mode| mode.to_str()).unwrap_or_default();
    let outcome = match mode {
        "fetch" => fetch::main(),
        "paced" => paced::main(),
        "raw" => raw::main(&arguments[1..]),
        "wrap" => sweep::main(&arguments[1..]),
        _ => Err(anyhow::anyhow!(
            "usage: fetch | paced | raw HOST:PORT [SNI] | wrap FILE -- COMMAND [ARG…]"
        )),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("lab-client: {error:#}");
        ExitCode::from(99)
    })
}
