//! Where packages may be: beside the command and the interpreters on `PATH`, in virtual
//! environments, where variables point, in the working directory, and where the command line
//! points.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::names::is_bundle;

/// Interpreters that indicate packages beside a directory of programs.
const INTERPRETERS: [&str; 6] = ["python3", "python", "pypy3", "node", "bun", "ruby"];
/// System directories, which are no package directories by themselves.
const SYSTEM: [&str; 16] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/run", "/sbin",
    "/sys", "/usr", "/usr/bin", "/usr/lib", "/var",
];
/// Maximum number of places of each kind.
const MOST: usize = 128;

/// The places to search: symlinks resolved, each once.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Places {
    /// Bundles by name.
    pub(super) files: Vec<PathBuf>,
    /// Package directories.
    pub(super) packages: Vec<PathBuf>,
    /// Directories that may contain packages: the working directory, and where the command line
    /// points.
    pub(super) others: Vec<PathBuf>,
}

impl Places {
    /// The places for a command with this environment (`NAME=value` each), working directory and
    /// home.
    pub(in crate::sandbox) fn of(
        command: &[OsString],
        environment: &[OsString],
        directory: &Path,
        home: Option<&Path>,
    ) -> Self {
        let variable = |name: &str| {
            let start = [name.as_bytes(), b"="].concat();
            let line = environment.iter().find(|line| line.as_bytes().starts_with(&start))?;
            Some(OsStr::from_bytes(&line.as_bytes()[start.len()..]))
                .filter(|value| !value.is_empty())
        };
        let list = |name: &str| -> Vec<PathBuf> {
            let value = variable(name).unwrap_or_default();
            let parts = env::split_paths(value).filter(|part| !part.as_os_str().is_empty());
            parts.map(|part| directory.join(part)).take(MOST).collect()
        };

        let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
            .iter()
            .filter_map(|name| Some(directory.join(variable(name)?)))
            .collect();
        prefixes.extend([".venv", "venv", "env"].map(|name| directory.join(name)));
        let path = list("PATH");
        // A path makes `join` keep the program as it is; a name means the first match on `PATH`.
        let program = command.first().map(Path::new).unwrap_or(Path::new(""));
        let own = if program.components().count() > 1 {
            vec![directory.join(program)]
        } else {
            path.iter()
                .map(|programs| programs.join(program))
                .find(|file| file.is_file())
                .into_iter()
                .collect()
        };
        let interpreters = path
            .iter()
            .flat_map(|programs| INTERPRETERS.map(|interpreter| programs.join(interpreter)));
        for program in own.into_iter().chain(interpreters) {
            let Ok(resolved) = fs::canonicalize(&program) else { continue };
            let prefix =
                |program: &Path| program.parent().and_then(Path::parent).map(Path::to_owned);
            prefixes.extend(prefix(&program).into_iter().chain(prefix(&resolved)));
        }
        if let Some(home) = home {
            prefixes.push(home.join(".local"));
            // Tools with one environment each.
            for tools in [".local/share/uv/tools", ".local/share/pipx/venvs", ".local/pipx/venvs"] {
                prefixes.extend(children(&home.join(tools), |_| true));
            }
        }

        let mut places = Places::default();
        places.add_other(directory);
        for prefix in prefixes.iter().filter_map(|prefix| resolved(prefix)) {
            places.add_prefix(&prefix);
        }
        for packages in list("PYTHONPATH").into_iter().chain(list("NODE_PATH")) {
            places.add_packages(&packages);
        }
        for gems in children(Path::new("/var/lib/gems"), |_| true) {
            places.add_packages(&gems.join("gems"));
        }
        for argument in command.iter().skip(1) {
            places.add_mentioned(argument, directory);
        }
        places
    }

    fn add_prefix(&mut self, prefix: &Path) {
        for library in ["lib", "lib64"].map(|name| prefix.join(name)) {
            let versions = |name: &OsStr| {
                let name = name.as_bytes();
                name.starts_with(b"python") || name.starts_with(b"pypy")
            };
            for version in children(&library, versions) {
                self.add_packages(&version.join("site-packages"));
                self.add_packages(&version.join("dist-packages"));
            }
            self.add_packages(&library.join("node_modules"));
            for version in children(&library.join("ruby/gems"), |_| true) {
                self.add_packages(&version.join("gems"));
            }
        }
        // Conda's own OpenSSL.
        let bundle = prefix.join("ssl/cacert.pem");
        self.add_file(&bundle);
    }

    /// Adds what an argument points to: the argument itself, an option's value, or a path in
    /// program text. It may be a script with packages beside it, a directory or a bundle.
    fn add_mentioned(&mut self, argument: &OsStr, directory: &Path) {
        let plain = |byte: &u8| {
            byte.is_ascii_alphanumeric() || b"/._-+@~".contains(byte) || !byte.is_ascii()
        };
        let whole = [argument.as_bytes()];
        let parts =
            argument.as_bytes().split(|byte| !plain(byte)).filter(|text| text.contains(&b'/'));
        for text in whole.into_iter().chain(parts.take(MOST)) {
            let path = directory.join(OsStr::from_bytes(text));
            if is_bundle(&path) {
                self.add_file(&path);
            } else if path.is_dir() {
                self.add_other(&path);
            } else if let (true, Some(beside)) = (path.is_file(), path.parent()) {
                self.add_other(beside);
            }
        }
    }

    fn add_other(&mut self, directory: &Path) {
        let fit = |found: &PathBuf| {
            found.is_dir() && SYSTEM.iter().all(|system| found != Path::new(system))
        };
        let found = resolved(directory).filter(fit);
        if let Some(found) =
            found.filter(|found| !self.others.contains(found) && self.others.len() < MOST)
        {
            self.others.push(found);
        }
    }

    fn add_file(&mut self, file: &Path) {
        let found =
            resolved(file).filter(|found| !self.files.contains(found) && self.files.len() < MOST);
        self.files.extend(found);
    }

    fn add_packages(&mut self, directory: &Path) {
        let found = resolved(directory).filter(|directory| directory.is_dir());
        if let Some(found) =
            found.filter(|found| !self.packages.contains(found) && self.packages.len() < MOST)
        {
            self.packages.push(found);
        }
    }
}

fn resolved(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// The first entries of a directory whose names `fit`.
fn children(directory: &Path, fit: impl Fn(&OsStr) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.flatten().take(4096).filter(|entry| fit(&entry.file_name()));
    entries.map(|entry| entry.path()).take(MOST).collect()
}
