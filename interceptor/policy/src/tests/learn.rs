//! Learning a policy from records.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{
    Catalogue, Decision, Learnt, Observations, Policy, Recorded, check, learn as learn_from,
};

fn compiled(document: &Value) -> Policy {
    let report = check(&document.to_string(), &Catalogue::builtin());
    report.policy.unwrap_or_else(|| panic!("{document:#}: {:?}", report.errors))
}

fn observed(records: &[Recorded]) -> Observations {
    let mut observed = Observations::default();
    records.iter().for_each(|record| observed.add(record));
    observed
}

fn learn(records: &[Recorded], base: Option<&Value>) -> Learnt {
    learn_from(&observed(records), base, &Catalogue::builtin(), false).unwrap()
}

fn document(learnt: &Learnt) -> Value {
    serde_json::from_str(&learnt.to_json()).unwrap()
}

/// A request's record, permitted.
fn allowed(method: &str, host: &str, path: &str, credential: Option<&str>) -> Recorded {
    Recorded {
        ts: "2026-01-31T12:00:00.123456Z".into(),
        kind: "request".into(),
        decision: "allow".into(),
        credential: credential.map(str::to_owned),
        host: Some(host.into()),
        port: Some(443),
        protocol: Some("h2".into()),
        method: Some(method.into()),
        path: Some(path.into()),
        ..Recorded::default()
    }
}

fn refused(method: &str, host: &str, path: &str, credential: Option<&str>) -> Recorded {
    let reason = if credential.is_some() { "endpoint_denied" } else { "host_denied" };
    let filter = if credential.is_some() { "endpoint" } else { "network" };
    Recorded {
        decision: "deny".into(),
        reason: Some(reason.into()),
        filter: Some(filter.into()),
        ..allowed(method, host, path, credential)
    }
}

fn openai(method: &str, path: &str) -> Recorded {
    allowed(method, "api.openai.com", path, Some("openai"))
}

#[test]
fn a_policy_is_learnt_with_comments_and_without_a_base() {
    let mut records = vec![
        openai("POST", "/v1/chat/completions"),
        openai("GET", "/v1/files/file-9aXc0Qw3rT/content"),
        openai("GET", "/v1/files/file-1bZd2Rv5sU/content"),
        openai("GET", "/v1/models"),
        allowed("GET", "example.org", "/anything", None),
        allowed("GET", "example.org", "/else", None),
        refused("GET", "evil.test", "/", None),
        refused("DELETE", "api.openai.com", "/v1/models", Some("openai")),
    ];
    records[5].ts = "2026-02-01T09:30:00.000000Z".into();
    let learnt = learn(&records, None);
    assert_eq!(learnt.unkept, []);
    assert_eq!(
        learnt.to_jsonc(),
        r#"// Learnt from audit records (UTC): 6 times, 2026-01-31 12:00 to 2026-02-01 09:30.
{
  "network": {
    "allow": [
      // 4 times, 2026-01-31 12:00
      "api.openai.com",
      // 2 times, 2026-01-31 12:00 to 2026-02-01 09:30
      "example.org"
    ]
  },
  "credentials_v2": {
    "openai": {
      "key": { "env": "OPENAI_API_KEY" },
      "endpoints": [
        {
          "methods": ["GET"],
          "paths": [
            // 2 times, 2026-01-31 12:00
            "/v1/files/*/content",
            // once, 2026-01-31 12:00
            "/v1/models"
          ]
        },
        // once, 2026-01-31 12:00
        { "methods": ["POST"], "paths": ["/v1/chat/completions"] }
      ]
    }
  }
}
"#
    );
    assert!(!learnt.to_json().contains("//"), "{}", learnt.to_json());
}

