//! `cargo xtask ebpf [--check]`: builds the eBPF object that is checked in beside the loader.
//!
//! Users never need this: the object is in the repository, and plain stable Rust embeds it. The
//! build is reproducible: the same sources and the same toolchain give the same bytes in any
//! directory, which `--check` proves by comparing them with the checked-in object. It installs
//! nothing; if something is missing, it prints the commands that install it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The triple of the programs.
const TARGET: &str = "bpfel-unknown-none";
/// The package and the binary in it.
const PACKAGE: &str = "interceptor-ebpf";
/// The directory of the object and its metadata, relative to the workspace's root.
const KEPT: &str = "interceptor/ebpf";
/// The linker that turns LLVM bitcode into an eBPF object with BTF.
const LINKER: &str = "bpf-linker";
/// The version that made the object; other versions make other bytes.
const LINKER_VERSION: &str = "0.10.4";

/// Runs the command.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let check = match arguments {
        [] => false,
        [argument] if argument == "--check" => true,
        _ => bail!("usage: cargo xtask ebpf [--check]"),
    };
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?;
    let toolchain = Toolchain::find()?;
    let object = toolchain.build(root)?;
    let kept = Kept::at(&root.join(KEPT));
    if check { kept.compare(&object, &toolchain) } else { kept.write(&object, &toolchain) }
}

/// The compiler, its sources, the linker and the stripper.
struct Toolchain {
    rustc: PathBuf,
    rustc_version: String,
    rust_source: PathBuf,
    linker: PathBuf,
    linker_version: String,
    strip: PathBuf,
    strip_version: String,
}

impl Toolchain {
    /// Finds every part, or reports everything that is missing at once.
    fn find() -> Result<Self> {
        let mut missing = Vec::new();
        let rustc = find_rustc();
        if rustc.is_none() {
            missing.push(
                "a rustc with its library sources and LLVM 22:\n    apt-get install rustc-web \
                 rust-web-src     (Debian: rustc 1.96)\n    or: rustup toolchain install nightly \
                 --component rust-src",
            );
        }
        let linker = in_path(LINKER);
        let linker_version = linker.as_deref().and_then(|linker| version(linker).ok());
        if linker_version.as_deref() != Some(&format!("{LINKER} {LINKER_VERSION}")) {
            missing.push(concat!(
                "bpf-linker 0.10.4, built against LLVM 22:\n    apt-get install llvm-22-dev\n    ",
                "cargo install bpf-linker --version 0.10.4 --locked"
            ));
        }
        let strip = [PathBuf::from("/usr/lib/llvm-22/bin/llvm-strip")]
            .into_iter()
            .chain(in_path("llvm-strip-22"))
            .chain(in_path("llvm-strip"))
            .find(|path| path.is_file());
        if strip.is_none() {
            missing.push("llvm-strip of LLVM 22:\n    apt-get install llvm-22");
        }
        match (rustc, linker, linker_version, strip) {
            (
                Some((rustc, rustc_version, rust_source)),
                Some(linker),
                Some(linker_version),
                Some(strip),
            ) if missing.is_empty() => {
                let strip_version = version_line(&strip, "LLVM version")?;
                Ok(Self {
                    rustc,
                    rustc_version,
                    rust_source,
                    linker,
                    linker_version,
                    strip,
                    strip_version,
                })
            }
            _ => bail!(
                "building the eBPF object needs, and this machine lacks:\n  {}",
                missing.join("\n  ")
            ),
        }
    }

    /// Builds, strips, and returns the object's bytes.
    fn build(&self, root: &Path) -> Result<Vec<u8>> {
        let target_directory = root.join("target/ebpf");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .current_dir(root)
            // `cargo xtask` sets these for the toolchain that built xtask, which is a different
            // one.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env("RUSTC", &self.rustc)
            // build-std and inline assembly for BPF are unstable; this lets a release compiler take
            // them.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("RUSTFLAGS", self.flags(root)?)
            .args(["build", "-Z", "build-std=core", "--target", TARGET, "--release", "--locked"])
            .args([
                "--package",
                PACKAGE,
                "--bin",
                PACKAGE,
                "--features",
                "programs",
                "--target-dir",
            ])
            .arg(&target_directory)
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "the eBPF build failed: {status}");
        let built = target_directory.join(TARGET).join("release").join(PACKAGE);
        let stripped = target_directory.join("interceptor.o");
        let status = Command::new(&self.strip)
            .arg("-g")
            .arg("-o")
            .args([&stripped, &built])
            .status()
            .with_context(|| format!("cannot run {}", self.strip.display()))?;
        ensure!(status.success(), "{} failed: {status}", self.strip.display());
        fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
    }

    /// The compiler's flags: BTF, which needs debug information, and no path of this machine in the
    /// object.
    fn flags(&self, root: &Path) -> Result<String> {
        let cargo_home = match env::var_os("CARGO_HOME") {
            Some(home) => PathBuf::from(home),
            None => {
                PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?)
                    .join(".cargo")
            }
        };
        let mut flags =
            String::from("-C debuginfo=2 -C link-arg=--btf --cfg=bpf_target_arch=\"x86_64\"");
        let mut remap = |from: &Path, to: &str| -> Result<()> {
            let from = from.to_str().context("a path to remap is not UTF-8")?;
            ensure!(
                !from.contains(char::is_whitespace),
                "{from}: RUSTFLAGS cannot carry a path with white space"
            );
            Ok(write!(flags, " --remap-path-prefix={from}={to}")?)
        };
        remap(root, ".")?;
        let sources = cargo_home.join("registry/src");
        // Cargo names the directory of a registry after the registry and a hash.
        for entry in
            fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?
        {
            remap(&entry?.path(), "registry")?;
        }
        remap(&self.rust_source, "rust")?;
        Ok(flags)
    }

    /// The versions that determine the bytes, one per line.
    fn versions(&self) -> String {
        format!(
            "{}\n{}\nllvm-strip {}\n",
            self.rustc_version, self.linker_version, self.strip_version
        )
    }
}

