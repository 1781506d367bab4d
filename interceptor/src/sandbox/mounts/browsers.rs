//! Browsers have their own trust stores. Chromium and relatives, including test tools' copies, read
//! an NSS database in the home directory and, if installed system-wide, enterprise policies.
//! Firefox accepts a CA only through such a policy.
//!
//! No failure here keeps a command from starting: the browser then reports an untrusted
//! certificate.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, chown};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::super::as_user::AsUser;
use super::super::environment::FALLBACK_HOME;
use super::super::handover::Launch;
use super::super::{SandboxError, nss, sys, trust};
use super::super::{bundles::path_of, error::IoContext};
use super::steps::{bind, bind_read_only, fresh, make_directory, make_file, set_mode, tmpfs};

/// The database, to be shown in the home directory, and the additions to policies.
const DATABASE: &str = "/run/.nssdb";
const POLICIES: &str = "/run/.browsers";

/// Its locations below the home directory; Chromium prefers the first if both exist.
const IN_HOME: [&str; 2] = [".pki/nssdb", ".local/share/pki/nssdb"];

/// Firefox's installation directories: the parent and a name prefix.
const INSTALLATIONS: [(&str, &str); 5] = [
    ("/usr/lib", "firefox"),
    ("/usr/lib64", "firefox"),
    ("/usr/local/lib", "firefox"),
    ("/usr/local", "firefox"),
    ("/opt", "firefox"),
];

/// System-wide policies, which Firefox prefers to those in its installation.
const SYSTEM_POLICIES: [&str; 2] =
    ["/etc/firefox/policies/policies.json", "/etc/firefox-esr/policies/policies.json"];

/// Policy directories of system-wide Chromium and relatives.
const CHROMIUM: [&str; 6] = [
    "/etc/chromium",
    "/etc/chromium-browser",
    "/etc/opt/chrome",
    "/etc/opt/chrome_for_testing",
    "/etc/opt/edge",
    "/etc/brave",
];

/// Makes browsers trust the sandbox's CA, as far as possible.
pub(super) fn install(launch: &Launch) {
    let authority = trust::certificates(launch.ca_pem.as_bytes());
    for outcome in [database(launch, &authority), policies(&authority)] {
        if let Err(error) = outcome {
            eprintln!(
                "interceptor: warning: browsers will not trust the sandbox's certificates: {error}"
            );
        }
    }
}

