//! Reads a real key from its source: the policy document, a variable of the interceptor's own
//! environment, or a file.
//!
//! A relative file name is searched for in `$CREDENTIALS_DIRECTORY` (systemd.exec(5),
//! `LoadCredential=`), then in the working directory. A file is reread when its stamp changes.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use interceptor_policy::{AwsKeys, KeySource, Policy};
use zeroize::Zeroizing;

use super::files::{Files, Stamp};
use super::key::{Content, KeyProblem, RealKey};
use super::location::KeyLocation;
use super::seed::Seed;
use super::sources::{SourceProblem, Sources};
use crate::files;

/// The variable with systemd's credentials directory.
pub(crate) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The names of what is read, as the document has them.
pub(super) const PROXY: &str = "upstream.proxy";
pub(super) const PROXY_AUTH: &str = "upstream.proxy_auth";
pub(super) const CA: &str = "upstream.ca";

/// Why there is no living source for what is not a credential's key.
const NOT_HERE: &str = "only the keys of credentials come from programs and services";

/// What keys are read with.
#[derive(Clone)]
pub(crate) struct Means<'a> {
    /// Looks up variables for keys and the credentials directory.
    pub(crate) environment: EnvironmentLookup<'a>,
    /// What placeholders are derived from.
    pub(crate) seed: Option<&'a Seed>,
    /// Runs programs and asks services; or why that is not done here.
    pub(crate) sources: Sources,
    /// Whether a program is run, or a service asked, that the previous policy did not have.
    pub(crate) runs_new: bool,
}

impl<'a> Means<'a> {
    /// With these variables and no living sources, for this reason.
    pub(crate) fn without_sources(
        environment: EnvironmentLookup<'a>,
        seed: Option<&'a Seed>,
        why: &'static str,
    ) -> Means<'a> {
        Means { environment, seed, sources: Sources::none(why), runs_new: false }
    }
}

/// A credential's key could not be loaded. Never shows any part of the key.
#[derive(Debug, thiserror::Error)]
#[error("{}, {place}, {problem}", subject(credential, problem))]
pub struct KeyError {
    /// The credential's name in the policy, or the field of `upstream`.
    pub credential: String,
    /// The source of its key.
    pub place: KeyLocation,
    /// What is wrong.
    #[source]
    pub problem: KeyProblem,
}

/// Whether a name is that of a field of `upstream`.
fn is_of_upstream(name: &str) -> bool {
    name == PROXY || name == PROXY_AUTH || name.starts_with(CA)
}

fn subject(credential: &str, problem: &KeyProblem) -> String {
    match problem {
        KeyProblem::OfCertificate(_) => {
            format!("the client certificate of credential `{credential}`")
        }
        KeyProblem::OfCertificateKey(_) => {
            format!("the private key of credential `{credential}`")
        }
        _ if is_of_upstream(credential) => format!("`{credential}`"),
        _ => format!("the key of credential `{credential}`"),
    }
}

impl KeyError {
    /// The JSON pointer to what could not be loaded.
    pub(crate) fn pointer(&self, policy: &Policy) -> String {
        match policy.credential_named(&self.credential) {
            Some(id) => {
                let credential = policy.credential(id);
                let certificate = credential.client_cert.as_ref();
                let pointer = match &self.problem {
                    KeyProblem::OfCertificate(_) => certificate.map(|one| &one.certificate_pointer),
                    KeyProblem::OfCertificateKey(_) => certificate.map(|one| &one.key_pointer),
                    _ => None,
                };
                pointer.unwrap_or(&credential.key_pointer).clone()
            }
            None if is_of_upstream(&self.credential) => {
                format!("/{}", self.credential.replace('.', "/"))
            }
            None => String::new(),
        }
    }
}

/// Looks up variables for keys and the credentials directory.
pub(crate) type EnvironmentLookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A key, and the files that it can be reread from.
pub(crate) struct Loaded {
    pub(super) key: RealKey,
    pub(super) files: Files,
}

/// Reads a secret of that kind.
pub(super) fn load(
    content: Content,
    source: &KeySource,
    environment: EnvironmentLookup<'_>,
) -> Result<Loaded, KeyProblem> {
    let once = |text: Vec<u8>| {
        let key = RealKey::parse_as(content, Zeroizing::new(text))?;
        Ok(Loaded { key, files: Files::default() })
    };
    match source {
        KeySource::Literal(key) => once(key.expose().as_bytes().to_vec()),
        KeySource::Env(name) => once(environment(name).ok_or(KeyProblem::Unset)?.into_vec()),
        KeySource::File(path) => read(content, &located(path, environment)),
        // A credential's alone; see `KeyringEntry::load`.
        KeySource::Exec(_) => Err(KeyProblem::Source(SourceProblem::Refused(NOT_HERE))),
        KeySource::Fetched(_) => Err(KeyProblem::Source(SourceProblem::Unasked(NOT_HERE))),
        KeySource::Aws(keys) => aws(keys, environment),
    }
}