#[test]
fn the_base_gives_everything_but_the_rules() {
    let base = json!({
        "image": "x", "limits": { "requests": 7 },
        "network": { "allow": ["*.test", "10.0.0.0/8", "unused.test"], "deny": ["9.9.9.0/24"] },
        "credentials": { "anthropic": { "env": "ANTHROPIC_API_KEY" } },
        "credentials_v2": { "own": {
            "key": { "file": "/k" }, "hosts": ["api.test"], "inject": { "header": "x-own" },
            "endpoints": [{ "methods": [], "paths": ["/"] }],
        } },
    });
    let mut private = allowed("GET", "inside.test", "/", None);
    private.ip = Some("10.1.2.3".parse().unwrap());
    let mut by_address = refused("GET", "far.test", "/", None);
    by_address.ip = Some("9.9.9.9".parse().unwrap());
    let records = [
        allowed("GET", "api.test", "/v1/x", Some("own")),
        private,
        by_address,
        allowed("GET", "far.test", "/", None),
    ];
    let learnt = learn(&records, Some(&base));
    assert_eq!(learnt.unkept, []);
    assert_eq!(
        document(&learnt),
        json!({
            "image": "x", "limits": { "requests": 7 },
            "network": {
                "allow": ["api.test", "far.test", "inside.test", "10.1.2.3"],
                "deny": ["9.9.9.0/24"],
            },
            "credentials_v2": { "own": {
                "key": { "file": "/k" }, "hosts": ["api.test"], "inject": { "header": "x-own" },
                "endpoints": [{ "methods": ["GET"], "paths": ["/v1/x"] }],
            } },
        })
    );
}

#[test]
fn a_template_covers_nothing_that_was_refused() {
    let paths = |records: &[Recorded]| {
        let learnt = learn(records, None);
        assert_eq!(learnt.unkept, [], "{}", learnt.to_json());
        let paths = document(&learnt)["credentials_v2"]["openai"]["endpoints"][0]["paths"].clone();
        serde_json::from_value::<Vec<String>>(paths).unwrap()
    };
    let deny = |path: &str| refused("GET", "api.openai.com", path, Some("openai"));
    let ids = [openai("GET", "/v1/files/1111"), openai("GET", "/v1/files/2222")];
    assert_eq!(paths(&ids), ["/v1/files/*"]);
    let mut records = ids.to_vec();
    records.push(deny("/v1/files/3333"));
    assert_eq!(paths(&records), ["/v1/files/1111", "/v1/files/2222"]);
    // What lies below a permitted path may be refused too.
    assert_eq!(paths(&[openai("GET", "/v1/models"), deny("/v1/models/x")]), ["/v1/model?"]);
    // The root as a prefix would be everything.
    assert_eq!(paths(&[openai("GET", "/"), deny("/v1")]), ["/**/"]);
}

#[test]
fn tunnels_and_ports_are_learnt_as_they_were_used() {
    let connection = |host: &str, port: u16, protocol: &str, rule: &str| Recorded {
        kind: "connection".into(),
        port: Some(port),
        protocol: Some(protocol.into()),
        rule: Some(rule.into()),
        method: None,
        path: None,
        ..allowed("", host, "", None)
    };
    let mut unused = connection("opened.test", 443, "tls", "opened.test");
    unused.reason = Some("no_request".into());
    let mut elsewhere = refused("GET", "one.test", "/", None);
    elsewhere.port = Some(9443);
    let records = [
        connection("pinned.test", 443, "tls", "*.test"),
        connection("db.test", 5432, "tcp", "tcp://db.test:5432"),
        connection("mail.test", 993, "tls", "tcp://mail.test:993"),
        allowed("GET", "one.test", "/", None),
        elsewhere,
        unused,
    ];
    let learnt = learn(&records, None);
    assert_eq!(learnt.unkept, []);
    let allow =
        ["tcp://db.test:5432", "tcp://mail.test:993", "one.test:443", "opened.test", "pinned.test"];
    assert_eq!(
        document(&learnt)["network"],
        json!({ "allow": allow, "passthrough": ["pinned.test"] })
    );
}

#[test]
fn nothing_permitted_is_learnt_as_a_policy_that_permits_nothing() {
    let learnt = learn(&[refused("GET", "evil.test", "/", None)], None);
    assert_eq!(document(&learnt), json!({ "network": { "allow": [], "deny": ["*"] } }));
    assert_eq!(learnt.unkept, []);
}

#[test]
fn what_was_refused_is_included_on_request() {
    let records = [
        openai("GET", "/v1/models"),
        refused("DELETE", "api.openai.com", "/v1/files/1", Some("openai")),
        refused("GET", "new.test", "/", None),
    ];
    let learnt = learn_from(&observed(&records), None, &Catalogue::builtin(), true).unwrap();
    let policy = compiled(&document(&learnt));
    assert!(records.iter().all(|record| record.judge(&policy).unwrap().is_allow()));
    assert_eq!(learnt.unkept, []);
}

