//! What the hook changes in a configuration, and what it refuses.

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
    assert!(config(strong.clone()).judge(false).unwrap_err().to_string().contains("CAP_SYS_ADMIN"));
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
        assert!(path.len() < 1000 && !path.contains('\n') && !Path::new(path).exists(), "{path}");
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
        odd.root(None).is_err() && odd.set_environment(vec![]).is_err() && odd.judge(true).is_err()
    );
    assert!(odd.bind(Path::new("/s"), Path::new("/d")).is_err());
    assert!(config(json!({ "root": { "path": "rootfs" } })).root(None).is_err());
}
