//! The command's environment: the caller's, without variables that bypass the proxy or hold a real
//! key, plus the sandbox's own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use interceptor_policy::Policy;

use super::trust;
use super::user::UserIdentity;
use crate::credential::Keyring;
use crate::ipc::Strings;

/// Search path for commands if PATH is unset.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_SHELL: &str = "/bin/sh";
/// The home of a user without one: empty and temporary.
pub(crate) const FALLBACK_HOME: &str = "/run/home";
/// Holds the id of the sandbox, for programs inside.
pub(crate) const SANDBOX_VARIABLE: &str = "INTERCEPTOR_SANDBOX";

/// A policy's variables: the placeholders, and with `base_urls` the services' base URLs
/// (`--base-urls`).
pub(crate) fn variables(
    policy: &Policy,
    keyring: &Keyring,
    base_urls: bool,
) -> Vec<(String, String)> {
    let mut variables = keyring.environment();
    if base_urls {
        // A variable with a placeholder must not also hold a URL.
        let urls = policy.base_urls().into_iter();
        let urls: Vec<_> =
            urls.filter(|(name, _)| variables.iter().all(|(known, _)| known != name)).collect();
        variables.extend(urls);
    }
    variables
}

/// The inputs of [`build`].
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    /// The caller's environment.
    pub(crate) inherited: Vec<(OsString, OsString)>,
    /// The sandbox's id.
    pub(crate) sandbox: &'a str,
    /// Who runs the command.
    pub(crate) identity: &'a UserIdentity,
    /// The credentials' variables with their placeholders.
    pub(crate) placeholders: Vec<(String, String)>,
    /// Variables that hold real keys.
    pub(crate) key_variables: Vec<String>,
    /// Variables of the catalogue's services, whether the policy names the service or not.
    pub(crate) service_variables: Vec<String>,
    /// Variables the operator passes by name: `NAME`, or `NAME=VALUE`.
    pub(crate) given: Vec<OsString>,
}

/// An environment, and the names of variables withheld because they look secret.
#[derive(Debug)]
pub(crate) struct Environment {
    /// `NAME=value` each.
    pub(crate) lines: Strings,
    /// Variables with a secret-looking name that the policy does not mention.
    pub(crate) withheld: Vec<String>,
    /// Variables whose value contains a real key, whatever their name.
    pub(crate) with_key: Vec<String>,
}

/// Builds it. `holds_key` tells whether a value contains a real key.
pub(crate) fn build(sources: Sources<'_>, holds_key: impl Fn(&[u8]) -> bool) -> Environment {
    let Sources {
        inherited,
        sandbox,
        identity,
        placeholders,
        key_variables,
        service_variables,
        given,
    } = sources;
    let (passed, set_here) = passed_and_set(given);
    let governed = |name: &OsStr| placeholders.iter().any(|(known, _)| name == OsStr::new(known));
    let is_source = |name: &OsStr| key_variables.iter().any(|key| name == OsStr::new(key));
    // The caller set the policy's own variables on purpose, but explicitly passing one in is a
    // mistake.
    let inherited_key = inherited.iter().filter(|(name, _)| !is_source(name));
    let set_key = set_here.iter();
    let mut with_key: Vec<String> = inherited_key
        .filter(|(_, value)| holds_key(value.as_bytes()))
        .chain(set_key.filter(|(name, value)| is_source(name) || holds_key(value.as_bytes())))
        // Do not repeat a name that is itself a key.
        .filter(|(name, _)| !governed(name) && !holds_key(name.as_bytes()))
        .map(|(name, _)| shown(name))
        .collect();
    let mut variables = harmless(inherited, &passed, &key_variables, &holds_key);
    let mut withheld = Vec::new();
    variables.retain(|(name, value)| {
        let stays = value.is_empty()
            || governed(name)
            || passed.contains(name)
            || !(service_variables.iter().any(|known| name == OsStr::new(known))
                || says_secret(name));
        // A variable that is set again is not withheld.
        if !stays && set_here.iter().all(|(other, _)| other != name) {
            withheld.push(shown(name));
        }
        stays
    });
    for (name, value) in harmless(set_here, &passed, &key_variables, &holds_key) {
        set(&mut variables, &name, value);
    }
    set_user(&mut variables, identity);
    if get(&variables, "PATH").is_none() {
        set(&mut variables, "PATH", DEFAULT_PATH);
    }
    add_own(&mut variables, sandbox, placeholders);

    let line = |(name, value): (OsString, OsString)| {
        let mut line = name;
        line.push("=");
        line.push(value);
        line
    };
    withheld.sort();
    with_key.sort();
    with_key.dedup();
    Environment { lines: Strings(variables.into_iter().map(line).collect()), withheld, with_key }
}

