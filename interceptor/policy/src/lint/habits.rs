//! Warnings about policies in files: what is valid, and what people should not get used to. A
//! program that sends a document over the API has its reasons, so it is not warned.

use crate::Policy;
use crate::credential::KeySource;
use crate::document::Document;
use crate::problem::Problem;

/// Every such warning about a policy that compiled.
pub(crate) fn habits(document: &Document, policy: &Policy) -> Vec<Problem> {
    let mut warnings: Vec<Problem> = openness(document, policy).into_iter().collect();
    for (name, written) in document.credentials.iter().chain(&document.credentials_v2) {
        let Some(id) = policy.credential_named(name) else { continue };
        let credential = policy.credential(id);
        let certificate = credential.client_cert.as_ref().filter(|one| !one.is_alone);
        let keys = [(&credential.key, &credential.key_pointer)];
        let keys = keys.into_iter().chain(certificate.map(|one| (&one.key, &one.key_pointer)));
        let is_written =
            |key: &KeySource| key.all().into_iter().any(|key| matches!(key, KeySource::Literal(_)));
        for (_, pointer) in keys.filter(|(key, _)| is_written(key)) {
            warnings.push(Problem::new(
                pointer.clone(),
                "the key stands in the policy itself: whoever reads the file has it; write \
                 {\"env\": NAME} or {\"file\": PATH}",
            ));
        }
        if written.endpoints.is_none() {
            warnings.push(Problem::new(
                written.pointer.clone(),
                "without `endpoints` this key permits any request to its hosts, also those that \
                 delete or make keys",
            ));
        }
    }
    if let Some(KeySource::Literal(_)) = policy.way_out().proxy_auth {
        warnings.push(Problem::new(
            "/upstream/proxy_auth",
            "the credential of the proxy stands in the policy itself: whoever reads the file has \
             it; write {\"env\": NAME} or {\"file\": PATH}",
        ));
    }
    warnings
}

/// The warning about a policy that limits no host.
fn openness(document: &Document, policy: &Policy) -> Option<Problem> {
    if policy.network.closed || policy.network.catch_all.is_some() {
        return None;
    }
    let pointer = match (&document.network, document.network_profile.first()) {
        // A list of deny rules has a warning of its own.
        (Some(network), _) if !network.deny.is_empty() => return None,
        (Some(_), _) => "/network",
        (None, Some(named)) => &named.pointer,
        (None, None) => "",
    };
    let message = if policy.credentials.is_empty() {
        "this policy permits everything that is public: any host, any request"
    } else {
        "nothing limits which hosts may be reached: any public host may; name them in \
         \"network\", or a profile"
    };
    Some(Problem::new(pointer, message))
}
