//! `cargo xtask COMMAND`: the project's only script language.
fn main() {}