#[test]
fn records_that_contradict_each_other_are_told() {
    let both = [openai("GET", "/v1/models"), {
        refused("GET", "api.openai.com", "/v1/models", Some("openai"))
    }];
    let learnt = learn(&both, None);
    let [(subject, permitted)] = learnt.unkept.as_slice() else { panic!("{:?}", learnt.unkept) };
    assert_eq!((subject.path.as_str(), *permitted), ("/v1/models", false));
}

#[test]
fn nothing_that_a_sandbox_chose_leaves_its_string() {
    let hostile = "/x%0A*/ \"],\u{202e}//";
    let records = [
        allowed("GET", "api.test", "/a%22b*c", Some("o\u{202e}\"wn")),
        allowed("GET", "plain.test", hostile, None),
    ];
    let learnt = learn(&records, None);
    let text = learnt.to_jsonc();
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    assert!(!text.contains("202e//"), "{text}");
    assert_eq!(learnt.unkept, []);
}

fn base() -> impl Strategy<Value = Value> {
    let hosts = ["api.test", "two.test", "free.test", "*.wide.test", "db.test:8443", "192.0.2.1"];
    let patterns = ["/", "/v1", "/v1/a", "/v1/*", "/v1/*/c", "/v1/**/c", "/v?/a", "/v1/a/"];
    let methods = prop_oneof![
        Just(json!(["GET"])),
        Just(json!(["POST"])),
        Just(json!(["GET", "POST"])),
        Just(json!([]))
    ];
    let rule = (methods, proptest::sample::subsequence(patterns.to_vec(), 1..4))
        .prop_map(|(methods, paths)| json!({ "methods": methods, "paths": paths }));
    let rules = || vec(rule.clone(), 0..4);
    (proptest::sample::subsequence(hosts.to_vec(), 0..6), rules(), rules(), any::<bool>()).prop_map(
        |(allow, one, two, tcp)| {
            let mut allow: Vec<&str> = allow;
            allow.extend(tcp.then_some("tcp://raw.test:5432"));
            json!({
                "network": { "allow": allow, "deny": ["*", "deny.wide.test"] },
                "credentials_v2": {
                    "one": { "key": "k1", "hosts": ["api.test"], "env": "ONE", "endpoints": one },
                    "two": { "key": "k2", "hosts": ["api.test", "two.test"], "env": "TWO",
                             "endpoints": two },
                },
            })
        },
    )
}

