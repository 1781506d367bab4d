//! Follows a growing file across rotations and truncations by polling it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::lines::{Line, Lines};
use crate::files;

/// Polling interval in milliseconds.
const INTERVAL: u16 = 200;

/// A file that is followed.
pub(super) struct Followed {
    path: PathBuf,
    reader: BufReader<File>,
    lines: Lines,
}

impl Followed {
    /// Opens the file at its start.
    pub(super) fn open(path: &Path) -> anyhow::Result<Followed> {
        let context = || format!("cannot read the audit file {}", path.display());
        let (file, _) = files::open(path).with_context(context)?;
        Ok(Followed {
            path: path.to_owned(),
            reader: BufReader::new(file),
            lines: Lines::default(),
        })
    }

    /// The next complete line, if there is one.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        self.lines.next(&mut self.reader)
    }

    /// The rest of an unfinished line.
    pub(super) fn rest(&mut self) -> Option<Line> {
        self.lines.rest()
    }

    /// Checks whether the file was replaced or truncated. Call when [`Followed::next`] has returned
    /// `None`. Returns the rest of the old file's unfinished line.
    pub(super) fn turn(&mut self) -> io::Result<Option<Line>> {
        let own = self.reader.get_ref().metadata()?;
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) != (own.dev(), own.ino()) => {
                // The writer may have used the old file until just now.
                if let Some(line) = self.next()? {
                    return Ok(Some(line));
                }
                match files::open(&self.path) {
                    Ok((file, _)) => self.reader = BufReader::new(file),
                    // It is being rotated right now.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
                Ok(self.lines.rest())
            }
            // During rotation, the old file is gone before the new one exists.
            Ok(_) | Err(_) => {
                if own.is_file() && own.len() < self.reader.stream_position()? {
                    self.reader.seek(SeekFrom::Start(0))?;
                    return Ok(self.lines.rest());
                }
                Ok(None)
            }
        }
    }
}

/// Waits a moment; `false` when standard output has lost its reader.
pub(super) fn pause() -> bool {
    let out = io::stdout();
    // A pipe without a reader reports an error even when no event is requested.
    let mut descriptors = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let lost = poll(&mut descriptors, PollTimeout::from(INTERVAL)).is_ok_and(|ready| ready > 0);
    !lost
}

/// Keeps the last few items.
pub(super) struct Last<T> {
    most: usize,
    kept: VecDeque<T>,
}

impl<T> Last<T> {
    /// Keeps at most `most`.
    pub(super) fn new(most: usize) -> Last<T> {
        Last { most, kept: VecDeque::new() }
    }

    /// Adds an item and returns the one it displaces.
    pub(super) fn push(&mut self, one: T) -> Option<T> {
        self.kept.push_back(one);
        if self.kept.len() > self.most { self.kept.pop_front() } else { None }
    }

    /// Removes all items, oldest first.
    pub(super) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.kept).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(followed: &mut Followed) -> Vec<String> {
        let mut found = Vec::new();
        for _ in 0..20 {
            let line = match followed.next().unwrap() {
                Some(line) => Some(line),
                None => followed.turn().unwrap(),
            };
            if let Some(Line::Whole(line)) = line {
                found.push(String::from_utf8(line).unwrap());
            }
        }
        found
    }

    #[test]
    fn a_file_is_followed_over_rotation_and_truncation() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("a"), folder.path().join("a.1"));
        fs::write(&path, "1\n2\nha").unwrap();
        let mut followed = Followed::open(&path).unwrap();
        assert_eq!(all(&mut followed), ["1", "2"]);
        let mut writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        writer.write_all(b"lf\n").unwrap();
        fs::rename(&path, &old).unwrap();
        assert_eq!(all(&mut followed), ["half"]);
        writer.write_all(b"late\n").unwrap();
        fs::write(&path, "new\n").unwrap();
        assert_eq!(all(&mut followed), ["late", "new"]);
        // Emptied in place, as `copytruncate` does.
        fs::write(&path, "").unwrap();
        assert_eq!(all(&mut followed), [""; 0]);
        fs::write(&path, "x\n").unwrap();
        assert_eq!(all(&mut followed), ["x"]);
    }
}
