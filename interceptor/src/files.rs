//! Opens files named by users or policies. Whatever is at the path is either read to its end or
//! rejected with a clear error: nothing here waits for a writer or reads without a limit.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zeroize::Zeroizing;

/// The minimum buffer for a file, in bytes, whatever length it reports.
const SHORT: usize = 64 << 10;

/// Opens a regular file for reading, or a shell's pipe (`/dev/fd/63`, `/dev/stdin`).
///
/// # Errors
/// As for open(2); with an explanation for a directory, device, socket or named pipe.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opening a named pipe without a writer would block.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO | libc::ENODEV) => unfit("it is a socket or a device, not a regular file"),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if kind.is_fifo() && is_anonymous(&file) {
        block(&file)?;
    } else if kind.is_fifo() {
        return Err(unfit("it is a named pipe, which may never end: use a regular file"));
    } else if !kind.is_file() {
        return Err(unfit("it is a device, not a regular file"));
    }
    Ok((file, metadata))
}

/// Reads a whole file of at most `most` bytes. The content may be secret, so the buffer is
/// allocated up front (growing leaves copies behind) and zeroized on drop.
///
/// # Errors
/// As for [`open`] and read(2); [`ErrorKind::FileTooLarge`] for a longer file.
pub(crate) fn read(path: &Path, most: usize) -> io::Result<(Zeroizing<Vec<u8>>, Metadata)> {
    let (file, metadata) = open(path)?;
    let too_large =
        || io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {most} bytes"));
    if metadata.is_file() && metadata.len() > most as u64 {
        return Err(too_large());
    }
    // Pipes and procfs files report no length; secrets are short.
    let told = usize::try_from(metadata.len()).unwrap_or(most);
    let mut bytes = Zeroizing::new(Vec::with_capacity(told.max(most.min(SHORT)) + 2));
    file.take((most as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > most { Err(too_large()) } else { Ok((bytes, metadata)) }
}

/// Like [`read`], as text.
///
/// # Errors
/// Also [`ErrorKind::InvalidData`] for what is not UTF-8.
pub(crate) fn read_text(path: &Path, most: usize) -> io::Result<String> {
    let (bytes, _) = read(path, most)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unfit("it is not UTF-8"))?;
    Ok(text.to_owned())
}

/// Makes a file opened with `O_NONBLOCK` blocking again.
pub(crate) fn block(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(file.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Runs work that reads files on a separate thread, since a file may be on a mount that hangs.
/// `None` if it takes too long; it may still finish later.
pub(crate) fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, outcome) = mpsc::channel();
    // The receiver may be gone.
    std::thread::spawn(move || drop(done.send(work())));
    outcome.recv_timeout(patience).ok()
}

pub(crate) fn unfit(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

/// Whether a pipe is anonymous, so that only processes that inherited it can write to it.
fn is_anonymous(pipe: &File) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", pipe.as_raw_fd()));
    link.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"pipe:["))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_has_no_end_or_no_reader_is_refused_at_once_and_in_words() {
        let home = tempfile::tempdir().unwrap();
        let fifo = home.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        let socket = home.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let huge = home.path().join("huge");
        File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        let table = [
            (PathBuf::from("/dev/zero"), "device"),
            (PathBuf::from("/dev/null"), "device"),
            (link, "device"),
            (fifo, "named pipe"),
            (socket, "socket"),
            (home.path().to_owned(), "directory"),
            (huge, "more than 64 bytes"),
            (home.path().join("none"), "No such file"),
        ];
        for (path, words) in table {
            let error = read(&path, 64).map(|(bytes, _)| bytes.len()).unwrap_err().to_string();
            assert!(error.contains(words), "{}: {error}", path.display());
        }
    }

    #[test]
    fn what_hangs_is_waited_for_in_bounds() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (hold, held) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || held.recv().is_ok()), None);
        drop(hold);
    }

    #[test]
    fn a_file_is_read_up_to_its_bound_and_so_is_a_pipe_of_ones_own() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        std::fs::write(&path, [b'x'; 64]).unwrap();
        assert_eq!(read(&path, 64).unwrap().0.len(), 64);
        assert_eq!(read(&path, 63).unwrap_err().kind(), ErrorKind::FileTooLarge);
        // It tells no length before it is read.
        assert_eq!(
            read(Path::new("/proc/self/status"), 8).unwrap_err().kind(),
            ErrorKind::FileTooLarge
        );
        let (reader, mut writer) = io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            // Nothing is there yet when the reader looks for the first time.
            std::thread::yield_now();
            writer.write_all(b"from a pipe").unwrap();
        });
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        assert_eq!(read_text(&path, 64).unwrap(), "from a pipe");
        writing.join().unwrap();
    }
}
