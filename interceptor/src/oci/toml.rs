//! The configurations of containerd (containerd-config.toml(5)) and CRI-O (crio.conf.d(5)): a
//! runtime handler that a Kubernetes RuntimeClass can name. A table at the end of a TOML file
//! belongs to it wherever the others stand, so what is there is not parsed; containerd itself
//! judges the result.

use std::path::{Path, PathBuf};

use super::{OciError, POLICY};

/// The name of the handler.
pub(crate) const HANDLER: &str = "interceptor";
/// containerd's daemon.
pub(crate) const CONTAINERD: &str = "containerd";
/// Its configuration.
pub(crate) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
/// CRI-O's daemon.
pub(crate) const CRIO: &str = "crio";
/// Our part of its configuration.
pub(crate) const CRIO_CONFIG: &str = "/etc/crio/crio.conf.d/50-interceptor.conf";

/// Around what we add, so that it can be found again.
const MARKS: [&str; 2] = ["# interceptor: begin", "# interceptor: end"];

/// A configuration of containerd with our handler, whose program takes no arguments.
///
/// # Errors
/// If it is of a version that has no such handlers.
pub(crate) fn with_handler(present: &str, program: &Path) -> Result<String, OciError> {
    let mut text = without_handler(present);
    if text.trim().is_empty() {
        "version = 2\n".clone_into(&mut text);
    }
    let plugin = match version(&text) {
        2 => "io.containerd.grpc.v1.cri",
        3.. => "io.containerd.cri.v1.runtime",
        _ => {
            return Err(OciError::Refused(format!(
                "{CONTAINERD_CONFIG} is not of version 2 or later, in which runtimes have handlers"
            )));
        }
    };
    let table = format!("plugins.\"{plugin}\".containerd.runtimes.{HANDLER}");
    let annotations = quoted(&format!("{POLICY}*"));
    let program = quoted(&program.to_string_lossy());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(format!(
        "{text}{}\n[{table}]\nruntime_type = \"io.containerd.runc.v2\"\npod_annotations = \
         [{annotations}]\ncontainer_annotations = [{annotations}]\n[{table}.options]\nBinaryName = \
         {program}\n{}\n",
        MARKS[0], MARKS[1]
    ))
}

/// A configuration of containerd without what we have added.
pub(crate) fn without_handler(present: &str) -> String {
    let mut kept = String::new();
    let mut ours = false;
    for line in present.split_inclusive('\n') {
        ours |= line.trim_end() == MARKS[0];
        if !ours {
            kept.push_str(line);
        }
        ours &= line.trim_end() != MARKS[1];
    }
    kept
}

/// Whether a configuration has what we add, for this program.
pub(crate) fn has_handler(present: &str, program: &Path) -> bool {
    present.contains(&format!("BinaryName = {}\n", quoted(&program.to_string_lossy())))
}

/// The program of our handler, in a configuration that has it.
pub(crate) fn handler(present: &str) -> Option<PathBuf> {
    let ours = present.split_once(MARKS[0])?.1.split_once(MARKS[1])?.0;
    let value = ours.lines().find_map(|line| line.strip_prefix("BinaryName = "))?;
    serde_json::from_str::<String>(value).ok().map(PathBuf::from)
}

/// The file that gives CRI-O our handler.
pub(crate) fn crio(program: &Path) -> String {
    format!(
        "[crio.runtime.runtimes.{HANDLER}]\nruntime_path = {}\nruntime_type = \
         \"oci\"\nallowed_annotations = [{}]\n",
        quoted(&program.to_string_lossy()),
        quoted(POLICY)
    )
}

/// The version that a configuration says it is of; 1 if it says nothing.
fn version(text: &str) -> u32 {
    let top = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    let mut pairs = top.filter_map(|line| line.split_once('='));
    let found = pairs.find(|(name, _)| name.trim() == "version");
    let number = found.and_then(|(_, value)| value.split('#').next()?.trim().parse().ok());
    number.unwrap_or(1)
}

/// A basic string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/usr/local/bin/interceptor-runtime";
    const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.opt\"]\n    p = 1";

    #[test]
    fn the_handler_is_added_once_and_removed_without_a_trace() {
        let program = Path::new(PROGRAM);
        let once = with_handler(DEBIAN, program).unwrap();
        assert!(
            once.starts_with(DEBIAN) && once.contains("containerd.runtimes.interceptor.options]")
        );
        assert!(has_handler(&once, program) && !has_handler(&once, Path::new("/other")));
        assert_eq!(with_handler(&once, program).unwrap(), once);
        assert_eq!(handler(&once).unwrap(), program);
        assert_eq!(handler(DEBIAN), None);
        assert_eq!(without_handler(&once).trim_end(), DEBIAN);
        let fresh = with_handler("", program).unwrap();
        assert!(fresh.starts_with("version = 2\n# interceptor: begin\n"), "{fresh}");
        let third = with_handler("# x\nversion=3 # y\n", program).unwrap();
        assert!(third.contains("io.containerd.cri.v1.runtime"), "{third}");
    }

    #[test]
    fn an_old_configuration_is_refused() {
        for old in ["[plugins]\nversion = 2\n", "version = 1\n", "version = \"2\"\n"] {
            assert!(with_handler(old, Path::new(PROGRAM)).is_err(), "{old}");
        }
    }

    #[test]
    fn cri_o_gets_the_same_handler() {
        let text = crio(Path::new(PROGRAM));
        assert!(text.contains("[crio.runtime.runtimes.interceptor]\n") && text.contains(PROGRAM));
    }
}
