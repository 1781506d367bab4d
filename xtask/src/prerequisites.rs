//! What the tests, `.ci/run` and the benchmarks need on the machine, with a list for each. As root
//! on Debian and its derivatives, it installs missing packages; elsewhere it lists them all at
//! once, with the commands that install them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process::{cargo, is_root, succeed};

/// How to detect that something is installed.
enum Sign {
    /// A program on `PATH`.
    Program(&'static str),
    /// A command that succeeds.
    Succeeds(&'static [&'static str]),
    /// A file.
    File(&'static str),
    /// Debian's package itself, if its version matters.
    Package,
}

/// A Debian package, its purpose, and how to detect it or an equivalent.
struct Package {
    name: &'static str,
    sign: Sign,
    purpose: &'static str,
}

const fn package(name: &'static str, sign: Sign, purpose: &'static str) -> Package {
    Package { name, sign, purpose }
}

/// What the tests run besides the product: compilers, real clients, engines.
const FOR_TESTS: &[Package] = &[
    package("build-essential", Sign::Program("cc"), "C programs of the tests; aws-lc"),
    package("cmake", Sign::Program("cmake"), "building aws-lc"),
    package("musl-tools", Sign::Program("musl-gcc"), "a resolver that is not glibc's"),
    package("curl", Sign::Program("curl"), "a client"),
    package("wget", Sign::Program("wget"), "a client"),
    package("git", Sign::Program("git"), "a client"),
    package("openssl", Sign::Program("openssl"), "a client; certificates"),
    // The sandboxes need this one: another interpreter may be in a home that they cannot read.
    package("python3", Sign::File("/usr/bin/python3"), "clients; small origins"),
    package(
        "python3-pip",
        Sign::Succeeds(&["/usr/bin/python3", "-m", "pip", "--version"]),
        "a client; installs others",
    ),
    package(
        "python3-venv",
        Sign::Succeeds(&["/usr/bin/python3", "-c", "import ensurepip"]),
        "virtual environments",
    ),
    package("nodejs", Sign::Program("node"), "a client"),
    package("npm", Sign::Program("npm"), "a client; installs others"),
    package("golang-go", Sign::Program("go"), "a client"),
    package("default-jdk-headless", Sign::Program("javac"), "a client"),
    package("php-cli", Sign::Program("php"), "an encoder"),
    package("ruby", Sign::Program("ruby"), "an encoder"),
    package("chromium", Sign::Program("chromium"), "a client"),
    package("firefox-esr", Sign::Program("firefox-esr"), "a client"),
    package("libnss3-tools", Sign::Program("certutil"), "reads the browsers' database"),
    package("openssh-client", Sign::Program("ssh"), "a client"),
    package("postgresql-client", Sign::Program("psql"), "a client"),
    package("nghttp2-client", Sign::Program("nghttp"), "a client of HTTP/2"),
    package("squid", Sign::Program("squid"), "an upstream proxy"),
    package("tinyproxy", Sign::Program("tinyproxy"), "an upstream proxy"),
    package("bubblewrap", Sign::Program("bwrap"), "a sandbox inside the sandbox"),
    package("sudo", Sign::Program("sudo"), "starts the interceptor as people do"),
    package("passwd", Sign::Program("useradd"), "users for tests"),
    package("acl", Sign::Program("setfacl"), "access lists"),
    package("zsh", Sign::Program("zsh"), "completes commands"),
    package("fish", Sign::Program("fish"), "completes commands"),
    package(
        "bash-completion",
        Sign::File("/usr/share/bash-completion/bash_completion"),
        "completes commands",
    ),
    package("procps", Sign::Program("ps"), "looks at processes"),
    package("iproute2", Sign::Program("ip"), "network namespaces"),
    package("gdb", Sign::Program("gcore"), "tries to read the daemon's memory"),
    package("systemd", Sign::Program("systemd-analyze"), "verifies the units"),
    package("podman", Sign::Program("podman"), "containers"),
    // Podman recommends it. Another runtime would do for Podman but not for the hook tests.
    package("crun", Sign::Program("crun"), "containers"),
    package("runc", Sign::Program("runc"), "containers"),
    package("docker.io", Sign::Program("dockerd"), "containers"),
    package("containerd", Sign::Program("ctr"), "containers"),
    // Not on any `PATH`.
    package("conmon", Sign::File("/usr/bin/conmon"), "containers"),
];

/// What `.ci/run` also needs: the toolchain of the eBPF object (see ARCHITECTURE.md). Debian's
/// rustc comes after the machine's own on `PATH`, and is called by its full path.
const FOR_CI: &[Package] = &[
    package("rustc-web", Sign::Package, "the eBPF object"),
    package("rust-web-src", Sign::Package, "the eBPF object"),
    package("llvm-22", Sign::Package, "bpf-linker"),
    package("llvm-22-dev", Sign::Package, "bpf-linker"),
    package(
        "gcc-aarch64-linux-gnu",
        Sign::Program("aarch64-linux-gnu-gcc"),
        "the check for aarch64",
    ),
    package("libc6-dev-arm64-cross", Sign::Package, "the check for aarch64"),
    package("valgrind", Sign::Program("valgrind"), "counts instructions"),
];

/// The peers and load generators of `cargo xtask bench requests`.
const FOR_BENCHES: &[Package] = &[
    package("build-essential", Sign::Program("cc"), "building aws-lc"),
    package("cmake", Sign::Program("cmake"), "building aws-lc"),
    package("nginx-light", Sign::Program("nginx"), "the origin"),
    package("haproxy", Sign::Program("haproxy"), "a contender"),
    package(
        "python3-venv",
        Sign::Succeeds(&["/usr/bin/python3", "-c", "import ensurepip"]),
        "installs a contender, Envoy",
    ),
    package("wrk", Sign::Program("wrk"), "a load over HTTP/1.1"),
    package("nghttp2-client", Sign::Program("h2load"), "a load over HTTP/2"),
    package("util-linux", Sign::Program("setpriv"), "ends what is left behind"),
];

/// A program that cargo installs, in the version that `.ci/run` uses.
struct Tool {
    name: &'static str,
    version: &'static str,
    options: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "bpf-linker",
        version: "0.10.4",
        options: &[],
        environment: &[("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22")],
    },
    Tool { name: "cargo-deny", version: "0.20.2", options: &["--debug"], environment: &[] },
    Tool { name: "cargo-machete", version: "0.9.2", options: &["--debug"], environment: &[] },
];

