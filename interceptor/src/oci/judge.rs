//! What a container may not have: whatever lets it remove the enforcement.

use std::path::{Component, Path};

use serde_json::{Map, Value};

use super::config::Config;
use super::names::is_trust;
use super::{OciError, filter, seccomp};

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

/// Host directories from which a container could leave its cgroup or take its programs away.
const WRITABLE: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/bpf"];
/// Files of the host whose holder may start what is not contained, also where mounted read-only.
const SHOWN: [&str; 9] = [
    "/run/containerd",
    "/run/crio",
    "/run/docker.sock",
    "/run/interceptor",
    "/run/podman",
    "/var/run/containerd",
    "/var/run/docker.sock",
    "/var/run/interceptor",
    "/var/run/podman",
];

/// Names of fields that are judged or changed, and of those on the way to them.
const FIELDS: [&str; 32] = [
    "action",
    "ambient",
    "annotations",
    "architectures",
    "args",
    "bounding",
    "capabilities",
    "createRuntime",
    "defaultAction",
    "destination",
    "effective",
    "env",
    "hooks",
    "index",
    "inheritable",
    "linux",
    "mounts",
    "names",
    "namespaces",
    "op",
    "options",
    "path",
    "permitted",
    "poststop",
    "process",
    "root",
    "seccomp",
    "source",
    "syscalls",
    "type",
    "value",
    "valueTwo",
];
/// Maps whose names anybody chooses.
const FREE: [&str; 3] = ["annotations", "sysctl", "unified"];
/// The most nested value that is examined; the specification nests less deep.
const DEEPEST: usize = 32;

impl Config {
    /// Refuses a configuration that could not be contained. With `privileged`, the operator accepts
    /// that, except for what would change the host itself.
    ///
    /// # Errors
    /// Lists every objection.
    pub(crate) fn judge(&self, privileged: bool) -> Result<(), OciError> {
        self.plain()?;
        if !self.namespace("mount") {
            return Err(OciError::Refused(
                "the container has no mount namespace of its own".into(),
            ));
        }
        let mut objections = self.capabilities();
        let profile = self.linux().and_then(|linux| linux.get("seccomp"));
        if profile.is_none_or(Value::is_null) {
            objections.push("no seccomp filter".into());
        } else if !profile
            .is_some_and(|profile| seccomp::is_narrow(profile) || *profile == filter::own())
        {
            objections.push(
                "a seccomp filter that permits sockets of other families (make one with \
                 `interceptor oci-hook < profile.json`)"
                    .into(),
            );
        }
        objections.extend(self.mounts());
        objected(&objections, privileged)
    }

    /// Refuses a further process of a container, with capabilities added, that could not be
    /// contained.
    ///
    /// # Errors
    /// Lists every objection.
    pub(crate) fn judge_process(&self, added: &[String], privileged: bool) -> Result<(), OciError> {
        self.plain()?;
        let mut objections = self.capabilities();
        let added: Vec<String> = added.iter().map(|name| name.to_ascii_uppercase()).collect();
        let more = TOO_MUCH.iter().filter(|name| {
            added.iter().any(|added| added == *name || format!("CAP_{added}") == **name)
        });
        objections.extend(more.map(|name| (*name).to_owned()));
        objected(&objections, privileged)
    }

    /// Go reads `Process` and `process` as one field, and the later one counts: such a
    /// configuration would be another than the one that was judged.
    fn plain(&self) -> Result<(), OciError> {
        match odd(self.object(), 0) {
            Some(name) => Err(OciError::Malformed {
                what: "container's configuration",
                why: format!("a field is called \"{}\"", name.escape_debug()),
            }),
            None => Ok(()),
        }
    }

    fn linux(&self) -> Option<&Value> {
        self.object().get("linux")
    }

