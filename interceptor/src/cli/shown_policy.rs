//! The policy as the sandbox sees it: its own text, with every key replaced by its placeholder, so
//! that tools that walk a project find an ordinary file.

use interceptor_policy::{Document, KeySource};

use super::setup::LoadedPolicy;

/// The text of the policy's file without keys; `None` in doubt. It is the text that was read with
/// the policy: by now the file may be a different one, which its user may not read.
pub(super) fn masked(rules: &LoadedPolicy) -> Option<String> {
    let text = &rules.text;
    let document = Document::parse(text).ok()?.document;
    let known = |key: &KeySource| match key {
        KeySource::Literal(key) => rules.hold_key(key.expose().as_bytes()),
        _ => true,
    };
    let all = document.credentials.iter().chain(&document.credentials_v2);
    let auth = document.upstream.iter().filter_map(|upstream| upstream.proxy_auth.as_ref());
    let keys = all.flat_map(|(_, credential)| {
        let certificate = credential.client_cert.as_ref().map(|certificate| &certificate.key);
        credential.key.iter().chain(certificate)
    });
    if !keys.chain(auth).flat_map(KeySource::all).all(known) {
        return None;
    }
    let Some(redactor) = rules.keyring.redactor().ok()? else { return Some(text.to_string()) };
    let Some(masked) = redactor.text(text.as_bytes()) else { return Some(text.to_string()) };
    redactor.text(&masked).is_none().then(|| String::from_utf8(masked).ok()).flatten()
}
