//! Proves that an engine calls the hook: runs a container of the host's own files that tries to get
//! out.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::scratch::Scratch;
use crate::oci::POLICY;
use crate::oci::podman::{POLICIES, PROGRAM};

/// An address nobody has (TEST-NET-1, RFC 5737): only the interceptor answers for it.
const NOBODY: ([u8; 4], u16) = ([192, 0, 2, 1], 80);
/// Time limit for a response.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest refusal, in bytes.
const MOST: u64 = 64 << 10;
/// The directories that the host's programs need.
const FILES: [&str; 6] = ["/usr", "/lib", "/lib64", "/bin", "/nix", "/gnu"];
/// This program's path in the container.
const INSIDE: &str = "/interceptor";

/// The arguments of `interceptor prove`: none.
#[derive(Debug, clap::Args)]
pub struct Prove {}

/// Tries to get out of a container that `install` started. Prints the refusal it got; fails if it
/// got none.
pub fn prove(_arguments: Prove) -> anyhow::Result<ExitCode> {
    let to = SocketAddr::from(NOBODY);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
        .with_context(|| format!("a connection to {to} was not intercepted"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", to.ip())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer).context("the answer cannot be read")?;
    let is_refusal =
        answer.starts_with("HTTP/1.1 403") && answer.contains("x-interceptor-decision");
    if !is_refusal {
        bail!("the response is not from the interceptor");
    }
    let datagram = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| socket.send_to(b"x", to));
    if datagram.is_ok() {
        bail!("a datagram to {to} was sent");
    }
    let decision = answer.lines().find(|line| line.starts_with("x-interceptor-decision"));
    writeln!(std::io::stdout(), "{}", decision.unwrap_or_default())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the container with Podman and returns the refusal it got.
pub(super) fn of_podman() -> anyhow::Result<String> {
    let name = format!("interceptor-proof-{}", std::process::id());
    let policy = Scratch(Path::new(POLICIES).join(format!("{name}.json")));
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&policy.0)?;
    file.write_all(br#"{"network":{"allow":["proof.invalid"]}}"#)?;
    drop(file);
    let root = Scratch(PathBuf::from(format!("/run/{name}")));
    let volumes = rootfs(&root.0).context("cannot make the container's file system")?;

    let mut command = Command::new(PROGRAM);
    command.args([
        "run",
        "--rm",
        "--network",
        "none",
        "--security-opt",
        "label=disable",
        "--name",
        &name,
    ]);
    command.args(["--annotation", &format!("{POLICY}={name}")]);
    for (from, to) in &volumes {
        command.arg("--volume").arg(format!("{}:{to}:ro", from.display()));
    }
    command.arg("--rootfs").arg(&root.0).args([INSIDE, "prove"]);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {PROGRAM}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{}{}", said, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(said.trim().to_owned())
}

/// Creates a minimal root file system and returns the host directories to mount in it.
fn rootfs(root: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    for name in ["etc", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let mut volumes = vec![(std::env::current_exe()?, INSIDE.to_owned())];
    for path in FILES.map(Path::new) {
        let below = root.join(path.strip_prefix("/").unwrap_or(path));
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(path)?, below)?,
            Ok(metadata) if metadata.is_dir() => {
                volumes.push((path.to_owned(), path.display().to_string()))
            }
            _ => {}
        }
    }
    Ok(volumes)
}
