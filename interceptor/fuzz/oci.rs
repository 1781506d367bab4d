//! The configuration that a container runtime gives to the hook: an accepted one contains nothing
//! that is refused, and edits keep the rest of the JSON.

#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/oci/config.rs"]
mod config;
#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/oci/error.rs"]
mod error;
#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/oci/filter.rs"]
mod filter;
#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/oci/input.rs"]
mod input;
#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/oci/judge.rs"]
mod judge;
#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/oci/names.rs"]
mod names;
#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/oci/seccomp.rs"]
mod seccomp;

use std::path::Path;

use serde_json::Value;

use error::{Attempt, OciError};
use input::Input;

// As in the product's module.
const RUNTIME: &str = "oci-runtime";
const SANDBOX: &str = "io.interceptor.sandbox";

/// Checks one input of the hook.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    match input::parse(data) {
        Ok(Input::Config(config)) => check_config(config),
        Ok(Input::Profile(mut profile)) => {
            seccomp::narrow(&mut profile);
            let once = seccomp::is_narrow(&profile);
            seccomp::narrow(&mut profile);
            assert_eq!(once, seccomp::is_narrow(&profile));
        }
        Ok(Input::State(_)) | Err(_) => {}
    }
}

fn check_config(mut config: config::Config) {
    // A bundle may be edited again.
    let mut wrapped = config.clone();
    let mut edit = || {
        wrapped.restore();
        wrapped.give_filter();
        wrapped.narrow_sockets();
        let judged = wrapped.judge(false).is_ok();
        let _ = wrapped.call("createRuntime", Path::new("/bin/true"), &[]);
        (judged, wrapped.is_hooked())
    };
    assert_eq!(edit(), edit());
    config.narrow_sockets();
    let judged = config.judge(false).is_ok();
    let before: Value = serde_json::from_str(&config.to_json()).expect("JSON");
    if judged {
        let namespaces = before["linux"]["namespaces"].as_array().expect("a list");
        assert!(namespaces.iter().any(|one| one["type"] == "mount"));
        assert!(!before["process"]["capabilities"].to_string().contains("\"CAP_SYS_ADMIN\""));
        let profile = &before["linux"]["seccomp"];
        assert!(seccomp::is_narrow(profile) || *profile == filter::own());
        assert!(config.judge(true).is_ok());
    }
    let _ = (config.root(None), config.root(Some(Path::new("/b"))), config.has_own_network());
    let destinations = config.destinations().count();
    config.annotate("a", "b");
    let environment = vec!["A=\"\n".to_owned()];
    let has_environment = config.set_environment(environment.clone()).is_ok();
    let bound = config.bind(Path::new("/s\"\n"), Path::new("/d")).is_ok();
    assert_eq!(config.annotation("a"), Some("b"));
    if has_environment {
        assert_eq!(config.environment(), environment);
    }
    if bound {
        assert_eq!(config.destinations().count(), destinations + 1);
        assert_eq!(config.destinations().last(), Some(Path::new("/d")));
    }
    // A container that would not start is refused whatever else its configuration says.
    config.refuse(Path::new("/bin/true"), "a\n\"reason\"", "token");
    let after: Value = serde_json::from_str(&config.to_json()).expect("JSON");
    for stage in ["prestart", "createRuntime"] {
        assert!(
            after["hooks"][stage][0]["path"].as_str().expect("a hook").starts_with("/bin/true ")
        );
    }
    for (name, value) in before.as_object().expect("an object") {
        if !["annotations", "process", "mounts", "hooks"].contains(&name.as_str()) {
            assert_eq!(&after[name], value);
        }
    }
}
