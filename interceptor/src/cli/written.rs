//! The text of a policy, and where it comes from.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::policy_file;

/// The text of a policy.
#[derive(Debug)]
pub(super) struct Written {
    /// Its name in messages.
    pub(super) name: String,
    /// The document; it may hold keys.
    pub(super) text: Zeroizing<String>,
    /// The text of its file, if options have added to the document.
    pub(super) own: Option<Zeroizing<String>>,
    /// Its file, if it has one.
    pub(super) file: Option<PathBuf>,
    /// Whether it is used because its content is trusted: a changed file is not used.
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
}
