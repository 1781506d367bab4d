//! Proves that an engine calls the hook or the runtime: runs a container of the host's own files
//! that tries to get out.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::scratch::Scratch;
use crate::oci::podman::{POLICIES, PROGRAM};
use crate::oci::{POLICY, docker};

/// An address nobody has (TEST-NET-1, RFC 5737): only the interceptor answers for it.
const NOBODY: ([u8; 4], u16) = ([192, 0, 2, 1], 80);
/// Time limit for a response.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest refusal, in bytes.
const MOST: u64 = 64 << 10;
/// The directories that the host's programs need.
const FILES: [&str; 6] = ["/usr", "/lib", "/lib64", "/bin", "/nix", "/gnu"];
/// The namespace of containerd for proofs. Its name is part of the path of the container's cgroup,
/// whose own part has the container's name.
const NAMESPACE: &str = "interceptor-install";
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

/// A policy for one container, removed on drop.
pub(super) struct Policy {
    /// Its name.
    pub(super) name: String,
    _file: Scratch,
}

impl Policy {
    /// Puts one that permits nothing that exists into the operator's directory.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn new() -> anyhow::Result<Self> {
        let name = format!("proof-{}", std::process::id());
        let path = Path::new(POLICIES).join(format!("{name}.json"));
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let scratch = Scratch(path);
        file.write_all(br#"{"network":{"allow":["proof.invalid"]}}"#)?;
        Ok(Policy { name, _file: scratch })
    }
}

/// The file system of the container, and the host directories to mount in it.
struct Container {
    name: String,
    root: Scratch,
    volumes: Vec<(PathBuf, String)>,
}

impl Container {
    fn new() -> anyhow::Result<Self> {
        let name = format!("interceptor-proof-{}", std::process::id());
        let root = Scratch(PathBuf::from(format!("/run/{name}")));
        let volumes = rootfs(&root.0).context("cannot make the container's file system")?;
        Ok(Container { name, root, volumes })
    }

    /// The options that mount them, for Docker and Podman.
    fn mounts(&self) -> Vec<String> {
        let one = |(from, to): &(PathBuf, String)| format!("{}:{to}:ro", from.display());
        self.volumes.iter().flat_map(|volume| ["--volume".to_owned(), one(volume)]).collect()
    }
}

/// Runs the container with Podman and returns the refusal it got.
pub(super) fn of_podman() -> anyhow::Result<String> {
    let (policy, container) = (Policy::new()?, Container::new()?);
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--rm", "--network", "none", "--security-opt", "label=disable"]);
    command.args(["--name", &container.name]);
    command.args(["--annotation", &format!("{POLICY}={}", policy.name)]);
    command.args(container.mounts());
    command.arg("--rootfs").arg(&container.root.0).args([INSIDE, "prove"]);
    refusal(command)
}

/// The same with Docker, by this runtime.
pub(super) fn of_docker(runtime: &str) -> anyhow::Result<String> {
    let container = Container::new()?;
    let mut archive = Command::new("tar")
        .arg("-C")
        .arg(&container.root.0)
        .args(["-cf", "-", "."])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let packed = archive.stdout.take().context("tar has no output")?;
    let mut import = Command::new(docker::PROGRAM);
    import.args(["import", "-", &container.name]).stdin(packed);
    let imported = import.stdout(Stdio::null()).status();
    archive.wait().context("tar is gone")?;
    if !imported.with_context(|| format!("cannot run {}", docker::PROGRAM))?.success() {
        bail!("docker import failed");
    }
    let mut command = Command::new(docker::PROGRAM);
    command.args(["run", "--rm", "--network", "none", "--name", &container.name]);
    command.args(["--runtime", runtime]).args(container.mounts());
    command.args([&container.name, INSIDE, "prove"]);
    let refusal = refusal(command);
    let mut remove = Command::new(docker::PROGRAM);
    let removed = remove.args(["rmi", "--force", &container.name]).stdout(Stdio::null()).status();
    removed.with_context(|| format!("cannot run {}", docker::PROGRAM))?;
    refusal
}

/// The same with containerd, by this program as the runtime.
pub(super) fn of_containerd(runtime: &Path) -> anyhow::Result<String> {
    let (policy, container) = (Policy::new()?, Container::new()?);
    let mut command = Command::new("ctr");
    command.args(["--namespace", NAMESPACE, "run", "--rm", "--rootfs", "--runc-binary"]);
    // Without shares of CPU: a host may have no controllers for cgroup v2.
    command.arg(runtime).args(["--cpu-shares", "0"]);
    command.args(["--annotation", &format!("{POLICY}={}", policy.name)]);
    for (from, to) in &container.volumes {
        let mount = format!("type=bind,src={},dst={to},options=rbind:ro", from.display());
        command.args(["--mount", &mount]);
    }
    command.arg(&container.root.0).args([&container.name, INSIDE, "prove"]);
    let refusal = refusal(command);
    let mut remove = Command::new("ctr");
    remove.args(["namespaces", "remove", NAMESPACE]).stdin(Stdio::null());
    // It stays where another proof goes on.
    let _ = remove.output();
    refusal
}

/// What the container's process says; an error unless it was refused.
fn refusal(mut command: Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
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
