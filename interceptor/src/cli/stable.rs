//! Placeholders that stay the same from run to run: derived with a key in the user's state
//! directory, which no sandbox can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::history;
use super::person::Person;
use crate::credential::{SECRET, Seed, Sources};
use crate::files;

/// The key's file in the state directory.
const FILE: &str = "placeholder.key";

/// A run as a person typed it.
#[derive(Debug)]
pub(super) struct Typed<'a> {
    /// The person.
    pub(super) person: &'a Person,
    /// The user who runs the command.
    pub(super) runner: u32,
    /// Whether new placeholders are wanted.
    pub(super) fresh: bool,
    /// What living sources are read with.
    pub(super) sources: Sources,
}

impl Typed<'_> {
    /// The seed of the placeholders for a policy: its file, or its text if it has none. `None` if
    /// new ones are wanted, or no key can be kept for the person.
    pub(super) fn seed(&self, file: Option<&Path>, text: &str) -> Option<Seed> {
        let secret = self.secret()?;
        let policy = match file {
            Some(file) => [b"file\0", file.as_os_str().as_bytes()].concat(),
            None => [b"text\0", text.as_bytes()].concat(),
        };
        let policy = Zeroizing::new(policy);
        Some(Seed::new(&secret, self.runner, &policy))
    }

    /// The key that placeholders are derived from. `None` if they are to be new, or no key can be
    /// kept for the person.
    pub(super) fn secret(&self) -> Option<Zeroizing<[u8; SECRET]>> {
        if self.fresh {
            return None;
        }
        match secret(self.person) {
            Ok(secret) => Some(secret),
            Err(error) => {
                tracing::info!(%error, "no key for stable placeholders; they are new");
                None
            }
        }
    }
}

/// The person's key, created by the first run.
fn secret(person: &Person) -> io::Result<Zeroizing<[u8; SECRET]>> {
    let directory = history::make_state_directory(person)
        .ok_or_else(|| files::unfit("there is no directory for the interceptor's state"))?;
    let file = directory.join(FILE);
    person.act(|| match read(&file, person) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(&file)?;
            read(&file, person)
        }
        other => other,
    })
}

fn read(path: &Path, person: &Person) -> io::Result<Zeroizing<[u8; SECRET]>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let status = file.metadata()?;
    let fits = status.is_file() && status.len() == SECRET as u64;
    if !fits || status.uid() != person.identity.uid {
        return Err(files::unfit("the key of the placeholders is damaged or another user's"));
    }
    if status.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    let mut secret = Zeroizing::new([0; SECRET]);
    file.read_exact(&mut *secret)?;
    Ok(secret)
}

/// Writes a new key, unless another run has done so meanwhile.
fn make(path: &Path) -> io::Result<()> {
    let mut secret = Zeroizing::new([0; SECRET]);
    rand::fill(&mut *secret).map_err(|_| io::Error::other("the system has no random bytes"))?;
    let whole = path.with_extension(format!("key.{}", std::process::id()));
    let written = create(&whole).and_then(|mut file| {
        file.write_all(&*secret)?;
        file.sync_all()
    });
    // The name appears only with a complete key.
    let named = written.and_then(|()| match fs::hard_link(&whole, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = fs::remove_file(&whole);
    named
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
