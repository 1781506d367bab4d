//! `cargo xtask COMMAND`: the project's only script language. One file a command.

mod agents;
mod bench;
mod cross;
mod dist;
mod ebpf;
mod fuzz;
mod instructions;
mod peers;
mod prerequisites;
mod process;
mod run;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND [ARG…]

  run                 builds everything and runs the \
                    demonstration; needs root, or calls sudo
  run -- ARG…         builds the interceptor \
                    and runs it with these arguments:
                      cargo xtask run -- run --policy \
                    p.json -- curl https://api.openai.com/v1/models
  test [ARG…]         builds, then runs every test: unit, doc, and integration with real eBPF; \
                    needs root, or calls sudo.
                      The arguments go to `cargo test`: cargo xtask test --test refusals -- \
                    --nocapture
                      What the tests need and the machine lacks is installed first (root on \
                    Debian), or listed
  test --prerequisites
                      only that, for the tests and for `.ci/run`
  agents              drives the real command-line agents, Aider with its heavy wheels too
  ebpf [--check]      builds the eBPF object; --check compares it with the one that is checked in
  cross               checks that the product compiles for aarch64
  fuzz [--seconds N] [TARGET…]
                      builds the fuzz targets and runs each for N seconds
  dist [--debug] [--to DIR]
                      builds the release binary and puts a package together in target/dist: the \
                    binary, completions, manual
                      pages, licence, systemd unit and hooks, and an archive of them
  bench [NAME [ARG…]] runs the benchmarks: decide, redact, sandboxes, neighbours, requests
  bench neighbours    what a sandbox at its limits costs the one beside it
  bench instructions [--accept]
                      counts the instructions of the hot pieces by valgrind, and fails where one \
                    moved by more than 2 %;
                      --accept writes what it counted into interceptor/instructions/figures.txt
  bench requests [OPTION…]
                      what a request costs, beside HAProxy, hudsucker and Envoy: --list, --quick, \
                    --scenario NAME,
                      --contender NAME, --rounds N, --json (docs/benchmarks.md); a whole run takes \
                    half an hour
  bench --prerequisites
                      installs what `bench requests` needs, or lists it
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let outcome = match command {
        "run" => run::run(rest),
        "test" => test::run(rest),
        "agents" => agents::run(),
        "ebpf" => ebpf::run(rest).map(|()| ExitCode::SUCCESS),
        "cross" => cross::run().map(|()| ExitCode::SUCCESS),
        "dist" => dist::run(rest),
        "fuzz" => fuzz::run(rest).map(|()| ExitCode::SUCCESS),
        "bench" => bench::run(rest),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        unknown => Err(anyhow::anyhow!("no command {unknown:?}\n\n{HELP}")),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