/// Splits what `--env` gave: names to pass on, and variables to set.
fn passed_and_set(given: Vec<OsString>) -> (Vec<OsString>, Vec<(OsString, OsString)>) {
    let (mut passed, mut set_here) = (Vec::new(), Vec::new());
    for line in given {
        match line.as_bytes().iter().position(|byte| *byte == b'=') {
            None => passed.push(line),
            Some(at) => {
                let (name, value) = line.as_bytes().split_at(at);
                set_here.push((
                    OsStr::from_bytes(name).to_owned(),
                    OsStr::from_bytes(&value[1..]).to_owned(),
                ));
            }
        }
    }
    (passed, set_here)
}

/// Sets what tells programs who they run as.
fn set_user(variables: &mut Vec<(OsString, OsString)>, identity: &UserIdentity) {
    let home = identity.home.as_ref().map_or(OsStr::new(FALLBACK_HOME), |home| home.0.as_os_str());
    set(variables, "HOME", home);
    set(variables, "USER", &identity.name);
    set(variables, "LOGNAME", &identity.name);
    set(
        variables,
        "SHELL",
        identity.shell.as_ref().map_or(Path::new(DEFAULT_SHELL), |shell| &shell.0),
    );
}

/// A printable name.
fn shown(name: &OsStr) -> String {
    name.to_string_lossy().escape_debug().to_string()
}

/// Why an argument of `--env` is invalid; never repeats a value. `is_set` tells whether the caller
/// has a variable.
pub(crate) fn objection(given: &OsStr, is_set: impl Fn(&OsStr) -> bool) -> Option<String> {
    let bytes = given.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=');
    let name = OsStr::from_bytes(&bytes[..at.unwrap_or(bytes.len())]);
    let text = shown(name);
    if name.is_empty() {
        return Some("a variable has no name before the `=`".to_owned());
    }
    if name.as_bytes().iter().any(u8::is_ascii_whitespace) {
        return Some(
            "the name of a variable contains no blanks; write NAME or NAME=VALUE".to_owned(),
        );
    }
    (at.is_none() && !is_set(name)).then(|| {
        format!("the variable {text} is not set here; {text}=VALUE gives it a value inside")
    })
}

/// Whether a variable's name suggests a secret: it is one of these words or ends in one.
fn says_secret(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let upper = name.to_ascii_uppercase();
    SECRET.iter().any(|word| {
        upper.strip_suffix(word).is_some_and(|before| before.is_empty() || before.ends_with('_'))
    })
}

const SECRET: [&str; 9] = [
    "API_KEY",
    "ACCESS_KEY",
    "ACCESS_KEY_ID",
    "SECRET",
    "SECRET_KEY",
    "SECRET_ACCESS_KEY",
    "TOKEN",
    "PASSWORD",
    "CREDENTIALS",
];

/// The environment of a container's first process, from the original one (`NAME=value` each). The
/// engine decides which user runs it.
pub(crate) fn of_container(
    given: &[String],
    sandbox: &str,
    placeholders: Vec<(String, String)>,
    key_variables: &[String],
    holds_key: impl Fn(&[u8]) -> bool,
) -> Vec<String> {
    let given = given.iter().map(|line| line.split_once('=').unwrap_or((line, "")));
    let given = given.map(|(name, value)| (name.into(), value.into())).collect();
    let mut variables = harmless(given, &[], key_variables, &holds_key);
    add_own(&mut variables, sandbox, placeholders);
    let text = |part: OsString| part.to_string_lossy().into_owned();
    variables.into_iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect()
}

