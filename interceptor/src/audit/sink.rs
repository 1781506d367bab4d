//! Where lines go: a file, standard error, or nowhere.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files;

/// How long a non-blocking descriptor may refuse before lines count as lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How far back to search for the start of a file's last line, in bytes; records are far shorter.
const LONGEST_LINE: u64 = 1 << 20;

pub(super) enum Sink {
    File(LogFile),
    Stderr { midline: bool },
    Discard,
}

/// A file to which only whole lines are appended.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Whom a file that is created belongs to, by user and group.
    owner: Option<(u32, u32)>,
    /// The file ends with an incomplete line that could not be removed.
    midline: bool,
}

/// An incomplete write.
pub(super) struct Short {
    /// The bytes of complete lines written.
    pub(super) complete: usize,
    pub(super) error: io::Error,
}

impl Sink {
    pub(super) fn open(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Sink> {
        let file = append_to(path, owner)?;
        let midline = ends_midline(path, &file);
        Ok(Sink::File(LogFile { path: path.to_owned(), file, owner, midline }))
    }

    /// A pipe with a possibly slow reader, as standard error may be.
    pub(super) fn pipe(writer: OwnedFd) -> Sink {
        let file = File::from(writer);
        Sink::File(LogFile { path: "a pipe".into(), file, owner: None, midline: false })
    }

    /// The name for error messages.
    pub(super) fn name(&self) -> String {
        match self {
            Sink::File(log) => log.path.display().to_string(),
            Sink::Stderr { .. } => "standard error".to_owned(),
            Sink::Discard => "nowhere".to_owned(),
        }
    }

    pub(super) fn is_discard(&self) -> bool {
        matches!(self, Sink::Discard)
    }

    /// Reopens the file by its path; returns whether it is a different one. Keeps the old one on
    /// error. With `alone`, a lock held by another process is an error too.
    pub(super) fn reopen(&mut self, alone: bool) -> io::Result<bool> {
        let Sink::File(log) = self else { return Ok(false) };
        let file = append_to(&log.path, log.owner)?;
        let identity =
            |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        if identity(&file)? == identity(&log.file)? {
            // The same file: its lock stays.
            return Ok(false);
        }
        if alone {
            file.try_lock().map_err(io::Error::from)?;
        }
        log.midline = ends_midline(&log.path, &file);
        log.file = file;
        Ok(true)
    }

    /// Tries to lock the file against other chain writers; `false` while another holds it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        let Sink::File(log) = self else { return Ok(true) };
        match log.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The file's last line, without its line feed; `None` if it is empty or cannot be read back.
    pub(super) fn last_line(&self) -> io::Result<Option<Vec<u8>>> {
        let Sink::File(log) = self else { return Ok(None) };
        let Some((file, length)) = read_back(&log.path, &log.file)? else { return Ok(None) };
        let mut wanted = 4096;
        loop {
            let size = length.min(wanted);
            let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
            file.read_exact_at(&mut text, length - size)?;
            let lines = text.strip_suffix(b"\n").unwrap_or(&text);
            match memchr::memrchr(b'\n', lines) {
                Some(at) => return Ok(Some(lines[at + 1..].to_vec())),
                None if size == length || wanted >= LONGEST_LINE => {
                    return Ok(Some(lines.to_vec()));
                }
                None => wanted *= 4,
            }
        }
    }

    /// Writes whole lines with as few system calls as possible.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Short> {
        match self {
            Sink::Discard => Ok(()),
            Sink::Stderr { midline } => write_lines(&mut io::stderr().lock(), midline, lines)
                .map_err(|short| {
                    *midline = *midline || short.partial > 0;
                    Short { complete: short.complete, error: short.error }
                }),
            Sink::File(log) => {
                write_lines(&mut log.file, &mut log.midline, lines).map_err(|short| {
                    if short.partial > 0 && !log.take_back(short.partial) {
                        log.midline = true;
                    }
                    Short { complete: short.complete, error: short.error }
                })
            }
        }
    }
}

