//! Lints of endpoint rules.

use super::super::decision::CredentialId;
use super::super::endpoint::{EndpointRule, Endpoints, Outcome};
use super::super::path::CanonicalPath;
use super::super::pattern::{Segment, Tail};
use super::Linter;

/// Warns about the endpoint rules of every credential.
pub(super) fn lint(linter: &mut Linter<'_>) {
    let policy = linter.policy;
    for (index, endpoints) in policy.endpoints.iter().enumerate() {
        let id = CredentialId(index);
        if let Some(endpoints) = endpoints {
            for (index, rule) in endpoints.rules().iter().enumerate() {
                if linter.is_done() {
                    return;
                }
                shadowed(linter, endpoints, index, rule);
                wide(linter, rule);
            }
        }
        mints(linter, id, endpoints.as_ref());
    }
}

fn shadowed(linter: &mut Linter<'_>, endpoints: &Endpoints, index: usize, rule: &EndpointRule) {
    if let Some(shadow) = endpoints.shadow(index) {
        let text = format!(
            "this rule never decides: `{}` at {} already permits everything it does",
            shadow.rule.text, shadow.rule.pointer
        );
        linter.warn(&rule.rule.pointer, text);
    }
}

/// A prefix of one segment is usually meant as one resource, but APIs put much below such a path.
fn wide(linter: &mut Linter<'_>, rule: &EndpointRule) {
    let (Tail::Prefix, [Segment::Literal(segment)]) =
        (&rule.pattern.tail, rule.pattern.segments.as_slice())
    else {
        return;
    };
    let mut anchored = segment.to_string();
    anchored.pop();
    linter.warn(
        &rule.rule.pointer,
        format!(
            "this is a prefix and wider than it looks: `/{segment}` also covers everything below \
             it, such as `/{segment}/keys`; a pattern with a wildcard is anchored \
             (\"/{anchored}?\" is `/{segment}` alone)"
        ),
    );
}

/// Requests that issue further credentials (attack C6): the sandbox can read the answers.
fn mints(linter: &mut Linter<'_>, id: CredentialId, endpoints: Option<&Endpoints>) {
    let credential = linter.policy.credential(id);
    let Some(service) =
        credential.service.as_deref().and_then(|name| linter.catalogue.service(name))
    else {
        return;
    };
    for request in &service.mints {
        let Some((method, path)) = request.split_once(' ') else { continue };
        let Ok(path) = CanonicalPath::parse(path) else { continue };
        // Without endpoint rules everything is permitted, which is plain from the document.
        let Some(endpoints) = endpoints else { return };
        if let Outcome::Permitted(rule) = endpoints.judge(method, &path, None) {
            let text = format!(
                "this permits `{method} {path}`, with which {} issues further credentials that \
                 the sandbox could keep",
                service.title
            );
            let pointer = rule.rule.pointer.clone();
            linter.warn(&pointer, text);
            return;
        }
    }
}
