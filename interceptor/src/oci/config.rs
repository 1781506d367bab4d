//! A container's `config.json` (config.md of the runtime specification): what the hook reads,
//! refuses and changes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{OciError, filter, names, seccomp};

/// Maximum length of a reported reason: paths are at most 4096 bytes (path_resolution(7)), and
/// longer ones fail alike.
const LONGEST_REASON: usize = 900;
/// How long a hook may take: attaching includes a self-test.
const HOOK_SECONDS: u32 = 60;

/// A configuration, kept as a whole: fields the hook does not know stay unchanged.
#[derive(Clone, Debug)]
pub(crate) struct Config(Map<String, Value>);

impl Config {
    pub(super) fn new(object: Map<String, Value>) -> Self {
        Config(object)
    }

    /// The whole, to be judged.
    pub(super) fn object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A configuration with nothing but a process: what `exec --process` names.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn of_process(bytes: &[u8]) -> Result<Self, OciError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| malformed(&error.to_string()))?;
        if !value.is_object() {
            return Err(malformed("the process is not an object"));
        }
        Ok(Config(Map::from_iter([("process".to_owned(), value)])))
    }

    /// The process alone, as JSON.
    pub(crate) fn process_to_json(&self) -> String {
        self.0.get("process").unwrap_or(&Value::Null).to_string()
    }

    /// Reads an annotation.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.0.get("annotations")?.get(name)?.as_str()
    }

    /// Sets an annotation.
    pub(crate) fn annotate(&mut self, name: &str, value: &str) {
        let annotations = self.0.entry("annotations").or_insert_with(|| json!({}));
        if let Value::Object(annotations) = annotations {
            annotations.insert(name.into(), value.into());
        } else {
            *annotations = json!({ name: value });
        }
    }

    /// The container's root file system. A relative path is relative to `bundle`, which a
    /// configuration from standard input does not have.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn root(&self, bundle: Option<&Path>) -> Result<PathBuf, OciError> {
        let path = self.0.get("root").and_then(|root| root.get("path")).and_then(Value::as_str);
        let path = Path::new(path.ok_or_else(|| malformed("there is no root.path"))?);
        match bundle {
            _ if path.is_absolute() => Ok(path.into()),
            Some(bundle) => Ok(bundle.join(path)),
            None => Err(malformed("root.path is not absolute")),
        }
    }

    /// The environment of the container's first process, `NAME=value` each.
    pub(crate) fn environment(&self) -> Vec<String> {
        let env =
            self.0.get("process").and_then(|process| process.get("env")).and_then(Value::as_array);
        env.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Narrows its seccomp filter, if any, to the socket families that are enforced.
    pub(crate) fn narrow_sockets(&mut self) {
        let linux = self.0.get_mut("linux").and_then(Value::as_object_mut);
        if let Some(profile) = linux.and_then(|linux| linux.get_mut("seccomp"))
            && *profile != filter::own()
        {
            seccomp::narrow(profile);
        }
    }

    /// Gives it a seccomp filter if it has none.
    pub(crate) fn give_filter(&mut self) {
        let linux = self.0.get_mut("linux").and_then(Value::as_object_mut);
        if let Some(linux) = linux
            && linux.get("seccomp").is_none_or(Value::is_null)
        {
            linux.insert("seccomp".into(), filter::own());
        }
    }

    /// Whether one of its hooks is ours already.
    pub(crate) fn is_hooked(&self) -> bool {
        let stages = self.0.get("hooks").and_then(Value::as_object);
        let hooks = stages.into_iter().flat_map(Map::values).filter_map(Value::as_array).flatten();
        hooks
            .filter_map(|hook| hook.get("args").and_then(Value::as_array))
            .any(|arguments| arguments.iter().any(|argument| argument == "oci-hook"))
    }

    /// Undoes what an earlier `create` of the same bundle has added.
    pub(crate) fn restore(&mut self) {
        let stages = self.0.get_mut("hooks").and_then(Value::as_object_mut);
        for stage in stages.into_iter().flat_map(Map::values_mut) {
            let Some(hooks) = stage.as_array_mut() else { continue };
            hooks.retain(|hook| {
                hook.get("args").and_then(|arguments| arguments.get(1))
                    != Some(&super::RUNTIME.into())
            });
        }
        if let Some(mounts) = self.0.get_mut("mounts").and_then(Value::as_array_mut) {
            mounts.retain(|mount| {
                let source = mount.get("source").and_then(Value::as_str);
                !source.is_some_and(|source| names::is_trust(Path::new(source)))
            });
        }
        if let Some(annotations) = self.0.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(super::SANDBOX);
        }
    }

    /// Calls a program at this stage, after those that make the container's network.
    ///
    /// # Errors
    /// If its hooks are not as the specification says.
    pub(crate) fn call(
        &mut self,
        stage: &str,
        program: &Path,
        arguments: &[String],
    ) -> Result<(), OciError> {
        let program = program.to_str().ok_or_else(|| malformed("a path is not UTF-8"))?;
        let hook = json!({ "path": program, "args": arguments, "timeout": HOOK_SECONDS });
        let hooks = self.0.entry("hooks").or_insert_with(|| json!({}));
        if hooks.is_null() {
            *hooks = json!({});
        }
        let hooks = hooks.as_object_mut().ok_or_else(|| malformed("hooks is not an object"))?;
        let stage = hooks.entry(stage).or_insert_with(|| json!([]));
        if stage.is_null() {
            *stage = json!([]);
        }
        stage.as_array_mut().ok_or_else(|| malformed("a hook's stage is not a list"))?.push(hook);
        Ok(())
    }

    /// Replaces the environment of the container's first process.
    ///
    /// # Errors
    /// If there is no process.
    pub(crate) fn set_environment(&mut self, environment: Vec<String>) -> Result<(), OciError> {
        let process = self.0.get_mut("process").and_then(Value::as_object_mut);
        process
            .ok_or_else(|| malformed("there is no process"))?
            .insert("env".into(), environment.into());
        Ok(())
    }

    /// The mount points.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = &Path> {
        let mounts = self.0.get("mounts").and_then(Value::as_array);
        mounts
            .into_iter()
            .flatten()
            .filter_map(|mount| mount.get("destination")?.as_str())
            .map(Path::new)
    }

    /// Mounts a host file or directory into the container, read-only, after all other mounts.
    ///
    /// # Errors
    /// If a path is not UTF-8, or `mounts` is not a list.
    pub(crate) fn bind(&mut self, source: &Path, destination: &Path) -> Result<(), OciError> {
        let (Some(source), Some(destination)) = (source.to_str(), destination.to_str()) else {
            return Err(malformed("a path is not UTF-8"));
        };
        let mount = json!({
            "destination": destination, "type": "bind", "source": source,
            "options": ["bind", "ro", "nosuid", "nodev", "noexec", "rprivate"],
        });
        let mounts = self.0.entry("mounts").or_insert_with(|| json!([])).as_array_mut();
        mounts.ok_or_else(|| malformed("mounts is not a list"))?.push(mount);
        Ok(())
    }

    /// Makes the configuration unstartable and the reason visible: runtimes name the hook that
    /// failed, and the first hook is a file that does not exist. For runtimes that call no hooks,
    /// the command cannot exist either: `token` is unguessable, so no image can provide it.
    pub(crate) fn refuse(&mut self, executable: &Path, reason: &str, token: &str) {
        let reason: String = reason
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(LONGEST_REASON)
            .collect();
        let says = format!("refuses this container: {reason}");
        // No host file is named like the program followed by a space.
        let hook = json!({ "path": format!("{} {says}", executable.display()) });
        let command = format!("/{token}/interceptor {says}");
        if let Some(process) = self.0.get_mut("process").and_then(Value::as_object_mut) {
            process.insert("args".into(), json!([command]));
        }
        let hooks = self.0.entry("hooks").or_insert_with(|| json!({}));
        if !hooks.is_object() {
            *hooks = json!({});
        }
        for stage in ["prestart", "createRuntime"] {
            let all = hooks[stage].as_array().cloned().unwrap_or_default();
            hooks[stage] = std::iter::once(hook.clone()).chain(all).collect();
        }
    }

    /// Whether the runtime creates a network namespace for this container, rather than joining one.
    pub(crate) fn has_own_network(&self) -> bool {
        let linux = self.0.get("linux").and_then(|linux| linux.get("namespaces"));
        let mut all = linux.and_then(Value::as_array).into_iter().flatten();
        let network = all.find(|one| one.get("type").and_then(Value::as_str) == Some("network"));
        network.is_some_and(|one| one.get("path").is_none_or(|path| path.is_null() || path == ""))
    }

    /// Serializes it as JSON.
    pub(crate) fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

fn malformed(why: &str) -> OciError {
    OciError::Malformed { what: "container's configuration", why: why.into() }
}

#[cfg(test)]
mod tests;