fn database(launch: &Launch, authority: &[CertificateDer<'_>]) -> Result<(), SandboxError> {
    let Some(database) = authority.first().and_then(nss::database) else { return Ok(()) };
    let home =
        launch.identity.home.as_ref().map_or(Path::new(FALLBACK_HOME), |home| home.0.as_path());
    let places = match AsUser::begin(&launch.identity) {
        Ok(_rights) => places(home),
        Err(_) => return Ok(()),
    };
    // No place for it: the home directory is not writable, or a symlink leads elsewhere.
    if places.is_empty() {
        return Ok(());
    }

    let directory = Path::new(DATABASE);
    let owner =
        (Some(Uid::from_raw(launch.identity.uid)), Some(Gid::from_raw(launch.identity.gid)));
    make_directory(directory)?;
    // Programs write to it; the changes vanish with the sandbox.
    let options =
        format!("mode=700,uid={},gid={},size=16m", launch.identity.uid, launch.identity.gid);
    tmpfs(directory, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, &options)?;
    for (name, content) in [("cert9.db", &database.cert9), ("key4.db", &database.key4)] {
        let file = directory.join(name);
        make_file(&file, content)?;
        set_mode(&file, 0o600)?;
        chown(&file, owner.0, owner.1)
            .context(|| format!("cannot give {} away", file.display()))?;
    }
    places.iter().try_for_each(|place| bind(directory, &path_of(place)))
}

/// The directories in the home directory to cover: those that exist, and always the first, which
/// every version knows. Follows no symlink and uses the user's rights.
fn places(home: &Path) -> Vec<OwnedFd> {
    let how = || OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
    let Ok(home) = openat2(AT_FDCWD, home, how()) else { return Vec::new() };
    let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let open = |path: &Path| openat2(&home, path, how().resolve(inside));
    let make = |path: &Path| {
        for part in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
            let parent = part.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = open(parent.unwrap_or(Path::new(".")))?;
            match mkdirat(&parent, part.file_name().unwrap_or_default(), Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        open(path)
    };
    let first = Path::new(IN_HOME[0]);
    let first = open(first).or_else(|_| make(first));
    first
        .into_iter()
        .chain(IN_HOME[1..].iter().filter_map(|path| open(Path::new(path)).ok()))
        .collect()
}

/// A file to add to a host directory, inside the sandbox.
struct Addition {
    directory: PathBuf,
    file: PathBuf,
    content: Vec<u8>,
}

fn policies(authority: &[CertificateDer<'_>]) -> Result<(), SandboxError> {
    let system: Vec<&Path> = SYSTEM_POLICIES
        .iter()
        .map(Path::new)
        .filter(|path| is(path, fs::Metadata::is_file))
        .collect();
    let roots: Vec<String> =
        (0..authority.len()).map(|n| format!("{POLICIES}/ca-{n}.pem")).collect();
    let additions: Vec<Addition> = firefox(&roots).into_iter().chain(chromium(authority)).collect();
    if additions.is_empty() && system.is_empty() {
        return Ok(());
    }
    let directory = Path::new(POLICIES);
    make_directory(directory)?;
    tmpfs(
        directory,
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        "mode=755,size=16m",
    )?;
    // Firefox reads one certificate per file.
    for (root, certificate) in roots.iter().zip(authority) {
        make_file(Path::new(root), pem(certificate).as_bytes())?;
    }
    for (number, path) in system.into_iter().enumerate() {
        let file = directory.join(format!("system-{number}.json"));
        make_file(&file, &with_authority(path, &roots))?;
        bind_read_only(&file, path)?;
    }
    let layers: Vec<PathBuf> =
        (0..additions.len()).map(|number| directory.join(number.to_string())).collect();
    for (addition, layer) in additions.iter().zip(&layers) {
        let file = layer.join(&addition.file);
        let below: Vec<&Path> =
            file.ancestors().skip(1).take_while(|path| *path != directory).collect();
        for directory in below.into_iter().rev() {
            make_directory(directory)?;
            set_mode(directory, 0o755)?;
        }
        make_file(&file, &addition.content)?;
    }
    sys::set_mount_attributes(directory, libc::MOUNT_ATTR_RDONLY, 0, false)
        .context(|| format!("cannot make {} read-only", directory.display()))?;
    for (Addition { directory, .. }, layer) in additions.iter().zip(&layers) {
        // Must not change the host's directory: a layer above it, without an upper directory.
        let options = format!("lowerdir={}:{}", layer.display(), directory.display());
        fresh(
            "overlay",
            directory,
            MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
            &options,
        )?;
    }
    Ok(())
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn firefox(roots: &[String]) -> Vec<Addition> {
    let installations =
        INSTALLATIONS.iter().flat_map(|(directory, name)| installed(Path::new(directory), name));
    let addition = |installation: PathBuf| {
        // Debian's is a symbolic link.
        let distribution = fs::canonicalize(installation.join("distribution")).ok();
        let (directory, file) = match distribution.filter(|found| is(found, ours)) {
            Some(found) => (found, Path::new("policies.json")),
            None => (installation, Path::new("distribution/policies.json")),
        };
        let content = with_authority(&directory.join(file), roots);
        Addition { directory, file: file.to_owned(), content }
    };
    installations.map(addition).collect()
}

fn chromium(authority: &[CertificateDer<'_>]) -> Vec<Addition> {
    let certificates: Vec<String> =
        authority.iter().map(|authority| STANDARD.encode(authority)).collect();
    let content = json!({ "CACertificates": certificates }).to_string().into_bytes();
    let file = Path::new("policies/managed/interceptor.json");
    // Covering a symlink would hide the policies it leads to.
    let plain = |directory: &Path| {
        let mut parts = file.ancestors().skip(1).map(|part| directory.join(part));
        parts.all(|part| !is(&part, fs::Metadata::is_symlink)) && is(directory, ours)
    };
    let directories = CHROMIUM.iter().map(Path::new).filter(|directory| plain(directory));
    let addition = |directory: &Path| Addition {
        directory: directory.to_owned(),
        file: file.to_owned(),
        content: content.clone(),
    };
    directories.map(addition).collect()
}

/// Whether only root can change the directory.
fn ours(status: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    status.is_dir() && status.uid() == 0 && status.mode() & 0o022 == 0
}

/// Root's subdirectories of `directory` with this name prefix that contain Firefox.
fn installed(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(name));
    let holds =
        |path: &PathBuf| is(path, ours) && is(&path.join("libxul.so"), fs::Metadata::is_file);
    // Other names would need escaping in mount options.
    let plain = |path: &PathBuf| !path.to_string_lossy().contains([',', ':', '\\']);
    named.map(|entry| entry.path()).filter(|path| plain(path) && holds(path)).take(8).collect()
}

fn is(path: &Path, what: impl FnOnce(&fs::Metadata) -> bool) -> bool {
    fs::symlink_metadata(path).is_ok_and(|status| what(&status))
}

/// The policies of a file, plus one that installs the sandbox's CA and the operator's roots.
fn with_authority(path: &Path, roots: &[String]) -> Vec<u8> {
    let own =
        is(path, |status| status.is_file() && status.len() < 1 << 20).then(|| fs::read(path).ok());
    let mut policies = own
        .flatten()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        .filter(|own| own["policies"].is_object())
        .unwrap_or_else(|| json!({ "policies": {} }));
    let certificates = &mut policies["policies"]["Certificates"];
    if !certificates.is_object() {
        *certificates = json!({});
    }
    match certificates["Install"].as_array_mut() {
        Some(install) => install.extend(roots.iter().map(|root| json!(root))),
        None => certificates["Install"] = json!(roots),
    }
    policies.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_were_there_stay() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policies.json");
        let read = |path: &Path| {
            serde_json::from_slice::<Value>(&with_authority(
                path,
                &["/run/.browsers/ca-0.pem".to_owned()],
            ))
            .unwrap()
        };
        let ours = "/run/.browsers/ca-0.pem";
        let alone = json!({ "policies": { "Certificates": { "Install": [ours] } } });
        assert_eq!(read(&file), alone);
        for broken in ["", "{", "[]", r#"{"policies": 1}"#] {
            fs::write(&file, broken).unwrap();
            assert_eq!(read(&file), alone, "{broken}");
        }
        fs::write(
            &file,
            r#"{"policies": {"DisableTelemetry": true, "Certificates": {"Install": ["own.pem"]}}}"#,
        )
        .unwrap();
        assert_eq!(
            read(&file),
            json!({ "policies": {
                "DisableTelemetry": true, "Certificates": { "Install": ["own.pem", ours] }
            } })
        );
    }
}