/// The inherited variables that may enter a sandbox; those that lead outside only if `passed` by
/// name.
fn harmless(
    inherited: Vec<(OsString, OsString)>,
    passed: &[OsString],
    key_variables: &[String],
    holds_key: &impl Fn(&[u8]) -> bool,
) -> Vec<(OsString, OsString)> {
    let stays = |(name, value): &(OsString, OsString)| {
        (!leads_outside(name) || passed.contains(name))
            && !key_variables.iter().any(|key| name == OsStr::new(key))
            && !holds_key(value.as_bytes())
            && !holds_key(name.as_bytes())
    };
    inherited.into_iter().filter(stays).collect()
}

/// Adds the sandbox's own variables: its id, trust files and placeholders.
fn add_own(
    variables: &mut Vec<(OsString, OsString)>,
    sandbox: &str,
    placeholders: Vec<(String, String)>,
) {
    set(variables, SANDBOX_VARIABLE, sandbox);
    for (name, value) in trust::variables() {
        set(variables, name, value);
    }
    let mut java = get(variables, "JAVA_TOOL_OPTIONS").map(without_java_proxy).unwrap_or_default();
    if !java.is_empty() {
        java.push(" ");
    }
    java.push(trust::java_options());
    set(variables, "JAVA_TOOL_OPTIONS", java);
    for (name, value) in placeholders {
        set(variables, &name, value);
    }
}

/// Java options without those that configure a proxy.
fn without_java_proxy(options: &OsStr) -> OsString {
    const PROXY: [&[u8]; 6] = [
        b"-Dhttp.proxy",
        b"-Dhttps.proxy",
        b"-Dftp.proxy",
        b"-DsocksProxy",
        b"-Dhttp.nonProxyHosts",
        b"-Djava.net.useSystemProxies",
    ];
    let kept = options.as_bytes().split(u8::is_ascii_whitespace).filter(|option| {
        // Options and values may be quoted.
        let plain = option.trim_ascii_start();
        let plain = plain.strip_prefix(b"\"").or(plain.strip_prefix(b"'")).unwrap_or(plain);
        !option.is_empty() && !PROXY.iter().any(|proxy| plain.starts_with(proxy))
    });
    OsStr::from_bytes(&kept.collect::<Vec<_>>().join(&b' ')).to_owned()
}

fn get<'a>(variables: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
}

fn set(
    variables: &mut Vec<(OsString, OsString)>,
    name: impl AsRef<OsStr>,
    value: impl AsRef<OsStr>,
) {
    variables.retain(|(known, _)| known != name.as_ref());
    variables.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
}

/// Whether a variable sends traffic elsewhere, names a socket of the host, or describes the caller.
fn leads_outside(name: &OsStr) -> bool {
    // Not a plain name (such as an exported shell function), so not one of these.
    let Some(name) = name.to_str() else { return false };
    let upper = name.to_ascii_uppercase();
    upper.ends_with("_PROXY")
        || upper.starts_with("SUDO_")
        || upper.starts_with("NPM_CONFIG_") && upper.ends_with("PROXY")
        || DROPPED.contains(&upper.as_str())
}

/// Besides proxies: sockets of host services the sandbox cannot reach, certificate directories
/// preferred to the bundle, and the TLS key log.
const DROPPED: [&str; 28] = [
    // Java reads these after JAVA_TOOL_OPTIONS, so they would override the trust store and may name
    // a proxy.
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "PIP_PROXY",
    "GRPC_PROXY",
    "CURL_HOME",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DBUS_STARTER_ADDRESS",
    "XDG_RUNTIME_DIR",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "BUILDKIT_HOST",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "MAIL",
    "OLDPWD",
    "_",
];

#[cfg(test)]
mod tests;
