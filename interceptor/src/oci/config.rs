//! A container's `config.json` (config.md of the runtime specification): what the hook reads,
//! refuses and changes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{OciError, seccomp};

/// Capabilities that let a container undo enforcement: mount the host's cgroups, detach programs,
/// or enter other processes.
const TOO_MUCH: [&str; 7] = [
    "CAP_SYS_ADMIN",
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_SYS_MODULE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_DAC_READ_SEARCH",
];

/// Maximum length of a reported reason: paths are at most 4096 bytes (path_resolution(7)), and
/// longer ones fail alike.
const LONGEST_REASON: usize = 900;

/// A configuration, kept as a whole: fields the hook does not know stay unchanged.
#[derive(Clone, Debug)]
pub(crate) struct Config(Map<String, Value>);

impl Config {
    pub(super) fn new(object: Map<String, Value>) -> Self {
        Config(object)
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
        if let Some(profile) = linux.and_then(|linux| linux.get_mut("seccomp")) {
            seccomp::narrow(profile);
        }
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

    /// Refuses a configuration that could not be contained. With `privileged`, the operator accepts
    /// that, except for what would change the host itself.
    ///
    /// # Errors
    /// Lists every objection.
    pub(crate) fn judge(&self, privileged: bool) -> Result<(), OciError> {
        let namespaces =
            self.0.get("linux").and_then(|linux| linux.get("namespaces")).and_then(Value::as_array);
        let has = |kind: &str| {
            namespaces.is_some_and(|all| {
                all.iter().any(|one| one.get("type").and_then(Value::as_str) == Some(kind))
            })
        };
        if !has("mount") {
            return Err(OciError::Refused(
                "the container has no mount namespace of its own".into(),
            ));
        }
        let mut objections = self.capabilities();
        let profile = self.0.get("linux").and_then(|linux| linux.get("seccomp"));
        if profile.is_none_or(Value::is_null) {
            objections.push("no seccomp filter".into());
        } else if !profile.is_some_and(seccomp::is_narrow) {
            objections.push(
                "a seccomp filter that permits sockets of other families (make one with \
                 `interceptor oci-hook < profile.json`)"
                    .into(),
            );
        }
        if objections.is_empty() || privileged {
            return Ok(());
        }
        Err(OciError::Refused(format!(
            "the container could not be contained, because it has {}: run it with fewer \
             privileges, or have the hook called with --allow-privileged",
            with_and(&objections)
        )))
    }

    fn capabilities(&self) -> Vec<String> {
        let sets = self
            .0
            .get("process")
            .and_then(|process| process.get("capabilities"))
            .and_then(Value::as_object);
        let held: Vec<&str> = sets
            .into_iter()
            .flat_map(Map::values)
            .flat_map(|set| set.as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        TOO_MUCH.iter().filter(|name| held.contains(name)).map(|name| (*name).to_owned()).collect()
    }

    /// Serializes it as JSON.
    pub(crate) fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

/// `a`, `a, and b`, `a, b, and c`.
fn with_and(all: &[String]) -> String {
    match all {
        [most @ .., last] if !most.is_empty() => format!("{}, and {last}", most.join(", ")),
        _ => all.concat(),
    }
}

fn malformed(why: &str) -> OciError {
    OciError::Malformed { what: "container's configuration", why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(value: Value) -> Config {
        let Value::Object(object) = value else { panic!("a configuration") };
        Config::new(object)
    }

    fn usual() -> Value {
        json!({
            "root": { "path": "/r" },
            "process": { "env": ["A=1"], "capabilities": { "bounding": ["CAP_CHOWN"] } },
            "linux": {
                "namespaces": [{ "type": "mount" }],
                "seccomp": { "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [] },
            },
            "annotations": { "a": "b" }, "unknown": { "kept": [1, 2] },
        })
    }

    #[test]
    fn changes_leave_the_rest_as_it_was() {
        let mut changed = config(usual());
        changed.annotate(crate::oci::SANDBOX, "sb-1");
        changed.set_environment(vec!["B=2".into()]).unwrap();
        changed.bind(Path::new("/s"), Path::new("/d")).unwrap();
        let value: Value = serde_json::from_str(&changed.to_json()).unwrap();
        assert_eq!(value["unknown"], usual()["unknown"]);
        assert_eq!(value["annotations"], json!({ "a": "b", crate::oci::SANDBOX: "sb-1" }));
        assert_eq!(changed.environment(), ["B=2"]);
        assert_eq!(changed.destinations().collect::<Vec<_>>(), [Path::new("/d")]);
        assert!(value["mounts"][0]["options"].as_array().unwrap().contains(&"ro".into()));
        assert_eq!(changed.root(None).unwrap(), Path::new("/r"));
    }

    #[test]
    fn what_would_not_be_contained_is_refused() {
        config(usual()).judge(false).unwrap();
        let mut strong = usual();
        strong["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        assert!(
            config(strong.clone()).judge(false).unwrap_err().to_string().contains("CAP_SYS_ADMIN")
        );
        strong["linux"]["seccomp"] = Value::Null;
        let said = config(strong.clone()).judge(false).unwrap_err().to_string();
        assert!(said.contains("because it has CAP_SYS_ADMIN, and no seccomp filter: "), "{said}");
        config(strong).judge(true).unwrap();
        let mut open = usual();
        open["linux"]["seccomp"] = Value::Null;
        assert!(config(open).judge(false).is_err());
        let mut host = usual();
        host["linux"]["namespaces"] = json!([{ "type": "pid" }]);
        assert!(config(host).judge(true).is_err());
    }

    #[test]
    fn a_refused_container_has_a_hook_that_fails_before_all_others() {
        let mut refused = config(usual());
        refused.refuse(Path::new("/bin/true"), "first\nsecond/../x", "sb-1");
        let mut hooked = usual();
        hooked["hooks"] = json!({ "createRuntime": [{ "path": "/bin/true" }], "poststop": 1 });
        let mut before = config(hooked);
        before.refuse(Path::new("/bin/true"), &"long ".repeat(1000), "sb-1");
        for (refused, others) in [(refused, 0), (before, 1)] {
            let value: Value = serde_json::from_str(&refused.to_json()).unwrap();
            let hooks = value["hooks"]["createRuntime"].as_array().unwrap();
            assert_eq!(hooks.len(), 1 + others);
            let path = hooks[0]["path"].as_str().unwrap();
            assert!(path.starts_with("/bin/true refuses this container: "), "{path}");
            assert!(
                path.len() < 1000 && !path.contains('\n') && !Path::new(path).exists(),
                "{path}"
            );
            assert_eq!(value["hooks"]["prestart"][0]["path"], hooks[0]["path"]);
            let arguments = value["process"]["args"].as_array().unwrap();
            let command = arguments[0].as_str().unwrap();
            assert!(
                arguments.len() == 1 && command.starts_with("/sb-1/interceptor refuses "),
                "{command}"
            );
        }
    }

    #[test]
    fn k24_a_network_is_the_containers_own_where_the_runtime_makes_it() {
        for (namespaces, own) in [
            (json!([{ "type": "mount" }, { "type": "network" }]), true),
            (json!([{ "type": "network", "path": "" }]), true),
            (json!([{ "type": "network", "path": "/run/netns/pod" }]), false),
            (json!([{ "type": "network", "path": "/proc/1/ns/net" }]), false),
            (json!([{ "type": "network", "path": 5 }]), false),
            (json!([{ "type": "mount" }]), false),
            (json!([{ "type": "network", "path": "/x" }, { "type": "network" }]), false),
            (json!("network"), false),
        ] {
            let mut value = usual();
            value["linux"]["namespaces"] = namespaces.clone();
            assert_eq!(config(value).has_own_network(), own, "{namespaces}");
        }
    }

    #[test]
    fn a_configuration_of_the_wrong_shape_is_an_error_and_no_panic() {
        let mut odd =
            config(json!({ "root": 1, "process": 2, "mounts": 3, "annotations": 4, "linux": 5 }));
        odd.annotate("a", "b");
        assert_eq!(odd.annotation("a"), Some("b"));
        assert!(
            odd.root(None).is_err()
                && odd.set_environment(vec![]).is_err()
                && odd.judge(true).is_err()
        );
        assert!(odd.bind(Path::new("/s"), Path::new("/d")).is_err());
        assert!(config(json!({ "root": { "path": "rootfs" } })).root(None).is_err());
    }
}
