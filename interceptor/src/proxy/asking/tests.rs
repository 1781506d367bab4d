//! Leases and questions of one sandbox, without traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use interceptor_policy::{Catalogue, Host, Patch, Policy, Subject, Traffic, check};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::desk::MOST_WAITING;
use super::scope::ScopeError;
use super::{
    Answer, AskError, Asked, DecideError, HandedLease, LeaseError, LeaseScope, Seat, Terms,
    Verdict, Waiting,
};
use crate::audit::Audit;
use crate::credential::Keyring;
use crate::proxy::{Rules, Runtime, RuntimeOptions, Sandbox};
use crate::upstream::{Upstream, UpstreamOptions};

pub(super) fn policy(extra: &str) -> Policy {
    let text = format!(r#"{{"ask":{{"timeout_seconds":5}},"network":{{"deny":["*"]{extra}}}}}"#);
    check(&text, &Catalogue::builtin()).policy.unwrap()
}

pub(super) fn sandbox() -> Arc<Sandbox> {
    let upstream = Upstream::new(UpstreamOptions::default());
    let audit = Audit::discard().unwrap();
    let options = RuntimeOptions { upstream, upstream_ca: Vec::new(), roots: Vec::new(), audit };
    let runtime = Runtime::new(options).unwrap();
    let policy = policy("");
    let keyring = Keyring::load(&policy, None).unwrap();
    Sandbox::new(&runtime, "sb", policy, keyring).unwrap()
}

pub(super) fn subject(host: &str, path: &str) -> Subject {
    Subject {
        traffic: Traffic::Request,
        host: Host::parse(host).unwrap(),
        port: 443,
        method: "GET".to_owned(),
        path: path.to_owned(),
        is_https: true,
        credential: None,
        misused: false,
        address: None,
        aws: None,
    }
}

pub(super) fn asked(host: &str, path: &str) -> Asked {
    Asked {
        subject: subject(host, path),
        reason: "host_denied",
        message: "refused".to_owned(),
        timeout: Duration::from_secs(5),
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) question: Waiting,
    _seat: Option<Seat>,
}

pub(super) async fn ask(sandbox: &Arc<Sandbox>, asked: Asked) -> Result<Held, AskError> {
    let mut seat = None;
    let question = sandbox.ask(&sandbox.rules(), asked, &mut seat).await?;
    Ok(Held { question, _seat: seat })
}

pub(super) fn allow(host: &str) -> Patch {
    Patch::from_value(json!([
        { "op": "add", "path": "/network/allow", "value": [host] },
    ]))
    .unwrap()
}

/// Whether a lease permits it now.
pub(super) fn permitted(sandbox: &Arc<Sandbox>, host: &str, now: Timestamp) -> Option<String> {
    let wanted = subject(host, "/");
    let judge = |rules: &Arc<Rules>| wanted.judge(&rules.policy).is_allow().then_some(());
    let found = sandbox.asking.permitting(&sandbox.rules(), now, judge);
    found.map(|(lease, ())| lease.id.to_string())
}

pub(super) fn terms(seconds: Option<u64>, uses: Option<u64>) -> Terms {
    Terms { seconds, uses }
}

#[tokio::test]
async fn a_lease_ends_by_its_time_by_its_uses_and_when_it_is_revoked() {
    let sandbox = sandbox();
    let now = Timestamp::now();
    let later = |seconds| now + SignedDuration::from_secs(seconds);
    let hour = sandbox.lease(allow("a.test"), terms(Some(3600), None), "uid:0").unwrap();
    assert_eq!(permitted(&sandbox, "a.test", now), Some(hour.id.clone()));
    assert_eq!(permitted(&sandbox, "b.test", now), None);
    assert_eq!(permitted(&sandbox, "a.test", later(3599)), Some(hour.id.clone()));
    assert_eq!(permitted(&sandbox, "a.test", later(3601)), None);
    assert!(!sandbox.asking.has_leases(), "what is over is not kept");

    let hour = sandbox.lease(allow("a.test"), terms(Some(3600), None), "uid:0").unwrap();
    let twice = sandbox.lease(allow("b.test"), terms(None, Some(2)), "uid:0").unwrap();
    for left in [1, 0] {
        assert_eq!(permitted(&sandbox, "b.test", now), Some(twice.id.clone()));
        let leases = sandbox.asking.leases(now);
        let uses = leases.iter().find(|lease| lease.id == twice.id).map(|lease| lease.uses);
        assert_eq!(uses, (left > 0).then_some(Some(left)));
    }
    assert_eq!(permitted(&sandbox, "b.test", now), None);
    assert!(sandbox.asking.revoke(&hour.id) && !sandbox.asking.revoke(&hour.id));
    assert_eq!(permitted(&sandbox, "a.test", now), None);
    for wrong in [terms(None, None), terms(Some(0), None), terms(None, Some(0))] {
        assert!(sandbox.lease(allow("a.test"), wrong, "uid:0").is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_use_is_taken_only_where_no_other_lease_permits() {
    let sandbox = sandbox();
    let now = Timestamp::now();
    let once = sandbox.lease(allow("a.test"), terms(None, Some(1)), "uid:0").unwrap();
    let hour = sandbox.lease(allow("a.test"), terms(Some(60), None), "uid:0").unwrap();
    assert_eq!(permitted(&sandbox, "a.test", now), Some(hour.id.clone()));
    sandbox.asking.revoke(&hour.id);
    assert_eq!(permitted(&sandbox, "a.test", now), Some(once.id));
    assert_eq!(permitted(&sandbox, "a.test", now), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn uses_are_exact_under_a_thousand_requests_at_once() {
    let sandbox = sandbox();
    sandbox.lease(allow("a.test"), terms(Some(60), Some(137)), "uid:0").unwrap();
    let (now, passed) = (Timestamp::now(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (sandbox, passed) = (sandbox.clone(), passed.clone());
        tasks.spawn(async move {
            if permitted(&sandbox, "a.test", now).is_some() {
                passed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    assert_eq!(passed.load(Ordering::Relaxed), 137);
}

#[tokio::test]
async fn a_lease_is_laid_over_whatever_policy_is_in_force() {
    let sandbox = sandbox();
    let now = Timestamp::now();
    sandbox.lease(allow("a.test"), terms(Some(60), None), "uid:0").unwrap();
    let replace = |extra: &str| {
        let policy = policy(extra);
        let keyring = Keyring::load(&policy, None).unwrap();
        sandbox.replace(policy, keyring).unwrap();
    };
    replace(r#","passthrough":["pinned.test"]"#);
    assert!(permitted(&sandbox, "a.test", now).is_some());
    // A deny rule of the new policy comes before whatever a lease allows.
    sandbox
        .replace(
            check(r#"{"network":{"deny":["a.test","*"]}}"#, &Catalogue::builtin()).policy.unwrap(),
            Keyring::load(&policy(""), None).unwrap(),
        )
        .unwrap();
    assert!(permitted(&sandbox, "a.test", now).is_none());
    replace("");
    assert!(permitted(&sandbox, "a.test", now).is_some());
}

#[tokio::test]
async fn leases_survive_a_hand_over_and_end_at_their_time_whoever_is_up() {
    let (old, new) = (sandbox(), sandbox());
    let now = Timestamp::now();
    let hour = old.lease(allow("a.test"), terms(Some(3600), None), "uid:7").unwrap();
    let uses = old.lease(allow("b.test"), terms(None, Some(3)), "uid:7").unwrap();
    old.lease(allow("c.test"), terms(None, Some(1)), "uid:7").unwrap();
    assert!(permitted(&old, "b.test", now).is_some());
    assert!(permitted(&old, "c.test", now).is_some());
    let handed = serde_json::to_string(&old.asking.hand_over()).unwrap();
    // Uses are counted by one process, times by the clock.
    assert_eq!(permitted(&old, "b.test", now), None);
    assert!(permitted(&old, "a.test", now).is_some());
    let handed: Vec<HandedLease> = serde_json::from_str(&handed).unwrap();
    new.asking.restore(handed, &new.rules()).unwrap();
    assert_eq!(permitted(&new, "a.test", now), Some(hour.id));
    assert_eq!(permitted(&new, "c.test", now), None);
    for _ in 0..2 {
        assert_eq!(permitted(&new, "b.test", now), Some(uses.id.clone()));
    }
    assert_eq!(permitted(&new, "b.test", now), None);
    let down = now + SignedDuration::from_secs(3601);
    assert_eq!(permitted(&new, "a.test", down), None);
    assert_eq!(new.asking.leases(now).first().map(|lease| lease.by.clone()), None);
    old.asking.resume();
    assert!(permitted(&old, "b.test", now).is_some(), "the hand-over failed");
}

#[tokio::test]
async fn a_bound_of_leases_holds_for_what_is_handed_over_and_for_new_rules() {
    let now = Timestamp::now();
    let unbound = sandbox();
    for host in ["10.0.0.1", "a.test"] {
        unbound.lease(allow(host), terms(Some(60), None), "uid:7").unwrap();
    }
    let handed = unbound.asking.hand_over();
    let bounded = |scope| {
        let sandbox = sandbox();
        sandbox.asking.bound_leases(scope);
        sandbox.asking.bound_leases(LeaseScope::Any);
        let given = sandbox.lease(allow("10.0.0.1"), terms(Some(60), None), "uid:0");
        assert!(given.is_err(), "the first bound stays");
        sandbox.asking.restore(handed.clone(), &sandbox.rules()).unwrap();
        sandbox
    };
    for (scope, public) in [(LeaseScope::Public, true), (LeaseScope::Nothing, false)] {
        let sandbox = bounded(scope);
        for _ in 0..2 {
            assert_eq!(permitted(&sandbox, "10.0.0.1", now), None, "{scope:?}");
            assert_eq!(permitted(&sandbox, "a.test", now).is_some(), public, "{scope:?}");
            let keyring = Keyring::load(&policy(""), None).unwrap();
            sandbox.replace(policy(r#","allow":["b.test"]"#), keyring).unwrap();
        }
    }
    let settled = bounded(LeaseScope::Nothing);
    // What does not fit tells of the policy: it is not looked at.
    let misfit = Patch::from_value(json!([{ "op": "test", "path": "/a", "value": 1 }])).unwrap();
    let given = settled.lease(misfit, terms(Some(60), None), "uid:0");
    assert!(matches!(given, Err(LeaseError::Scope(ScopeError::Settled))), "{given:?}");
    let asked = ask(&settled, asked("a.test", "/")).await;
    assert_eq!(asked.unwrap_err(), AskError::Nothing);
}

#[tokio::test]
async fn identical_questions_are_one_and_its_answer_is_for_all_who_wait() {
    let sandbox = sandbox();
    let mut waits = Vec::new();
    for path in ["/v1/runs/12345", "/v1/runs/67890"] {
        waits.push(ask(&sandbox, asked("a.test", path)).await.unwrap());
    }
    let other = ask(&sandbox, asked("b.test", "/")).await.unwrap();
    let questions = sandbox.asking.questions();
    assert_eq!(questions.iter().map(|one| one.waiting).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(questions[0].path, "/v1/runs/12345");
    let id = questions[0].id.clone();
    let answer = Answer::Allow { patch: None, terms: Terms::default() };
    let lease = sandbox.decide(&id, &answer, "uid:0").unwrap().unwrap();
    assert_eq!(lease.uses, Some(0), "both uses are those of the requests that wait");
    for mut wait in waits {
        let told = wait.question.verdict.try_recv().unwrap();
        let Verdict::Approved(Some(share)) = told else { panic!("{told:?}") };
        assert!(share.granted(&sandbox.rules(), Timestamp::now()).is_some());
    }
    assert_eq!(permitted(&sandbox, "a.test", Timestamp::now()), None, "nobody else has one");
    // Decided twice, unknown, and withdrawn.
    let decide = |id: &str, answer: &Answer| sandbox.decide(id, answer, "uid:0");
    assert!(matches!(decide(&id, &answer), Err(DecideError::Decided)));
    assert!(matches!(decide(&id, &Answer::Deny), Err(DecideError::Decided)));
    assert!(matches!(decide("nope", &answer), Err(DecideError::Unknown)));
    drop(other);
    assert!(sandbox.asking.questions().is_empty());
    assert!(matches!(decide(&questions[1].id, &answer), Err(DecideError::Unknown)));
}

#[tokio::test]
async fn an_answer_cannot_be_wider_than_what_was_proposed() {
    let sandbox = sandbox();
    let _wait = ask(&sandbox, asked("a.test", "/")).await.unwrap();
    let question = &sandbox.asking.questions()[0];
    for wider in [allow("*"), allow("a.test"), Patch::from_value(json!([])).unwrap()] {
        let answer = Answer::Allow { patch: Some(wider), terms: terms(Some(60), None) };
        let refused = sandbox.decide(&question.id, &answer, "webhook");
        assert!(matches!(refused, Err(DecideError::OtherPatch)), "{refused:?}");
    }
    assert_eq!(sandbox.asking.questions().len(), 1, "it still waits");
    let own = Answer::Allow {
        patch: Some(question.proposals[0].patch.clone()),
        terms: terms(Some(60), None),
    };
    assert!(sandbox.decide(&question.id, &own, "webhook").unwrap().is_some());
}

#[tokio::test]
async fn a_flood_of_questions_is_bounded_and_the_first_ones_stay() {
    let sandbox = sandbox();
    let mut waits = Vec::new();
    for number in 0..MOST_WAITING {
        let host = format!("h{number}.test");
        waits.push(ask(&sandbox, asked(&host, "/")).await.unwrap());
    }
    let more = ask(&sandbox, asked("more.test", "/")).await;
    assert_eq!(more.unwrap_err(), AskError::Full);
    let same = ask(&sandbox, asked("h0.test", "/")).await;
    assert_eq!(same.unwrap_err(), AskError::Full);
    assert_eq!(sandbox.asking.questions()[0].host, "h0.test");
    drop(waits.pop());
    waits.push(ask(&sandbox, asked("more.test", "/")).await.unwrap());
    let long = format!("/{}", "a".repeat(5000));
    drop(waits);
    let long = ask(&sandbox, asked("a.test", &long)).await;
    assert_eq!(long.unwrap_err(), AskError::Nothing);
    assert!(sandbox.asking.questions().is_empty());
}
