//! `cargo xtask COMMAND`: the project's only script language.

mod ebpf;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, rest)) if command == "ebpf" => ebpf::run(rest),
        _ => anyhow::bail!("usage: cargo xtask ebpf [--check]"),
    }
}