/// The checked-in files.
struct Kept {
    object: PathBuf,
    hash: PathBuf,
    versions: PathBuf,
}

impl Kept {
    fn at(directory: &Path) -> Self {
        Self {
            object: directory.join("interceptor.o"),
            hash: directory.join("interceptor.o.sha256"),
            versions: directory.join("versions"),
        }
    }

    fn write(&self, object: &[u8], toolchain: &Toolchain) -> Result<()> {
        fs::write(&self.object, object)
            .with_context(|| format!("cannot write {}", self.object.display()))?;
        let hash = sha256(&self.object)?;
        fs::write(&self.hash, format!("{hash}  interceptor.o\n"))?;
        fs::write(&self.versions, toolchain.versions())?;
        println!("{}: {} bytes, sha256 {hash}", self.object.display(), object.len());
        Ok(())
    }

    fn compare(&self, object: &[u8], toolchain: &Toolchain) -> Result<()> {
        let kept = fs::read(&self.object)
            .with_context(|| format!("cannot read {}", self.object.display()))?;
        let hash = sha256(&self.object)?;
        let noted = fs::read_to_string(&self.hash)
            .with_context(|| format!("cannot read {}", self.hash.display()))?;
        ensure!(
            noted.split_whitespace().next() == Some(hash.as_str()),
            "{} does not hold the hash of {}, which is {hash}",
            self.hash.display(),
            self.object.display()
        );
        if kept == object {
            println!(
                "{}: the sources and the toolchain make the same {} bytes",
                self.object.display(),
                object.len()
            );
            return Ok(());
        }
        let versions = fs::read_to_string(&self.versions).unwrap_or_default();
        let at = kept
            .iter()
            .zip(object)
            .position(|(a, b)| a != b)
            .unwrap_or(kept.len().min(object.len()));
        let cause = if versions == toolchain.versions() {
            "the toolchain is the same, so the sources have changed: run `cargo xtask ebpf` and \
             commit what it writes"
                .to_owned()
        } else {
            format!(
                "the toolchain differs; checked in was made by\n{versions}and this machine has\n{}",
                toolchain.versions()
            )
        };
        bail!(
            "{} is not what the sources make: {} bytes against {} built, first difference at byte \
             {at}; {cause}",
            self.object.display(),
            kept.len(),
            object.len()
        );
    }
}

/// A compiler that has its library sources, with its version and where the sources are: Debian's,
/// else rustup's nightly.
pub(crate) fn find_rustc() -> Option<(PathBuf, String, PathBuf)> {
    let nightly = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", "rustc"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    [Some(PathBuf::from("/usr/bin/rustc")), nightly].into_iter().flatten().find_map(|rustc| {
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        let llvm = version_line(&rustc, "LLVM version:").ok()?;
        let usable = source.join("library/core/src/lib.rs").is_file() && llvm.starts_with("22.");
        usable
            .then(|| version(&rustc).ok())
            .flatten()
            .map(|version| (rustc, format!("{version}, LLVM {llvm}"), source))
    })
}

/// Finds a program on PATH or among cargo's installed programs.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    env::split_paths(&path)
        .chain(cargo)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// The first line of a program's `--version`.
fn version(program: &Path) -> Result<String> {
    let text = output(Command::new(program).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The value after a label in a program's long version.
fn version_line(program: &Path, label: &str) -> Result<String> {
    let long = output(Command::new(program).args(["--version", "--verbose"]))
        .or_else(|_| output(Command::new(program).arg("--version")))?;
    let line = long.lines().find_map(|line| line.split_once(label));
    Ok(line
        .with_context(|| format!("{} does not say its {label}", program.display()))?
        .1
        .trim()
        .to_owned())
}

/// The SHA-256 of a file, by coreutils.
fn sha256(path: &Path) -> Result<String> {
    let text = output(Command::new("sha256sum").arg("--").arg(path))?;
    Ok(text.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
}

/// A command's standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        command.get_program().display(),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}
