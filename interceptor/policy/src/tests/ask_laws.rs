//! Laws of leases and proposals, on random policies and requests.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Catalogue, Decision, Patch, Policy, Reason, Request, Subject, check};
use super::ask::{compiled, subject};

fn host() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("a.test"),
        Just("b.a.test"),
        Just("c.test"),
        Just("8.8.8.8"),
        Just("127.0.0.1"),
        Just("10.0.0.1"),
        Just("169.254.169.254"),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    (host(), prop_oneof![Just(""), Just(":443"), Just(":80")], any::<bool>()).prop_map(
        |(host, port, below)| match below && host.ends_with("test") {
            true => format!("*.{host}{port}"),
            false => format!("{host}{port}"),
        },
    )
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![Just("v1"), Just("files"), Just("12345"), Just("x")];
    (vec(segment, 0..4), any::<bool>()).prop_map(|(segments, below)| {
        let end = if below && !segments.is_empty() { "/" } else { "" };
        format!("/{}{end}", segments.join("/"))
    })
}

fn method() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("GET"), Just("POST"), Just("DELETE")]
}

fn endpoint() -> impl Strategy<Value = Value> {
    (vec(method(), 0..3), path(), any::<bool>())
        .prop_map(|(methods, path, ask)| json!({ "methods": methods, "paths": [path], "ask": ask }))
}

fn document() -> impl Strategy<Value = Value> {
    (vec(rule(), 0..4), vec(rule(), 0..3), any::<bool>(), vec(endpoint(), 0..4)).prop_map(
        |(allow, mut deny, closed, endpoints)| {
            if closed {
                deny.push("*".to_owned());
            }
            json!({
                "ask": {},
                "network": { "allow": allow, "deny": deny },
                "credentials_v2": {
                    "own": { "key": "k", "hosts": ["a.test"], "endpoints": endpoints },
                },
            })
        },
    )
}

fn asked() -> impl Strategy<Value = Subject> {
    (method(), host(), prop_oneof![Just(443), Just(80)], path())
        .prop_map(|(method, host, port, path)| subject(method, host, port, &path))
}

/// The decision, and whether its refusal is asked about.
fn judged(policy: &Policy, subject: &Subject) -> (Decision, bool) {
    let request = Request {
        scheme: subject.scheme(),
        host: &subject.host,
        port: subject.port,
        method: &subject.method,
        path: &subject.path,
        overrides: &[],
        aws: None,
        presented: &[],
    };
    let decision = policy.decide(&request);
    let asks = match &decision {
        Decision::Allow(_) => false,
        Decision::Deny(deny) => policy.asks(&request, deny),
    };
    (decision, asks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A lease permits exactly what the patched document permits, and the policy below it stays.
    #[test]
    fn an_overlay_permits_what_base_and_patch_permit(
        document in document(),
        wanted in asked(),
        others in vec(asked(), 8),
    ) {
        let policy = compiled(&document);
        for proposal in policy.proposals(&wanted) {
            let laid = policy.overlay(&proposal.patch).unwrap();
            let mut patched = document.clone();
            proposal.patch.apply(&mut patched).unwrap();
            let plain = compiled(&patched);
            for subject in others.iter().chain([&wanted]) {
                let (by_overlay, by_patch) = (subject.judge(&laid), subject.judge(&plain));
                prop_assert_eq!(by_overlay.is_allow(), by_patch.is_allow());
                // What the base permits, a proposal permits: it only adds.
                if subject.judge(&policy).is_allow() {
                    prop_assert!(by_overlay.is_allow());
                }
            }
            prop_assert!(wanted.judge(&laid).is_allow());
            let again = compiled(&document);
            prop_assert_eq!(wanted.judge(&policy), wanted.judge(&again));
        }
    }

    /// A proposal never permits what is not asked about: deny rules, special addresses, plain HTTP
    /// to a governed host.
    #[test]
    fn a_proposal_permits_nothing_that_is_never_asked(
        document in document(),
        wanted in asked(),
        others in vec(asked(), 12),
    ) {
        let policy = compiled(&document);
        let (decision, asks) = judged(&policy, &wanted);
        let proposals = policy.proposals(&wanted);
        if !proposals.is_empty() {
            prop_assert!(asks, "{decision:?}");
        }
        for proposal in proposals {
            let laid = policy.overlay(&proposal.patch).unwrap();
            for subject in others.iter().filter(|one| one.judge(&laid).is_allow()) {
                let (decision, asks) = judged(&policy, subject);
                prop_assert!(decision.is_allow() || asks, "{subject:?} {decision:?}");
                // No other host, port or method comes along.
                if !decision.is_allow() {
                    prop_assert_eq!(&subject.host, &wanted.host);
                    prop_assert_eq!(subject.port, wanted.port);
                    // As an endpoint, the root is the root alone.
                    let by_endpoint = matches!(
                        &decision, Decision::Deny(deny) if deny.reason == Reason::EndpointDenied
                    );
                    if wanted.path == "/" && by_endpoint {
                        prop_assert_eq!(&subject.path, "/");
                    }
                }
            }
        }
    }

    /// Whatever a patch is, laying it over a policy fails or makes a policy that judges; it never
    /// panics and never changes the credentials.
    #[test]
    fn any_patch_is_refused_or_fits(
        document in document(),
        operations in vec((0..6_usize, 0..9_usize, 0..9_usize, 0..5_usize), 0..6),
    ) {
        let pointers = [
            "", "/network", "/network/allow", "/network/allow/0", "/network/allow/-",
            "/credentials_v2/own/endpoints/0", "/credentials_v2/own/key", "/ask",
            "/network_profile",
        ];
        let values = [json!("x.test"), json!([]), json!({}), json!(null), json!({
            "methods": [], "paths": ["/"],
        })];
        let names = ["add", "remove", "replace", "move", "copy", "test"];
        let operations: Vec<Value> = operations
            .into_iter()
            .map(|(op, path, from, value)| json!({
                "op": names[op], "path": pointers[path], "from": pointers[from],
                "value": values[value],
            }))
            .collect();
        let policy = compiled(&document);
        let patch = Patch::from_value(operations.into()).unwrap();
        if let Ok(laid) = policy.overlay(&patch) {
            prop_assert_eq!(laid.credentials().len(), policy.credentials().len());
            prop_assert_eq!(laid.limits(), policy.limits());
            prop_assert!(check(&document.to_string(), &Catalogue::builtin()).policy.is_some());
        }
    }
}