/// The command that the machine is prepared for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// `cargo xtask test`.
    Tests,
    /// `.ci/run`, which runs the tests too.
    Everything,
    /// `cargo xtask bench requests`.
    Benches,
}

/// Installs what is missing if allowed; otherwise the error lists all of it.
pub(crate) fn bring(need: Need) -> Result<()> {
    let packages = missing_packages(need);
    let tools = if need == Need::Everything { missing_tools() } else { vec![] };
    if packages.is_empty() && tools.is_empty() {
        return Ok(());
    }
    if !(is_root() && on_path("apt-get").is_some() && on_path("dpkg-query").is_some()) {
        bail!("{}", told(need, &packages, &tools));
    }
    if !packages.is_empty() {
        let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
        eprintln!("xtask: installing {}", names.join(" "));
        succeed(apt(&["update", "-qq"]))?;
        let install = ["install", "-y", "-qq", "--no-install-recommends"];
        succeed(apt(&[&install[..], &names].concat()))?;
        let still = missing_packages(need);
        if !still.is_empty() {
            bail!("{}", told(need, &still, &tools));
        }
    }
    for tool in tools {
        eprintln!("xtask: building {} {} (some minutes)", tool.name, tool.version);
        succeed(installation(tool))?;
    }
    Ok(())
}