/// What a sandbox asks: a host, a port, a method, a path, and the credential whose placeholder it
/// presents.
type Asked = (&'static str, u16, &'static str, String, Option<&'static str>, bool);

fn asked() -> impl Strategy<Value = Asked> {
    let host = proptest::sample::select(vec![
        "api.test",
        "two.test",
        "free.test",
        "a.wide.test",
        "deny.wide.test",
        "db.test",
        "raw.test",
        "192.0.2.1",
    ]);
    let port = prop_oneof![6 => Just(443_u16), 1 => Just(80), 1 => Just(8443), 1 => Just(5432)];
    let method =
        prop_oneof![4 => Just("GET"), 3 => Just("POST"), 1 => Just("get"), 1 => Just("TRACE")];
    let piece = prop_oneof![
        4 => Just("v1"), 3 => Just("a"), 2 => Just("b"), 2 => Just("c"), 2 => Just("4711"),
        2 => Just("4712"), 1 => Just("4713"), 1 => Just(""), 1 => Just("x%2Fy"), 1 => Just("*"),
        1 => Just(".."),
    ];
    let path = vec(piece, 0..5).prop_map(|pieces| format!("/{}", pieces.join("/")));
    let credential = prop_oneof![3 => Just(None), 2 => Just(Some("one")), 2 => Just(Some("two"))];
    (host, port, method, path, credential, proptest::bool::weighted(0.1))
}

/// The record of what was asked, as the proxy makes it.
fn record(policy: &Policy, asked: &Asked) -> Recorded {
    let (host, port, method, path, credential, raw) = asked;
    let mut record = Recorded { port: Some(*port), ..allowed(method, host, path, None) };
    if *raw {
        record.kind = "connection".into();
        record.protocol = Some("tcp".into());
    }
    // What is presented counts whether or not it may be.
    let mut subject = record.subject().unwrap();
    subject.credential = credential.map(str::to_owned).filter(|_| !raw);
    subject.misused = subject.credential.is_some();
    match subject.judge(policy) {
        Decision::Allow(allow) => {
            let used = allow.credential.map(|id| policy.credential(id).name.clone());
            record.credential = used;
        }
        Decision::Deny(deny) => {
            record.decision = "deny".into();
            record.reason = Some(deny.reason.as_str().into());
            record.filter = Some(deny.filter.as_str().into());
            record.rule = deny.rule.map(|rule| rule.text.as_str().into());
            record.credential = deny.credential.map(|id| policy.credential(id).name.clone());
        }
    }
    record
}

/// The documents that lack one rule, path or method of `document`.
fn lesser(document: &Value) -> Vec<Value> {
    let mut lists: BTreeSet<String> = ["/network/allow".to_owned()].into();
    let credentials = document["credentials_v2"].as_object();
    for (name, credential) in credentials.into_iter().flatten() {
        let rules = credential["endpoints"].as_array().map_or(0, Vec::len);
        for rule in 0..rules {
            let pointer = format!("/credentials_v2/{name}/endpoints/{rule}");
            lists.extend([format!("{pointer}/paths"), format!("{pointer}/methods")]);
        }
        lists.insert(format!("/credentials_v2/{name}/endpoints"));
    }
    let mut lesser = Vec::new();
    for list in lists {
        let length = document.pointer(&list).and_then(Value::as_array).map_or(0, Vec::len);
        // The last path or method of a rule stands for the rule, and of hosts for all of them.
        let alone = length == 1 && !list.ends_with("endpoints");
        for at in (0..length).filter(|_| !alone) {
            let mut less = document.clone();
            less.pointer_mut(&list).unwrap().as_array_mut().unwrap().remove(at);
            lesser.push(less);
        }
    }
    lesser
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever was recorded: the learnt policy decides the same, needs each of its rules, and
    /// covers nothing that was refused.
    #[test]
    fn a_learnt_policy_changes_nothing_and_has_no_rule_too_many(
        base in base(),
        asked in vec(asked(), 0..40),
    ) {
        let policy = compiled(&base);
        let records: Vec<Recorded> = asked.iter().map(|asked| record(&policy, asked)).collect();
        let learnt = learn(&records, Some(&base));
        let document = document(&learnt);
        prop_assert_eq!(&learnt.unkept, &[], "{:#}\n{:#}", base, document);
        let policy = compiled(&document);
        let judged = |policy: &Policy| {
            let changed = |record: &&Recorded| {
                record.permitted().zip(record.judge(policy))
                    .is_some_and(|(permitted, decision)| permitted != decision.is_allow())
            };
            records.iter().find(changed).cloned()
        };
        prop_assert!(judged(&policy).is_none(), "{:?}\n{:#}", judged(&policy), document);
        for less in lesser(&document) {
            prop_assert!(judged(&compiled(&less)).is_some(), "{:#}\n{:#}", document, less);
        }
    }

    /// Without a base, and for records that contradict each other: what is not kept is told.
    #[test]
    fn what_a_learnt_policy_does_not_keep_is_told(
        one in base(),
        two in base(),
        first in vec(asked(), 0..20),
        second in vec(asked(), 0..20),
    ) {
        let (one, two) = (compiled(&one), compiled(&two));
        let records: Vec<Recorded> = first.iter().map(|asked| record(&one, asked))
            .chain(second.iter().map(|asked| record(&two, asked))).collect();
        let learnt = learn(&records, None);
        let policy = compiled(&document(&learnt));
        let mut changed = BTreeSet::new();
        for record in &records {
            if let (Some(permitted), Some(subject)) = (record.permitted(), record.subject())
                && subject.judge(&policy).is_allow() != permitted
            {
                changed.insert((subject, permitted));
            }
        }
        prop_assert_eq!(changed, learnt.unkept.iter().cloned().collect());
    }
}
