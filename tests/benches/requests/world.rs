//! The parts that all contenders share: a directory, the origin's CA, the origin, the key.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use interceptor_tests::ca::Ca;
use interceptor_tests::canary;
use tempfile::TempDir;

use crate::events::Source;
use crate::origin::Origin;
use crate::process::{Peer, free_port};

/// The origin's names are below this one.
pub(crate) const DOMAIN: &str = "example.test";
pub(crate) const HOST: &str = "api.example.test";
/// A file of 1 KiB, and a large one.
pub(crate) const SMALL: &str = "/files/small";
pub(crate) const LARGE: &str = "/files/large";
/// The variable in which clients find a key or placeholder.
pub(crate) const KEY_VARIABLE: &str = "BENCH_API_KEY";

/// In memory if possible, so that no disk is measured.
const IN_MEMORY: &str = "/dev/shm";

pub(crate) struct World {
    pub(crate) key: String,
    // The origin ends before its directory is removed.
    pub(crate) origin: Origin,
    directory: TempDir,
    /// For contenders that do not mint: a certificate and its key, from a CA that clients trust.
    pub(crate) fixed: (PathBuf, PathBuf),
}

impl World {
    /// `large`: the length of the large file.
    pub(crate) fn new(large: u64) -> Result<World> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("interceptor-bench-");
        let directory = match Path::new(IN_MEMORY).is_dir() {
            true => builder.tempdir_in(IN_MEMORY)?,
            false => builder.tempdir()?,
        };
        let ca = Ca::new();
        fs::write(directory.path().join("roots.pem"), ca.pem())?;
        let (certificate, key) = ca.certificate_pem(&format!("*.{DOMAIN}"));
        let write = |name: &str, text: &str| secret(&directory.path().join(name), text);
        let fixed = (write("fixed.pem", &certificate)?, write("fixed.key", &key)?);
        let origin = Origin::start(directory.path(), &fixed, large)?;
        Ok(World { key: canary::key(), origin, directory, fixed })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The roots that verify the origin and contenders with a fixed certificate.
    pub(crate) fn roots(&self) -> PathBuf {
        self.path("roots.pem")
    }

    /// A file that only root reads.
    pub(crate) fn secret(&self, name: &str, text: &str) -> Result<PathBuf> {
        secret(&self.path(name), text)
    }

    /// A private directory for one contender.
    pub(crate) fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(&format!("{name}-{}", free_port()?));
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// A hosts file that maps the host to this machine, for other projects' clients.
    pub(crate) fn hosts(&self) -> Result<PathBuf> {
        let path = self.path("hosts");
        fs::write(&path, format!("127.0.0.1 localhost {HOST}\n"))?;
        Ok(path)
    }
}

pub(crate) fn secret(path: &Path, text: &str) -> Result<PathBuf> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.with_context(|| path.display().to_string())?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(path.to_owned())
}

/// The origin's running parts.
pub(crate) struct Parts {
    pub(crate) _nginx: Peer,
    pub(crate) _events: Source,
}
