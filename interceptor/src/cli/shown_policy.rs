//! The policy as the sandbox sees it, so that tools that walk a project find an ordinary file: its
//! own text, with every key replaced by its placeholder.

use std::path::Path;

use interceptor_policy::{Document, KeySource};
use zeroize::Zeroizing;

use super::policy_file;
use super::setup::LoadedPolicy;

/// The text of a policy's file without keys; `None` in doubt.
pub(super) fn masked(file: &Path, rules: &LoadedPolicy) -> Option<String> {
    let text = Zeroizing::new(policy_file::read(file).ok()?);
    let document = Document::parse(&text).ok()?.document;
    // The file may have changed since the keys were loaded.
    let known = |key: &KeySource| match key {
        KeySource::Literal(key) => rules.hold_key(key.expose().as_bytes()),
        _ => true,
    };
    let all = document.credentials.iter().chain(&document.credentials_v2);
    if !all.filter_map(|(_, credential)| credential.key.as_ref()).all(known) {
        return None;
    }
    let Some(redactor) = rules.keyring.redactor().ok()? else { return Some(text.to_string()) };
    let Some(masked) = redactor.text(text.as_bytes()) else { return Some(text.to_string()) };
    redactor.text(&masked).is_none().then(|| String::from_utf8(masked).ok()).flatten()
}
