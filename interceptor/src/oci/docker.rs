//! Docker's configuration (dockerd(8), "daemon configuration file"): the runtimes that containers
//! can be started with.
//!
//! Docker before 24 knows no annotations, so there is an entry for each policy.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::podman::LOGS;
use super::{OciError, RUNTIME};

/// The daemon, and its client.
pub(crate) const DAEMON: &str = "dockerd";
/// See [`DAEMON`].
pub(crate) const PROGRAM: &str = "docker";
/// The daemon's configuration.
pub(crate) const CONFIG: &str = "/etc/docker/daemon.json";
/// The runtime for containers that name their policy by annotation; those for one policy have its
/// name after it.
pub(crate) const NAME: &str = "interceptor";

/// The names of the runtimes for these policies.
pub(crate) fn names(policies: &[String]) -> Vec<String> {
    let named = policies.iter().map(|policy| format!("{NAME}-{policy}"));
    std::iter::once(NAME.to_owned()).chain(named).collect()
}

/// A configuration with our runtimes for these policies, and none of ours for others.
///
/// # Errors
/// If the present one is not an object of JSON.
pub(crate) fn with_runtimes(
    present: &str,
    executable: &Path,
    policies: &[String],
) -> Result<String, OciError> {
    let (mut config, mut runtimes) = without(present)?;
    let usual = [
        "--audit".to_owned(),
        format!("{LOGS}/containers.jsonl"),
        "--supervisor-log".to_owned(),
        format!("{LOGS}/containers.log"),
    ];
    let policies = std::iter::once(None).chain(policies.iter().map(Some));
    for policy in policies {
        let mut arguments = vec![RUNTIME.to_owned()];
        arguments.extend(usual.iter().cloned());
        let mut name = NAME.to_owned();
        if let Some(policy) = policy {
            arguments.extend(["--policy".into(), policy.clone()]);
            name = format!("{NAME}-{policy}");
        }
        let entry = json!({ "path": executable.to_string_lossy(), "runtimeArgs": arguments });
        runtimes.insert(name, entry);
    }
    config.insert("runtimes".into(), runtimes.into());
    Ok(format!("{:#}\n", Value::Object(config)))
}

/// A configuration without our runtimes; `None` if nothing is left of it.
///
/// # Errors
/// As for [`with_runtimes`].
pub(crate) fn without_runtimes(present: &str) -> Result<Option<String>, OciError> {
    let (mut config, runtimes) = without(present)?;
    if runtimes.is_empty() {
        config.remove("runtimes");
    } else {
        config.insert("runtimes".into(), runtimes.into());
    }
    Ok((!config.is_empty()).then(|| format!("{:#}\n", Value::Object(config))))
}

/// The configuration without its runtimes, and those.
type Parted = (Map<String, Value>, Map<String, Value>);

fn without(present: &str) -> Result<Parted, OciError> {
    let malformed = |why: String| OciError::Malformed { what: "configuration of Docker", why };
    let value = if present.trim().is_empty() {
        json!({})
    } else {
        serde_json::from_str(present).map_err(|error| malformed(error.to_string()))?
    };
    let Value::Object(mut config) = value else {
        return Err(malformed("it is not an object".into()));
    };
    let runtimes = match config.remove("runtimes") {
        None => Map::new(),
        Some(Value::Object(runtimes)) => runtimes,
        Some(_) => return Err(malformed("runtimes is not an object".into())),
    };
    let others = runtimes.into_iter().filter(|(name, entry)| !is_ours(name, entry)).collect();
    Ok((config, others))
}

fn is_ours(name: &str, entry: &Value) -> bool {
    let ours = name == NAME || name.starts_with(&format!("{NAME}-"));
    ours && entry["runtimeArgs"].as_array().is_some_and(|all| all.contains(&RUNTIME.into()))
}

/// Our runtimes in a configuration, with their programs.
pub(crate) fn configured(present: &str) -> Vec<(String, PathBuf)> {
    let value: Value = serde_json::from_str(present).unwrap_or_default();
    let runtimes = value["runtimes"].as_object().cloned().unwrap_or_default();
    let ours = runtimes.into_iter().filter(|(name, entry)| is_ours(name, entry));
    ours.map(|(name, entry)| (name, entry["path"].as_str().unwrap_or_default().into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: &str = r#"{
        "bridge": "none",
        "runtimes": { "gvisor": { "path": "/usr/bin/runsc" }, "interceptor": { "path": "/mine" } }
    }"#;

    #[test]
    fn our_runtimes_are_added_replaced_and_removed_and_others_stay() {
        let policies = ["agent".to_owned(), "other".to_owned()];
        let program = Path::new("/usr/local/bin/interceptor");
        let first = with_runtimes(r#"{"bridge":"none"}"#, program, &policies).unwrap();
        let names: Vec<_> = configured(&first).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["interceptor", "interceptor-agent", "interceptor-other"]);
        assert_eq!(names, self::names(&policies));
        let second = with_runtimes(&first, program, &policies[..1]).unwrap();
        assert_eq!(configured(&second).len(), 2);
        let value: Value = serde_json::from_str(&second).unwrap();
        assert_eq!(value["bridge"], "none");
        let arguments = value["runtimes"]["interceptor-agent"]["runtimeArgs"].as_array().unwrap();
        assert_eq!(arguments[0], RUNTIME);
        assert_eq!(arguments[arguments.len() - 2..], [json!("--policy"), json!("agent")]);
        assert_eq!(without_runtimes(&second).unwrap().unwrap(), "{\n  \"bridge\": \"none\"\n}\n");
        assert_eq!(without_runtimes(&with_runtimes("", program, &[]).unwrap()).unwrap(), None);
        // One that only has the name of ours is replaced, not removed.
        let kept = without_runtimes(OTHERS).unwrap().unwrap();
        assert!(kept.contains("gvisor") && kept.contains("/mine") && configured(&kept).is_empty());
    }

    #[test]
    fn what_is_no_configuration_is_left_alone() {
        for odd in ["[]", "{", "{\"runtimes\": []}", "nonsense"] {
            assert!(with_runtimes(odd, Path::new("/i"), &[]).is_err(), "{odd}");
            assert!(without_runtimes(odd).is_err() && configured(odd).is_empty(), "{odd}");
        }
    }
}