/// Reads the keys of an AWS account.
fn aws(keys: &AwsKeys, environment: EnvironmentLookup<'_>) -> Result<Loaded, KeyProblem> {
    let (mut parts, mut files) = (Vec::new(), Files::default());
    for (number, (part, source)) in keys.parts().enumerate() {
        let loaded = load(Content::Key, source, environment).map_err(|problem| {
            let (place, problem) = (Box::new(KeyLocation::of(source)), Box::new(problem));
            KeyProblem::Part { part, place, problem }
        })?;
        files.extend(loaded.files.of_part(number));
        parts.push(loaded.key);
    }
    let key = RealKey::of_aws(&parts.iter().collect::<Vec<_>>())?;
    Ok(Loaded { key, files })
}

/// Reads a secret of that kind from a file. A shell's pipe can be read only once.
pub(crate) fn read(content: Content, path: &Path) -> Result<Loaded, KeyProblem> {
    let read = files::read(path, content.longest());
    let (text, metadata) = read.map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => content.too_long(),
        _ => KeyProblem::Unreadable(error),
    })?;
    let is_secret = content != Content::Certificate;
    if is_secret && metadata.is_file() && metadata.mode() & 0o007 != 0 {
        tracing::warn!(
            path = %path.display(),
            "every user of this machine can read or write the key file"
        );
    }
    let key = RealKey::parse_as(content, text)?;
    let stamp = metadata.is_file().then(|| Stamp::of(&metadata));
    let files = stamp.map(|stamp| Files::of(path.to_owned(), stamp)).unwrap_or_default();
    Ok(Loaded { key, files })
}

pub(super) fn located(path: &Path, environment: EnvironmentLookup<'_>) -> PathBuf {
    match environment(CREDENTIALS_DIRECTORY) {
        Some(directory) if path.is_relative() && !directory.is_empty() => {
            let inside = Path::new(&directory).join(path);
            if inside.exists() { inside } else { path.to_owned() }
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interceptor_policy::LiteralKey;

    fn environment(name: &str) -> Option<OsString> {
        (name == "BILLING_KEY").then(|| OsString::from("sk-from-environment\n"))
    }

    #[test]
    fn a_key_is_read_from_each_source() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        std::fs::write(&path, "sk-from-file\r\n").expect("written");
        for (source, key) in [
            (KeySource::Literal(LiteralKey::new("sk-literal".into())), "sk-literal"),
            (KeySource::Env("BILLING_KEY".into()), "sk-from-environment"),
            (KeySource::File(path), "sk-from-file"),
        ] {
            assert_eq!(
                load(Content::Key, &source, &environment)
                    .map(|loaded| loaded.key.expose().to_owned())
                    .ok()
                    .as_deref(),
                Some(key)
            );
        }
    }

    #[test]
    fn a_relative_file_is_looked_for_among_the_credentials_of_the_service() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("openai"), "sk-credential").expect("written");
        let environment = |name: &str| {
            (name == "CREDENTIALS_DIRECTORY").then(|| directory.path().as_os_str().to_owned())
        };
        let loaded = load(Content::Key, &KeySource::File("openai".into()), &environment)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.key.expose(), "sk-credential");
        let paths: Vec<_> = loaded.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(paths, [directory.path().join("openai")]);
        assert!(matches!(
            load(Content::Key, &KeySource::File("no-such-credential".into()), &environment),
            Err(KeyProblem::Unreadable(_))
        ));
    }

    #[test]
    fn c10_an_error_names_the_place_and_never_the_value() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        std::fs::write(&path, "secret with spaces").expect("written");
        for (source, text) in [
            (
                KeySource::Literal(LiteralKey::new("secret key".into())),
                "in the policy document, has a space",
            ),
            (
                KeySource::Literal(LiteralKey::new(String::new())),
                "in the policy document, is empty",
            ),
            (KeySource::Env("NO_SUCH_KEY".into()), "in the variable NO_SUCH_KEY, is not set"),
            (KeySource::File(path), "/key, has a space"),
            (
                KeySource::File("/no/such/file".into()),
                "in the file /no/such/file, cannot be read: No such file",
            ),
            (KeySource::File(directory.path().to_owned()), "cannot be read: Is a directory"),
        ] {
            let problem = load(Content::Key, &source, &environment).err().expect("refused");
            let error =
                KeyError { credential: "billing".into(), place: KeyLocation::of(&source), problem };
            let shown = format!("{error} {error:?}");
            assert!(
                shown.starts_with("the key of credential `billing`, in the ")
                    && shown.contains(text),
                "{shown}"
            );
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
