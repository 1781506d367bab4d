//! What is trusted: hashes of policies, in `$XDG_STATE_HOME/interceptor/trusted`, which no sandbox
//! can see.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use aws_lc_rs::digest::{SHA256, digest};
use interceptor_policy::{Catalogue, Document, Report};
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::cli::findings;
use crate::cli::permits::{Extent, permits};
use crate::cli::person::Person;
use crate::cli::policy_file::printable;
use crate::cli::written::Written;
use crate::files;

/// The list, below the person's state.
const TRUSTED: &str = "trusted";
/// The longest list, in bytes.
const MAX_LIST: u64 = 4 << 20;

/// How many digits of a hash are shown: enough that nobody finds two contents that begin alike.
pub(super) const HASH_SHOWN: usize = 40;

/// Accepts a policy if the user has trusted its content.
///
/// # Errors
/// Otherwise: with what it would permit, and the command that trusts it.
pub(in crate::cli) fn require(
    person: &Person,
    written: Written,
    catalogue: &Catalogue,
) -> anyhow::Result<Written> {
    let Some(path) = written.file.as_deref() else { return Ok(written) };
    let unreadable = "cannot read which policies are trusted";
    let listed = list(person).context(unreadable)?;
    if is_trusted(person, &written.text).context(unreadable)? {
        return Ok(Written { is_trusted: true, ..written });
    }
    let shown = shown(path);
    let report = interceptor_policy::check(&written.text, catalogue);
    if !report.errors.is_empty() {
        return Err(findings::invalid(&written.name, &written.text, &report.errors));
    }
    let known = listed.lines().any(|line| line.split_once("  ").is_some_and(|(_, at)| at == shown));
    let what = if known { "has changed since you trusted it" } else { "is not trusted yet" };
    let mut lines = vec![format!("{shown} {what}. It would permit")];
    let permitted = permitted(&written, &report, catalogue, Extent::Short);
    lines.extend(permitted.iter().map(|line| format!("  {line}")));
    lines.push("If you want that, type".to_owned());
    lines.push(format!("  {}{}", sudo(person, path), command(path, &written.text)));
    bail!("{}", lines.join("\n"))
}

