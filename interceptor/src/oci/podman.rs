//! Finds where Podman looks for hooks, and checks whether it would call ours (oci-hooks(5),
//! containers.conf(5)).
//!
//! Podman silently starts containers without a hook it does not find: a file in a directory it does
//! not read, or one whose program is missing. So ask the engine itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Attempt, OciError, POLICY};

/// The engine's executable.
pub(crate) const PROGRAM: &str = "podman";
/// The name of our hook file.
pub(crate) const FILE: &str = "interceptor.json";
/// The directory of policies for containers.
pub(crate) const POLICIES: &str = "/etc/interceptor/policies";
/// The directory the hook logs to.
pub(crate) const LOGS: &str = "/var/log/interceptor";
/// Directories from the manuals; an engine may or may not read them.
const USUAL: [&str; 2] = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"];
/// The stage that enforcement depends on.
const ATTACHES: &str = "createRuntime";

/// The content of the hook file, for the interceptor at this path.
pub(crate) fn hook_file(executable: &Path) -> Value {
    json!({
        "version": "1.0.0",
        "hook": {
            "path": executable.to_string_lossy(),
            "args": [
                "interceptor", "oci-hook",
                "--policies", POLICIES,
                "--audit", format!("{LOGS}/containers.jsonl"),
                "--log", format!("{LOGS}/containers.log"),
            ],
            "timeout": 60,
        },
        "when": { "annotations": { format!("^{}$", POLICY.replace('.', "\\.")): ".*" } },
        "stages": ["precreate", ATTACHES, "poststop"],
    })
}

/// The directories the engine reads hooks from, in its order; a later file of the same name wins.
///
/// # Errors
/// If Podman is missing or does not tell.
pub(crate) fn directories() -> Result<Vec<PathBuf>, OciError> {
    // `podman info` does not tell, but this option's default reflects the configuration files.
    let output = Command::new(PROGRAM)
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .attempt(|| format!("cannot run {PROGRAM}"))?;
    directories_in(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        OciError::Refused(format!(
            "`{PROGRAM} --help` does not say where it reads hooks from (--hooks-dir)"
        ))
    })
}

fn directories_in(help: &str) -> Option<Vec<PathBuf>> {
    let line = help.lines().find(|line| line.trim_start().starts_with("--hooks-dir"))?;
    let list = line.split_once("(default [")?.1.split_once("])")?.0;
    let found: Vec<PathBuf> = list.split(',').map(str::trim).map(PathBuf::from).collect();
    found.iter().all(|path| path.is_absolute()).then_some(found)
}

/// A file with our hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HookFile {
    /// Its path.
    pub(crate) file: PathBuf,
    /// Why the engine would start containers without it.
    pub(crate) fault: Option<String>,
}

/// The files with our hook: those the engine reads, then unread ones in the usual directories.
pub(crate) fn hooks(read: &[PathBuf]) -> Vec<HookFile> {
    let mut found: Vec<HookFile> = read.iter().flat_map(|directory| hooks_in(directory)).collect();
    for unread in USUAL.map(PathBuf::from).iter().filter(|usual| !read.contains(usual)) {
        found.extend(hooks_in(unread).into_iter().map(|hook| HookFile {
            fault: Some(format!("{PROGRAM} does not read {}", unread.display())),
            ..hook
        }));
    }
    found
}

/// The files with our hook in one directory.
pub(crate) fn hooks_in(directory: &Path) -> Vec<HookFile> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
        .into_iter()
        .filter_map(|file| {
            let value: Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            let arguments = value["hook"]["args"].as_array()?;
            arguments
                .iter()
                .any(|argument| argument == "oci-hook")
                .then(|| HookFile { fault: fault(&value), file })
        })
        .collect()
}

/// Why the engine would not call the hook, or not always.
fn fault(value: &Value) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let path = Path::new(value["hook"]["path"].as_str().unwrap_or_default());
    match fs::metadata(path) {
        Err(error) => {
            return Some(format!("its program {} does not exist: {error}", path.display()));
        }
        Ok(metadata) if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 => {
            return Some(format!("its program {} cannot be executed", path.display()));
        }
        Ok(_) => {}
    }
    let stages = value["stages"].as_array();
    if !stages.is_some_and(|stages| stages.iter().any(|stage| stage == ATTACHES)) {
        return Some(format!("it is not called at the stage {ATTACHES}"));
    }
    let condition = &value["when"];
    let called = condition["always"] == true
        || condition["annotations"].as_object().is_some_and(|all| {
            all.keys().any(|pattern| pattern.replace('\\', "").contains(POLICY))
        });
    (!called).then(|| format!("it is not called for the annotation {POLICY}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_says_where_it_looks() {
        let help = "Options:\n      --events-backend string   x (default \"journald\")\n      \
                    --hooks-dir strings           Set the OCI hooks directory path (may be set \
                    multiple times) (default [/usr/share/containers/oci/hooks.d])\n";
        let usual = PathBuf::from("/usr/share/containers/oci/hooks.d");
        assert_eq!(directories_in(help), Some(vec![usual]));
        let two = "  --hooks-dir strings  Set (default [/a,/b/c])";
        assert_eq!(directories_in(two), Some(vec![PathBuf::from("/a"), PathBuf::from("/b/c")]));
        for nothing in [
            "",
            "--hooks-dir strings  Set",
            "--hooks-dir x (default [])",
            "--hooks-dir x (default [a])",
        ] {
            assert_eq!(directories_in(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_shipped_file_is_the_one_that_is_installed() {
        let shipped = include_str!("../../../contrib/oci/podman.json");
        let shipped: Value = serde_json::from_str(shipped).unwrap();
        assert_eq!(hook_file(Path::new("/usr/local/bin/interceptor")), shipped);
    }

    #[test]
    fn a_hook_that_would_not_be_called_is_found_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let good = hook_file(Path::new("/bin/sh"));
        let write = |name: &str, value: &Value| fs::write(path(name), value.to_string()).unwrap();
        write("a.json", &good);
        write("b.json", &hook_file(Path::new("/does/not/exist")));
        write("c.json", &hook_file(Path::new("/etc/passwd")));
        let mut late = good.clone();
        late["stages"] = json!(["poststop"]);
        write("d.json", &late);
        let mut seldom = good.clone();
        seldom["when"] = json!({ "annotations": { "^other$": ".*" } });
        write("e.json", &seldom);
        write("unrelated.json", &json!({ "hook": { "path": "/bin/true" } }));
        write("f.txt", &good);
        fs::write(path("broken.json"), "{").unwrap();
        let found = hooks_in(directory.path());
        let faults: Vec<_> =
            found.iter().map(|hook| hook.fault.as_deref().unwrap_or("-")).collect();
        assert_eq!(faults.len(), 5, "{faults:?}");
        for (fault, part) in
            faults.iter().zip(["-", "does not exist", "cannot be executed", "stage", "annotation"])
        {
            assert!(fault.contains(part), "{fault}");
        }
        assert_eq!(hooks_in(Path::new("/does/not/exist")), []);
    }
}
