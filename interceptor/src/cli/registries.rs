//! The catalogue that the commands use: the built-in one, the operator's `profiles.d`, and the
//! group `registries`, whose hosts come from the machine's package managers. The project itself
//! names no registry.
//!
//! It reads the documented configuration files of pip, npm and cargo, system-wide and per user;
//! under sudo also those of the calling user. Only the host of each URL is used.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use interceptor_policy::{Catalogue, Host};
use nix::unistd::User;

use crate::files;

/// The directory of the operator's own profiles.
pub const PROFILES_DIR: &str = "/etc/interceptor/profiles.d";

/// The group of package registries.
pub const GROUP: &str = "registries";

/// The largest profile or package manager configuration, in bytes.
const MAX_FILE: usize = 1 << 20;

/// The catalogue with the operator's profiles and this machine's registries. The default directory
/// may be missing.
///
/// # Errors
/// If a given directory, or a file in it, cannot be read or is invalid.
pub fn catalogue(profiles_dir: Option<&Path>) -> anyhow::Result<Catalogue> {
    let mut catalogue = with_profiles(profiles_dir)?;
    catalogue.set_group(GROUP, hosts());
    Ok(catalogue)
}

/// The catalogue with the operator's profiles, and with the registries of another machine's user.
///
/// # Errors
/// As [`catalogue`].
pub(super) fn with_hosts(registries: Vec<String>) -> anyhow::Result<Catalogue> {
    let mut catalogue = with_profiles(None)?;
    catalogue.set_group(GROUP, registries);
    Ok(catalogue)
}

/// The hosts of the registries that package managers are configured with, as network rules.
pub(super) fn hosts() -> Vec<String> {
    machine_registries(&RegistryConfig::of_this_machine()).into_iter().collect()
}

fn with_profiles(profiles_dir: Option<&Path>) -> anyhow::Result<Catalogue> {
    let mut catalogue = Catalogue::builtin();
    let directory = profiles_dir.unwrap_or(Path::new(PROFILES_DIR));
    match fs::read_dir(directory) {
        Ok(entries) => {
            let mut files =
                entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
            files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
            files.sort();
            for file in files {
                let text = files::read_text(&file, MAX_FILE)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                catalogue
                    .add_profiles(&text)
                    .with_context(|| format!("{} is not valid", file.display()))?;
            }
        }
        // Profiles that a user may not read are not for that user; a policy that names one fails.
        Err(error)
            if profiles_dir.is_none()
                && matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", directory.display()));
        }
    }
    Ok(catalogue)
}

/// Where package managers are configured.
#[derive(Debug, Default)]
struct RegistryConfig {
    files: Vec<PathBuf>,
    /// Values of environment variables that hold URLs.
    values: Vec<String>,
}

impl RegistryConfig {
    fn of_this_machine() -> RegistryConfig {
        let mut homes: Vec<PathBuf> = env::var_os("HOME").map(PathBuf::from).into_iter().collect();
        let caller =
            env::var("SUDO_USER").ok().and_then(|name| User::from_name(&name).ok().flatten());
        homes.extend(caller.map(|user| user.dir));
        let mut files: Vec<PathBuf> = [
            "/etc/pip.conf",
            "/etc/xdg/pip/pip.conf",
            "/etc/npmrc",
            "/usr/etc/npmrc",
            "/usr/local/etc/npmrc",
        ]
        .map(PathBuf::from)
        .into();
        for home in &homes {
            for name in [
                ".config/pip/pip.conf",
                ".pip/pip.conf",
                ".npmrc",
                ".cargo/config.toml",
                ".cargo/config",
            ] {
                files.push(home.join(name));
            }
        }
        files.extend(env::var_os("PIP_CONFIG_FILE").map(PathBuf::from));
        files.extend(env::var_os("NPM_CONFIG_USERCONFIG").map(PathBuf::from));
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        files.extend(
            cargo_home.into_iter().flat_map(|home| [home.join("config.toml"), home.join("config")]),
        );
        let values = env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?.to_ascii_uppercase(), value.into_string().ok()?))
            })
            .filter(|(name, _)| {
                matches!(
                    name.as_str(),
                    "PIP_INDEX_URL" | "PIP_EXTRA_INDEX_URL" | "NPM_CONFIG_REGISTRY"
                ) || name.starts_with("CARGO_REGISTRIES_") && name.ends_with("_INDEX")
                    || name.starts_with("CARGO_SOURCE_") && name.ends_with("_REGISTRY")
            })
            .map(|(_, value)| value)
            .collect();
        RegistryConfig { files, values }
    }
}

