//! Runs a command, then writes to a file everything readable in the sandbox that might contain a
//! key: its devices, `/proc/*/{environ,cmdline}`, the writable memory of every process, and young
//! files outside the working directory. The sweep cannot look for the key itself, which it must not
//! know: the canary oracle reads the file from outside.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::running::begun;

/// The most memory read per process.
const MEMORY: u64 = 64 << 20;
/// Where young files are looked for, and how deep.
const PLACES: [(&str, usize); 6] =
    [("/etc", 4), ("/run", 4), ("/dev/shm", 4), ("/var/tmp", 3), ("/var/lib", 2), ("/tmp", 2)];
/// The most files read.
const FILES: usize = 20_000;

/// `wrap FILE -- COMMAND [ARG…]`; exits like the command.
///
/// # Errors
/// If the arguments are wrong, the command cannot start, or the file cannot be written.
pub fn main(arguments: &[OsString]) -> Result<ExitCode> {
    let [file, dashes, command, rest @ ..] = arguments else {
        anyhow::bail!("wrap FILE -- COMMAND [ARG…]")
    };
    ensure!(dashes == "--", "wrap FILE -- COMMAND [ARG…]");
    let file = Path::new(file);
    File::create(begun(file))?;
    let began = SystemTime::now();
    let status = Command::new(command)
        .args(rest)
        .status()
        .with_context(|| format!("starting {}", command.display()))?;
    let mut out = io::BufWriter::new(File::create(file)?);
    devices(&mut out)?;
    processes(&mut out)?;
    young_files(&mut out, began)?;
    out.flush()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

fn section(out: &mut impl Write, path: &Path) -> io::Result<()> {
    writeln!(out, "\n== {}", path.display())
}

fn devices(out: &mut impl Write) -> io::Result<()> {
    let path = Path::new("/proc/net/dev");
    section(out, path)?;
    out.write_all(&fs::read(path)?)
}

fn processes(out: &mut impl Write) -> io::Result<()> {
    for entry in fs::read_dir("/proc")?.flatten() {
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        for name in ["environ", "cmdline", "auxv"] {
            let path = entry.path().join(name);
            // Nothing in this sandbox can read what this process cannot.
            if let Ok(bytes) = fs::read(&path) {
                section(out, &path)?;
                out.write_all(&bytes)?;
            }
        }
        memory(out, &entry.path())?;
    }
    Ok(())
}

/// Only writable anonymous mappings: mapped files are read as files.
fn memory(out: &mut impl Write, process: &Path) -> io::Result<()> {
    let (Ok(maps), Ok(mut memory)) =
        (fs::read_to_string(process.join("maps")), File::open(process.join("mem")))
    else {
        return Ok(());
    };
    section(out, &process.join("mem"))?;
    let mut left = MEMORY;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(access)) = (fields.next(), fields.next()) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        else {
            continue;
        };
        if !access.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        if memory.seek(SeekFrom::Start(start)).is_ok() {
            let copied = io::copy(&mut (&memory).take((end - start).min(left)), out).unwrap_or(0);
            left -= copied;
        }
    }
    Ok(())
}

fn young_files(out: &mut impl Write, began: SystemTime) -> io::Result<()> {
    let since = began - Duration::from_secs(5);
    let mut left = FILES;
    for (place, depth) in PLACES {
        let mut directories: Vec<(PathBuf, usize)> = vec![(place.into(), depth)];
        while let Some((directory, depth)) = directories.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() && depth > 1 {
                    directories.push((entry.path(), depth - 1));
                }
                let young = metadata.modified().is_ok_and(|modified| modified >= since);
                if !metadata.is_file() || !young || metadata.len() > 1 << 20 || left == 0 {
                    continue;
                }
                left -= 1;
                if let Ok(bytes) = fs::read(entry.path()) {
                    section(out, &entry.path())?;
                    out.write_all(&bytes)?;
                }
            }
        }
    }
    Ok(())
}
