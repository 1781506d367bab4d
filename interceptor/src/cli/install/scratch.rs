//! Temporary files and directories.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

/// A directory, removed on drop.
pub(super) struct Scratch(pub(super) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let gone =
            if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
        {
            let _ = writeln!(
                std::io::stderr(),
                "interceptor: {} is left behind: {error}",
                self.0.display()
            );
        }
    }
}
