//! The real binary, run as users run it, in a directory with files and a home without
//! configuration.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A directory with files, and a home without configuration.
pub(crate) struct Desk {
    pub(crate) directory: TempDir,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("home")).unwrap();
        std::fs::create_dir(directory.path().join("profiles.d")).unwrap();
        Desk { directory }
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub(crate) fn run(&self, arguments: &[&str], input: Option<&str>) -> Output {
        self.run_with(&[], arguments, input)
    }

    /// As [`Desk::run`], in the desk's directory and with these variables.
    pub(crate) fn run_with(
        &self,
        variables: &[(&str, &str)],
        arguments: &[&str],
        input: Option<&str>,
    ) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_interceptor"))
            .args(arguments)
            .env_clear()
            .env("HOME", self.directory.path().join("home"))
            .envs(variables.iter().copied())
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input may close it.
        let _ = child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes());
        let output = child.wait_with_output().unwrap();
        for stream in [&output.stdout, &output.stderr] {
            assert!(
                !String::from_utf8_lossy(stream).contains("CANARY"),
                "{arguments:?} shows the key"
            );
        }
        output
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.run(arguments, None);
        let text = String::from_utf8(output.stdout).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{arguments:?}: {error}: {text:?} {:?}", String::from_utf8_lossy(&output.stderr))
        });
        (value, output.status.code().unwrap())
    }

    pub(crate) fn explain(&self, policy: &Path, rest: &[&str]) -> (Value, i32) {
        let policy = policy.display().to_string();
        let arguments: Vec<&str> =
            ["explain", "--json", "--policy", &policy].iter().chain(rest).copied().collect();
        self.json(&arguments)
    }
}
