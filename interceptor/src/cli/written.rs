//! A policy as it was written: its text, and where that comes from.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Common, policy_file};

/// The text of a policy.
#[derive(Debug)]
pub(super) struct Written {
    /// What messages call it.
    pub(super) name: String,
    /// The document; it may hold keys.
    pub(super) text: Zeroizing<String>,
    /// The text of its file, where options have added to the document.
    pub(super) own: Option<Zeroizing<String>>,
    /// Its file, if it has one.
    pub(super) file: Option<PathBuf>,
    /// Whether the user trusted exactly this content, so that a changed file does not hold.
    pub(super) is_trusted: bool,
}

impl Written {
    /// A policy without a file.
    pub(super) fn without_file(name: &str, text: String) -> Written {
        let text = Zeroizing::new(text);
        Written { name: name.to_owned(), text, own: None, file: None, is_trusted: false }
    }

    /// The policy in a file; `-` is standard input.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read(path: &Path) -> anyhow::Result<Written> {
        let text = Zeroizing::new(policy_file::read(path)?);
        Ok(if path == Path::new("-") {
            Written { text, ..Written::without_file("standard input", String::new()) }
        } else {
            let name = path.display().to_string();
            Written { name, text, own: None, file: Some(path.to_owned()), is_trusted: false }
        })
    }

    /// The policy that `--policy` names as a file, or an empty one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn of(common: &Common) -> anyhow::Result<Written> {
        match &common.policy {
            None => Ok(Written::without_file("the default policy", "{}".to_owned())),
            Some(path) => Written::read(path),
        }
    }
}