impl LogFile {
    /// Removes the last `bytes` bytes, an incomplete line; `false` if impossible (a pipe) or unsafe
    /// (another process appended since).
    fn take_back(&mut self, bytes: usize) -> bool {
        let end = match (self.file.metadata(), self.file.stream_position()) {
            (Ok(metadata), Ok(position)) if metadata.is_file() && metadata.len() == position => {
                position
            }
            _ => return false,
        };
        end.checked_sub(bytes as u64).is_some_and(|end| self.file.set_len(end).is_ok())
    }
}

fn append_to(path: &Path, owner: Option<(u32, u32)>) -> io::Result<File> {
    // A sandbox may be able to write to the directory: follow no link planted there, and do not
    // block on a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600).custom_flags(flags);
    let created = match owner {
        None => options.create(true).open(path),
        // Only a file that this call creates is given away: any other may be another user's.
        Some((user, group)) => options.clone().create_new(true).open(path).and_then(|file| {
            std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
            Ok(file)
        }),
    };
    let opened = match created {
        Err(error) if owner.is_some() && error.kind() == io::ErrorKind::AlreadyExists => {
            options.open(path)
        }
        created => created,
    };
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => {
            files::unfit("it is a symbolic link, which may lead anywhere: name the file itself")
        }
        Some(libc::ENXIO) => files::unfit(UNFIT),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    let is_nothing = metadata.file_type().is_char_device() && keeps_nothing(metadata.rdev());
    if !metadata.is_file() && !is_nothing {
        return Err(files::unfit(UNFIT));
    }
    files::block(&file)?;
    Ok(file)
}

/// The error for any other file type.
const UNFIT: &str =
    "it is no regular file (a pipe, a socket or a device): name a file, or `-` for standard error";

/// Whether a device is `/dev/null` or `/dev/full` (Documentation/admin-guide/devices.txt of the
/// kernel), which store nothing and never block.
fn keeps_nothing(device: u64) -> bool {
    (libc::major(device), matches!(libc::minor(device), 3 | 7)) == (1, true)
}

/// A regular file that is not empty, opened for reading, and its length.
fn read_back(path: &Path, opened: &File) -> io::Result<Option<(File, u64)>> {
    let metadata = opened.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(None);
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    // Replaced meanwhile: not the file being written.
    Ok(((found.dev(), found.ino()) == (metadata.dev(), metadata.ino()))
        .then_some((file, found.len())))
}

/// Whether the file ends with an incomplete line, as after a power failure.
fn ends_midline(path: &Path, opened: &File) -> bool {
    let mut last = *b"\n";
    // A file that cannot be read back counts as complete; only appending matters.
    let read = read_back(path, opened).and_then(|found| {
        found.map_or(Ok(()), |(file, length)| file.read_exact_at(&mut last, length - 1))
    });
    read.is_ok() && last != *b"\n"
}

struct ShortWrite {
    complete: usize,
    partial: usize,
    error: io::Error,
}

fn write_lines(out: &mut dyn Write, midline: &mut bool, lines: &[u8]) -> Result<(), ShortWrite> {
    if *midline {
        // End the broken line, so that it does not swallow the next.
        write_all(out, b"\n").map_err(|(_, error)| ShortWrite {
            complete: 0,
            partial: 0,
            error,
        })?;
        *midline = false;
    }
    write_all(out, lines).map_err(|(written, error)| {
        let complete = memchr::memrchr(b'\n', &lines[..written]).map_or(0, |at| at + 1);
        ShortWrite { complete, partial: written - complete, error }
    })
}

/// `write_all` that reports how much it wrote.
fn write_all(out: &mut dyn Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    let mut refused_since: Option<Instant> = None;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                written += count;
                refused_since = None;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if refused_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err((written, error));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}
