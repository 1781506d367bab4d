//! `cargo xtask dist`: assembles a package of the interceptor in `target/dist`, and an archive of
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::process::{built, cargo, succeed, workspace};

/// Further contents of a package, if present, besides those made from the program.
const CARRIED: [&str; 11] = [
    "LICENSE",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "contrib",
    "docs",
    "examples",
    "packaging",
    "systemd",
];

/// Builds the release binary, or the debug one with `--debug`, and assembles the package, with
/// `--to DIR` in that directory.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let mut profile = "release";
    let mut to = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--debug" => profile = "debug",
            "--to" => to = Some(PathBuf::from(rest.next().context("--to needs a directory")?)),
            unknown => bail!("no option {unknown:?}: there are --debug and --to DIR"),
        }
    }
    let build = ["build", "--quiet", "-p", "interceptor"].into_iter();
    succeed(cargo(build.chain((profile == "release").then_some("--release"))))?;
    let program = built(profile, "interceptor")?;

    let target =
        program.parent().and_then(Path::parent).context("the program is not in target/PROFILE")?;
    let to = to.unwrap_or_else(|| target.join("dist"));
    let name =
        format!("interceptor-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let package = to.join(&name);
    if package.exists() {
        // Only remove what an earlier run made.
        fs::remove_dir_all(&package).with_context(|| format!("removing {}", package.display()))?;
    }
    fs::create_dir_all(package.join("bin"))
        .with_context(|| format!("making {}", package.display()))?;
    copy(&program, &package.join("bin/interceptor"))?;
    let mut generate = Command::new(&program);
    generate.arg("generate").arg("--to").arg(&package);
    succeed(generate)?;
    for carried in CARRIED {
        let from = workspace().join(carried);
        if from.exists() {
            copy(&from, &package.join(carried))?;
        }
    }

    let archive = to.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--gzip",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--file",
    ]);
    tar.arg(&archive).arg("--directory").arg(&to).arg(&name);
    succeed(tar)?;
    let mut files = Vec::new();
    list(&package, &mut files)?;
    for file in files.iter().chain([&archive]) {
        let size =
            fs::metadata(file).with_context(|| format!("examining {}", file.display()))?.len();
        println!("{size:>10}  {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies a file, or a directory with its contents.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("copying {} to {}", from.display(), to.display());
    if !from.is_dir() {
        return fs::copy(from, to).map(drop).with_context(context);
    }
    fs::create_dir_all(to).with_context(context)?;
    for entry in fs::read_dir(from).with_context(context)? {
        let entry = entry.with_context(context)?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The files below a directory, in order.
fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
