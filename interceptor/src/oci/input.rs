//! The hook's standard input: the container's state or, at `precreate`, its configuration.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::config::Config;
use super::{Attempt, OciError};
use crate::files;

/// Maximum input size; configurations with a full seccomp profile are about 100 KiB.
pub(crate) const MAX_INPUT: u64 = 16 << 20;

/// A hook's input.
#[derive(Debug)]
pub(crate) enum Input {
    /// The configuration of a container that does not exist yet: stage `precreate`.
    Config(Config),
    /// The state of an existing container.
    State(ContainerState),
    /// A seccomp profile that the caller wants narrowed; not from a runtime.
    Profile(Value),
}

/// A container's state ("State" in runtime.md).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ContainerState {
    /// The container's id.
    pub(crate) id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub(crate) status: String,
    /// Its first process, in the runtime's PID namespace; absent or 0 once stopped.
    #[serde(default)]
    pub(crate) pid: i32,
    /// The directory with its `config.json`.
    pub(crate) bundle: PathBuf,
    /// Its annotations.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Reads everything.
///
/// # Errors
/// If it is unreadable or longer than [`MAX_INPUT`].
pub(crate) fn read(from: impl Read) -> Result<Vec<u8>, OciError> {
    let mut bytes = Vec::new();
    from.take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .attempt(|| "cannot read standard input".into())?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(malformed(format!("it is longer than {MAX_INPUT} bytes")));
    }
    Ok(bytes)
}

/// Reads the configuration of a bundle.
///
/// # Errors
/// If it is missing, too long or not a configuration.
pub(crate) fn of_bundle(bundle: &Path) -> Result<Config, OciError> {
    let path = bundle.join("config.json");
    let (file, _) = files::open(&path).attempt(|| format!("cannot open {}", path.display()))?;
    configuration(&read(file)?)
}

/// Reads a configuration.
///
/// # Errors
/// If it is none.
pub(crate) fn configuration(bytes: &[u8]) -> Result<Config, OciError> {
    match parse(bytes)? {
        Input::Config(config) => Ok(config),
        Input::State(_) | Input::Profile(_) => Err(OciError::Malformed {
            what: "bundle's config.json",
            why: "it is no container configuration".into(),
        }),
    }
}

/// Tells the kinds apart: only a state has a `bundle`, only a configuration a `root`.
///
/// # Errors
/// If it is neither.
pub(crate) fn parse(bytes: &[u8]) -> Result<Input, OciError> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    match value {
        Value::Object(object) if object.contains_key("root") && !object.contains_key("bundle") => {
            Ok(Input::Config(Config::new(object)))
        }
        Value::Object(object) if object.contains_key("bundle") => {
            let state = serde_json::from_value(Value::Object(object));
            state.map(Input::State).map_err(|error| malformed(error.to_string()))
        }
        Value::Object(object) if object.contains_key("syscalls") => {
            Ok(Input::Profile(Value::Object(object)))
        }
        _ => Err(malformed("it is neither a container's state nor its configuration".into())),
    }
}

fn malformed(why: String) -> OciError {
    OciError::Malformed { what: "hook's input", why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_and_a_configuration_are_told_apart() {
        // As crun 1.8 writes it: with the rootfs besides the bundle.
        let state = br#"{"ociVersion":"1.0","id":"22d7","pid":31497,"root":"/r","bundle":"/b",
            "status":"created","annotations":{"io.interceptor.policy":"p"}}"#;
        let Input::State(state) = parse(state).unwrap() else { panic!("a state") };
        assert_eq!(
            (state.id.as_str(), state.pid, state.annotations[crate::oci::POLICY].as_str()),
            ("22d7", 31497, "p")
        );
        let stopped = br#"{"ociVersion":"1.0.2-dev","id":"22d7","status":"stopped","bundle":"/b"}"#;
        let Input::State(stopped) = parse(stopped).unwrap() else { panic!("a state") };
        assert_eq!((stopped.pid, stopped.annotations.len()), (0, 0));
        assert!(matches!(
            parse(br#"{"root":{"path":"/r"},"process":{}}"#).unwrap(),
            Input::Config(_)
        ));
        for bad in [&b""[..], b"[]", b"{}", b"{\"bundle\":1}", b"nonsense", b"{\"root\":"] {
            assert!(parse(bad).is_err());
        }
    }

    #[test]
    fn endless_input_is_refused() {
        assert!(read(std::io::repeat(b' ')).is_err());
    }
}
