//! The lab's client as a program; see `interceptor_tests::client`.

use std::ffi::OsString;

fn main() -> std::process::ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    interceptor_tests::client::main(&arguments)
}