/// The package managers' configured hosts, as network rules.
fn machine_registries(sources: &RegistryConfig) -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for file in &sources.files {
        // Missing, unreadable and non-text files are ignored, as package managers do.
        if let Ok(text) = files::read_text(file, MAX_FILE) {
            rules.extend(configured_urls(&text).filter_map(url_rule));
        }
    }
    for value in &sources.values {
        rules.extend(value.split_ascii_whitespace().filter_map(url_rule));
    }
    rules
}

/// The settings of the three package managers that hold a registry URL.
const SETTINGS: [&str; 6] =
    ["index-url", "extra-index-url", "index_url", "extra_index_url", "registry", "index"];

/// The URLs in registry settings of an ini file (pip, npm) or a TOML file (cargo). A setting may
/// continue on indented lines (pip), and a line may hold several settings (TOML inline tables).
fn configured_urls(text: &str) -> impl Iterator<Item = &str> {
    let mut listing = false;
    text.lines().flat_map(move |line| {
        let indented = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            return Vec::new();
        }
        if !(indented && listing && !line.contains('=')) {
            listing = line.split([',', '{']).any(|part| {
                let name = part.split('=').next().unwrap_or(part).trim();
                // `@scope:registry` of npm, `registries.name.index` of cargo.
                let name =
                    name.rsplit([':', '.']).next().unwrap_or(name).trim_matches(['"', '\'', ' ']);
                part.contains('=') && SETTINGS.contains(&name)
            });
        }
        if !listing {
            return Vec::new();
        }
        line.split(['=', ' ', '\t', '"', '\'', ',']).filter(|word| word.contains("://")).collect()
    })
}

/// The network rule for the host of a URL, e.g. `sparse+https://user:word@host:8080/path`.
fn url_rule(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim_matches(['"', '\'']).split_once("://")?;
    let usual = match scheme.rsplit('+').next()? {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    let authority = interceptor_policy::Authority::parse(authority).ok()?;
    let host = match &authority.host {
        Host::Ip(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        host => host.to_string(),
    };
    Some(match authority.port.unwrap_or(usual) {
        443 => host,
        port => format!("{host}:{port}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_npm_and_cargo_configurations_yield_their_hosts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let files = vec![
            write(
                "pip.conf",
                "[global]\nindex-url = https://user:word@wheels.example.com/simple\n\
                 extra-index-url =\n    https://more.example.com:8443/simple\n    \
                 http://plain.example.com/simple\ntrusted-host = ignored.example.com\n\
                 proxy = http://not-me.example.com\n",
            ),
            write(
                ".npmrc",
                "registry=https://node.example.com/\n\
                 @scope:registry = https://scope.example.com/npm\n\
                 //node.example.com/:_authToken=word\n; registry=https://commented.example.com/\n",
            ),
            write(
                "config.toml",
                "[source.mirror]\nregistry = \"sparse+https://crates.example.com/index/\"\n\
                 [registries]\nmine = { index = \"https://inline.example.com/git\" }\n\
                 other.index = 'https://dotted.example.com'\n\
                 [http]\nproxy = \"http://not-me.example.com:3128\"\n",
            ),
            directory.path().join("missing"),
        ];
        let values =
            vec!["https://variable.example.com/simple https://[2001:db8::1]:8080/x".to_owned()];
        let rules = machine_registries(&RegistryConfig { files, values });
        let expected = [
            "[2001:db8::1]:8080",
            "crates.example.com",
            "dotted.example.com",
            "inline.example.com",
            "more.example.com:8443",
            "node.example.com",
            "plain.example.com:80",
            "scope.example.com",
            "variable.example.com",
            "wheels.example.com",
        ];
        assert_eq!(rules.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_profiles_directory_that_was_asked_for_must_be_there_and_valid() {
        let directory = tempfile::tempdir().unwrap();
        assert!(catalogue(Some(&directory.path().join("missing"))).is_err());
        fs::write(
            directory.path().join("a.json"),
            r#"{"mine":{"description":"d","allow":["a.example.com"]}}"#,
        )
        .unwrap();
        fs::write(directory.path().join("ignored.txt"), "not json").unwrap();
        let found = catalogue(Some(directory.path())).unwrap();
        assert_eq!(
            found.profile("mine").unwrap().allow.as_deref(),
            Some(["a.example.com".to_owned()].as_slice())
        );
        fs::write(
            directory.path().join("b.json"),
            r#"{"bad":{"description":"d","allow":["a b"]}}"#,
        )
        .unwrap();
        let error = format!("{:#}", catalogue(Some(directory.path())).unwrap_err());
        assert!(error.contains("b.json"), "{error}");
    }
}