/// Describes what is missing, with the commands that install it.
fn told(need: Need, packages: &[&Package], tools: &[&Tool]) -> String {
    let mut text = String::from("this machine lacks\n");
    for package in packages {
        text += &format!("  {:22} {}\n", package.shown(), package.purpose);
    }
    for tool in tools {
        text += &format!(
            "  {:22} what `.ci/run` checks with\n",
            format!("{} {}", tool.name, tool.version)
        );
    }
    text += "to install it:\n";
    if !packages.is_empty() {
        let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
        let names = names.join(" ");
        if on_path("apt-get").is_some() {
            text += &format!(
                "  sudo apt-get update && sudo apt-get install -y --no-install-recommends \
                 {names}\n"
            );
        } else {
            text += &format!(
                "  the packages of your distribution that hold those programs; Debian's are\n  \
                 {names}\n"
            );
        }
    }
    for tool in tools {
        let variables: String =
            tool.environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        text += &format!("  {variables}cargo {}\n", tool.arguments().join(" "));
    }
    let command = if need == Need::Benches { "bench" } else { "test" };
    text + &format!("as root on Debian, `cargo xtask {command} --prerequisites` does so itself")
}

impl Package {
    fn is_there(&self) -> bool {
        match self.sign {
            Sign::Program(name) => on_path(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Succeeds(command) => quiet(command),
            Sign::Package => installed(self.name),
        }
    }

    /// The name of what is looked for, as other distributions know it.
    fn shown(&self) -> &'static str {
        match self.sign {
            Sign::Program(name) => name,
            Sign::File(path) => path,
            Sign::Succeeds(_) | Sign::Package => self.name,
        }
    }
}

impl Tool {
    fn arguments(&self) -> Vec<&'static str> {
        [&["install", "--quiet", "--locked"], self.options, &[self.name, "--version", self.version]]
            .concat()
    }
}

fn missing_packages(need: Need) -> Vec<&'static Package> {
    let lists: &[&'static [Package]] = match need {
        Need::Tests => &[FOR_TESTS],
        Need::Everything => &[FOR_TESTS, FOR_CI],
        Need::Benches => &[FOR_BENCHES],
    };
    lists.iter().copied().flatten().filter(|package| !package.is_there()).collect()
}

/// Checks cargo's own record for the name and version in the arguments.
fn missing_tools() -> Vec<&'static Tool> {
    let listed =
        cargo(["install", "--list"]).output().map(|output| output.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let there = |tool: &&Tool| !listed.contains(&format!("{} v{}:", tool.name, tool.version));
    TOOLS.iter().filter(there).collect()
}

fn installation(tool: &Tool) -> Command {
    let mut command = cargo(tool.arguments());
    command.envs(tool.environment.iter().copied());
    command
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    // The tests start servers themselves: installing a server must not start it.
    command.env("RUNLEVEL", "1");
    // Its output about each package matters only if it fails, and is then on standard error.
    command.stdout(Stdio::null());
    command
}

fn installed(package: &str) -> bool {
    let format = "--showformat=${db:Status-Status}";
    let output =
        Command::new("dpkg-query").args(["--show", format, package]).stderr(Stdio::null()).output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

fn quiet(command: &[&str]) -> bool {
    let mut process = Command::new(command[0]);
    process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    process.status().is_ok_and(|status| status.success())
}

/// Finds a program on `PATH`, or in the directories of root's `PATH`.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_missing_is_listed_with_the_commands() {
        let gone = package("no-such-package", Sign::Program("no-such-program"), "nothing");
        let old = package("no-such-library", Sign::Package, "less");
        assert!(!gone.is_there() && !old.is_there());
        let text = told(Need::Tests, &[&gone, &old], &[&TOOLS[0]]);
        for part in ["no-such-program", "no-such-package no-such-library", "bpf-linker 0.10.4"] {
            assert!(text.contains(part), "{text}");
        }
        let linker =
            "LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 cargo install --quiet --locked bpf-linker";
        assert!(text.contains(linker), "{text}");
    }

    #[test]
    fn the_programs_that_run_this_test_are_found() {
        assert!(package("x", Sign::Succeeds(&["true"]), "").is_there());
        assert!(!package("x", Sign::Succeeds(&["false"]), "").is_there());
        assert!(!package("x", Sign::Succeeds(&["/no/such/program"]), "").is_there());
        assert!(package("x", Sign::Program("sh"), "").is_there());
        assert!(package("x", Sign::File("/proc/self/exe"), "").is_there());
    }

    #[test]
    fn no_package_is_listed_twice() {
        for lists in [&[FOR_TESTS, FOR_CI][..], &[FOR_BENCHES]] {
            let packages = lists.iter().copied().flatten();
            let mut names: Vec<&str> = packages.map(|package| package.name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