    /// Whether the runtime makes or joins a namespace of this kind.
    fn namespace(&self, kind: &str) -> bool {
        let all = self.linux().and_then(|linux| linux.get("namespaces")).and_then(Value::as_array);
        all.is_some_and(|all| {
            all.iter().any(|one| one.get("type").and_then(Value::as_str) == Some(kind))
        })
    }

    fn capabilities(&self) -> Vec<String> {
        let sets = self
            .object()
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

    /// Mounts that lead to the host's cgroups, pinned programs, engines, or ourselves.
    fn mounts(&self) -> Vec<String> {
        let mounts = self.object().get("mounts").and_then(Value::as_array);
        mounts.into_iter().flatten().filter_map(|mount| self.mount(mount)).collect()
    }

    fn mount(&self, mount: &Value) -> Option<String> {
        let text = |name: &str| mount.get(name).and_then(Value::as_str);
        let has = |option: &str| {
            let options = mount.get("options").and_then(Value::as_array);
            options.is_some_and(|all| all.iter().any(|one| one == option))
        };
        let read_only = has("ro") && !has("rw");
        let kind = text("type").unwrap_or_default();
        if kind == "bpf" {
            return Some("a file system of pinned programs".into());
        }
        if kind.starts_with("cgroup") {
            let open = !read_only && !self.namespace("cgroup");
            return open.then(|| "the host's cgroups, writable".into());
        }
        let source =
            Path::new(text("source").filter(|_| kind == "bind" || has("bind") || has("rbind"))?);
        let leads = |to: &str| source.starts_with(to) || Path::new(to).starts_with(source);
        let up = source.components().any(|part| part == Component::ParentDir);
        let found = up
            || SHOWN.iter().any(|to| leads(to))
            || (!read_only && WRITABLE.iter().any(|to| leads(to)));
        (found && !is_trust(source)).then(|| format!("a mount of the host's {}", source.display()))
    }
}

/// A name that is a known field's but for the case of its letters, as Go compares them.
fn odd(object: &Map<String, Value>, depth: usize) -> Option<&str> {
    let folded = |name: &str| {
        // Its fold of `s`; that of `k` is in no name here.
        let plain = name.replace('\u{17f}', "s");
        FIELDS.iter().any(|field| field.eq_ignore_ascii_case(&plain))
    };
    for (name, value) in object {
        if !FIELDS.contains(&name.as_str()) && folded(name) {
            return Some(name);
        }
        if !FREE.contains(&name.as_str())
            && let Some(found) = odd_in(value, depth)
        {
            return Some(found);
        }
    }
    None
}

fn odd_in(value: &Value, depth: usize) -> Option<&str> {
    match value {
        Value::Object(_) | Value::Array(_) if depth > DEEPEST => Some("…"),
        Value::Object(object) => odd(object, depth + 1),
        Value::Array(all) => all.iter().find_map(|value| odd_in(value, depth + 1)),
        _ => None,
    }
}

fn objected(objections: &[String], privileged: bool) -> Result<(), OciError> {
    if objections.is_empty() || privileged {
        return Ok(());
    }
    Err(OciError::Refused(format!(
        "the container could not be contained, because it has {}: run it with fewer privileges, or \
         have the interceptor called with --allow-privileged",
        with_and(objections)
    )))
}

/// `a`, `a, and b`, `a, b, and c`.
fn with_and(all: &[String]) -> String {
    match all {
        [most @ .., last] if !most.is_empty() => format!("{}, and {last}", most.join(", ")),
        _ => all.concat(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: Value) -> Config {
        let Value::Object(object) = value else { panic!("a configuration") };
        Config::new(object)
    }

    fn with_mount(mount: Value, namespaces: Value) -> Result<(), OciError> {
        let mut config = config(json!({
            "root": { "path": "/r" }, "process": {}, "mounts": [mount],
            "linux": { "namespaces": namespaces },
        }));
        config.give_filter();
        config.judge(false)
    }

    #[test]
    fn a_container_without_a_filter_gets_one_that_is_accepted() {
        let bind = json!({ "destination": "/d", "type": "bind", "source": "/srv/d" });
        with_mount(bind, json!([{ "type": "mount" }])).unwrap();
    }

    #[test]
    fn mounts_that_lead_to_the_enforcement_are_refused() {
        let own = json!([{ "type": "mount" }, { "type": "cgroup" }]);
        let host = json!([{ "type": "mount" }]);
        let judged = |mount: Value, namespaces: &Value, fine: bool| {
            let judged = with_mount(mount.clone(), namespaces.clone());
            assert_eq!(judged.is_ok(), fine, "{mount}: {judged:?}");
        };
        for (options, namespaces, fine) in [
            (json!(["ro"]), &host, true),
            (json!([]), &own, true),
            (json!([]), &host, false),
            (json!(["ro", "rw"]), &host, false),
        ] {
            let mount = json!({ "destination": "/c", "type": "cgroup", "options": options });
            judged(mount, namespaces, fine);
        }
        for (source, options, fine) in [
            ("/sys/fs/cgroup", json!(["rbind", "ro"]), true),
            ("/sys/fs/cgroup/x", json!(["rbind"]), false),
            ("/sys", json!(["rbind"]), false),
            ("/", json!(["rbind", "ro"]), false),
            ("/run/docker.sock", json!(["ro"]), false),
            ("/run/interceptor/oci", json!(["ro"]), false),
            ("/srv/../run", json!(["ro"]), false),
            ("/run/user/1000/x", json!([]), true),
            ("/run/interceptor/oci/sb-0123456789abcdef/trust/ca.pem", json!([]), true),
            ("/run/interceptor/oci/sb-0123456789abcdef/control", json!([]), false),
            ("/run/interceptor/oci/sb-0123456789abcdef/trust/..", json!([]), false),
        ] {
            let bind = json!({
                "destination": "/d", "type": "bind", "source": source, "options": options,
            });
            judged(bind, &own, fine);
        }
        judged(json!({ "destination": "/b", "type": "bpf", "source": "bpf" }), &own, false);
        judged(json!({ "destination": "/t", "type": "tmpfs", "source": "/run" }), &own, true);
    }

    #[test]
    fn a_field_that_go_reads_as_another_is_refused() {
        for name in ["Process", "LINUX", "proce\u{17f}s", "hookS"] {
            let mut value = json!({ "linux": { "namespaces": [{ "type": "mount" }] } });
            value[name] = json!({ "capabilities": { "bounding": ["CAP_SYS_ADMIN"] } });
            let mut config = config(value);
            config.give_filter();
            assert!(config.judge(true).is_err(), "{name}");
        }
        let nested = json!({
            "linux": { "namespaces": [{ "type": "mount", "Path": "/proc/1/ns/net" }] },
        });
        assert!(config(nested).judge(true).is_err());
        let free = json!({
            "annotations": { "Process": "x" }, "linux": { "namespaces": [{ "type": "mount" }] },
        });
        config(free).judge(true).unwrap();
    }

    #[test]
    fn a_further_process_has_no_more_privileges() {
        let process = |text: &str| Config::of_process(text.as_bytes());
        assert!(process("[]").is_err() && process("{").is_err());
        let plain = process(r#"{"capabilities":{"bounding":["CAP_CHOWN"]}}"#).unwrap();
        plain.judge_process(&["CAP_KILL".into()], false).unwrap();
        for added in ["CAP_SYS_ADMIN", "cap_bpf", "SYS_ADMIN"] {
            assert!(plain.judge_process(&[added.into()], false).is_err(), "{added}");
        }
        let strong = process(r#"{"capabilities":{"effective":["CAP_SYS_ADMIN"]}}"#).unwrap();
        assert!(strong.judge_process(&[], false).is_err());
        strong.judge_process(&[], true).unwrap();
        let hidden = process(r#"{"Capabilities":{"effective":["CAP_SYS_ADMIN"]}}"#).unwrap();
        assert!(hidden.judge_process(&[], true).is_err());
    }
}