/// Records that the person trusts this content of the file.
///
/// # Errors
/// If the list cannot be written.
pub(in crate::cli) fn record(person: &Person, path: &Path, text: &str) -> anyhow::Result<()> {
    let (hash, path) = (hash(text), shown(path));
    let written = person.act(|| {
        let place = path_of_list(person)?;
        let directory = place.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // Held until the end, so that nothing is lost where two write at once.
        let held = File::open(directory)?;
        held.lock()?;
        let listed = list(person)?;
        let is_known = |line: &&str| {
            line.starts_with(&hash) && line.split_once("  ").is_some_and(|(_, at)| at == path)
        };
        let mut text = String::new();
        for line in listed.lines().filter(|line| !is_known(line)) {
            text.push_str(line);
            text.push('\n');
        }
        // The time tells a running sandbox that this was said again.
        text.push_str(&format!("{hash} {:.6}  {path}\n", Timestamp::now()));
        let new = directory.join(format!("{TRUSTED}.{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.create_new(true).write(true).mode(0o600);
        let mut file = options.open(&new)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let written = written.and_then(|()| fs::rename(&new, &place));
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    });
    written.context("cannot record that the policy is trusted")
}

/// The directory of the list, held open and made if it is missing: a running sandbox is judged by
/// what is in it, wherever its path leads by then. `None` if there can be none.
pub(in crate::cli) fn directory(person: &Person) -> Option<OwnedFd> {
    let open = || {
        if let Some(directory) = person.state_directory() {
            // What cannot be made may be there all the same.
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        }
        open_directory(person)
    };
    person.act(open).ok().flatten()
}

/// Whether the list in this directory says that the person trusted this content since then. What
/// was trusted before does not count: the sandbox may have put an older content back. Nor does what
/// nobody can have said yet.
///
/// # Errors
/// If the list cannot be read.
pub(in crate::cli) fn is_trusted_since(
    person: &Person,
    directory: &OwnedFd,
    text: &str,
    since: Timestamp,
) -> io::Result<bool> {
    let hash = hash(text);
    let told = |line: &str| {
        let (told, _) = line.split_once("  ")?;
        let (known, time) = told.split_once(' ')?;
        (known == hash).then_some(time.parse::<Timestamp>().ok()?)
    };
    let listed = person.act(|| read(directory, person))?;
    let now = Timestamp::now();
    Ok(listed.lines().filter_map(told).any(|time| time > since && time <= now))
}

/// Whether the person has ever said that this content is trusted.
///
/// # Errors
/// If the list cannot be read.
pub(in crate::cli) fn is_trusted(person: &Person, text: &str) -> io::Result<bool> {
    let hash = hash(text);
    Ok(list(person)?.lines().any(|line| line.split_whitespace().next() == Some(&hash)))
}

/// The text of the list, empty if there is none.
fn list(person: &Person) -> io::Result<String> {
    person.act(|| match open_directory(person)? {
        Some(directory) => read(&directory, person),
        None => Ok(String::new()),
    })
}

/// Opens the directory of the list, if there is one. Call with the person's rights.
fn open_directory(person: &Person) -> io::Result<Option<OwnedFd>> {
    let Some(directory) = person.state_directory() else { return Ok(None) };
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match open(&directory, flags, Mode::empty()) {
        Err(Errno::ENOENT) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// Reads the list in a directory. Call with the person's rights.
fn read(directory: &OwnedFd, person: &Person) -> io::Result<String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(directory, TRUSTED, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(String::new()),
        opened => File::from(opened?),
    };
    own(&file, person)?;
    let mut text = String::new();
    if file.take(MAX_LIST + 1).read_to_string(&mut text)? as u64 > MAX_LIST {
        return Err(files::unfit("the list of trusted policies is too long; remove it"));
    }
    Ok(text)
}

/// Checks that the list is a file that only the person can write.
fn own(file: &File, person: &Person) -> io::Result<()> {
    let metadata = file.metadata()?;
    let owner = metadata.uid() == person.identity.uid && metadata.mode() & 0o022 == 0;
    match metadata.is_file() && owner {
        true => Ok(()),
        false => Err(files::unfit("others can write the list of trusted policies; remove it")),
    }
}

fn path_of_list(person: &Person) -> io::Result<PathBuf> {
    let state = person.state_directory();
    state.map(|state| state.join(TRUSTED)).ok_or_else(|| {
        files::unfit("there is no home directory, and XDG_STATE_HOME names no directory")
    })
}

/// What a valid policy permits.
pub(super) fn permitted(
    written: &Written,
    report: &Report,
    catalogue: &Catalogue,
    extent: Extent,
) -> Vec<String> {
    match (Document::parse(&written.text), &report.policy) {
        (Ok(parsed), Some(policy)) => permits(&parsed.document, policy, catalogue, extent),
        _ => Vec::new(),
    }
}

/// The command that shows what a file permits, and trusts it.
pub(in crate::cli) fn typed(person: &Person, path: &Path) -> String {
    format!("{}interceptor trust {}", sudo(person, path), quoted(path))
}

/// What goes before a command that reads this file: nothing, if the person can read it.
fn sudo(person: &Person, path: &Path) -> &'static str {
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let is_closed = || person.act(|| files::open(path)).is_err_and(|error| denied(&error));
    if person.by_sudo && is_closed() { "sudo " } else { "" }
}

/// The command that trusts this content of a file, and no other.
pub(in crate::cli) fn command(path: &Path, text: &str) -> String {
    format!("interceptor trust {} --sha256 {}", quoted(path), &hash(text)[..HASH_SHOWN])
}

/// The SHA-256 of a policy, as hexadecimal digits.
pub(super) fn hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A path, safe for a terminal.
pub(in crate::cli) fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// A path, quoted for a shell.
pub(in crate::cli) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", printable(&text).replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    const USER: u32 = 54321;

    fn home() -> (tempfile::TempDir, Person) {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(home.path(), Some(USER), Some(USER)).unwrap();
        let person = Person::with_variables(USER, &[("HOME", home.path().to_str().unwrap())]);
        (home, person)
    }

    fn found(text: &str) -> Written {
        let file = Some(PathBuf::from("/p/interceptor.json"));
        Written { file, ..Written::without_file("/p/interceptor.json", text.to_owned()) }
    }

    #[test]
    fn only_content_that_was_trusted_holds_and_the_list_is_the_persons() {
        let (home, person) = home();
        let catalogue = Catalogue::builtin();
        let text = r#"{"network":{"allow":["a.test"]}}"#;
        let error = require(&person, found(text), &catalogue).unwrap_err().to_string();
        assert!(error.contains("not trusted yet") && error.contains("hosts: a.test"), "{error}");
        let typed = format!("  interceptor trust /p/interceptor.json --sha256 {}", hash(text));
        assert!(error.ends_with(&typed[..typed.len() - 64 + HASH_SHOWN]), "{error}");
        record(&person, Path::new("/p/interceptor.json"), text).unwrap();
        record(&person, Path::new("/p/interceptor.json"), text).unwrap();
        assert!(require(&person, found(text), &catalogue).unwrap().is_trusted);
        let list = home.path().join(".local/state/interceptor/trusted");
        let metadata = fs::metadata(&list).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (USER, 0o600));
        assert_eq!(fs::read_to_string(&list).unwrap().lines().count(), 1);
        // Said again, it is listed once, with its new time.
        let before = Timestamp::now();
        let directory = directory(&person).unwrap();
        let since = |text: &str| is_trusted_since(&person, &directory, text, before).unwrap();
        assert!(!since(text));
        record(&person, Path::new("/p/interceptor.json"), text).unwrap();
        assert!(since(text) && !since("{ }"));
        assert_eq!(fs::read_to_string(&list).unwrap().lines().count(), 1);
        // What is to be said some day has not been said, nor does another directory say anything.
        let forged = format!("{} 2999-01-01T00:00:00Z  /p\n", hash("{ }"));
        let whole = fs::read_to_string(&list).unwrap();
        fs::write(&list, whole.clone() + &forged).unwrap();
        assert!(since(text) && !since("{ }"));
        fs::write(&list, &whole).unwrap();
        fs::rename(home.path().join(".local"), home.path().join("gone")).unwrap();
        fs::create_dir_all(list.parent().unwrap()).unwrap();
        assert!(since(text));
        fs::remove_dir_all(home.path().join(".local")).unwrap();
        fs::rename(home.path().join("gone"), home.path().join(".local")).unwrap();
        let error = require(&person, found("{ }"), &catalogue).unwrap_err().to_string();
        assert!(error.contains("has changed since you trusted it"), "{error}");
        let error = require(&person, found("{"), &catalogue).unwrap_err().to_string();
        assert!(error.contains("/p/interceptor.json:1: error: "), "{error}");
    }

    #[test]
    fn a_list_that_others_can_write_counts_for_nothing() {
        let (home, person) = home();
        let catalogue = Catalogue::builtin();
        record(&person, Path::new("/p/interceptor.json"), "{}").unwrap();
        let list = home.path().join(".local/state/interceptor/trusted");
        fs::set_permissions(&list, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(require(&person, found("{}"), &catalogue).is_err());
        let elsewhere = home.path().join("elsewhere");
        fs::rename(&list, &elsewhere).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&elsewhere, &list).unwrap();
        assert!(require(&person, found("{}"), &catalogue).is_err());
        assert!(record(&person, Path::new("/p/x"), "{ }").is_err());
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }
}
