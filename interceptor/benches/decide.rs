//! The cost of one decision, by number of rules: `cargo bench -p interceptor --bench decide`.

use divan::{Bencher, black_box};
use interceptor_policy::{Catalogue, Decision, Document, Host, Policy, Request, Scheme};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// A policy of `rules` network rules and `rules` endpoint rules of one credential: names, wildcards
/// and networks; prefixes, one-segment wildcards, globs within a segment and across segments.
fn policy(rules: usize) -> Policy {
    let list = |rule: &dyn Fn(usize) -> String| {
        (0..rules).map(|n| format!("\"{}\"", rule(n))).collect::<Vec<_>>().join(",")
    };
    let allow = list(&|n| match n % 4 {
        0 => format!("h{n}.allowed.test"),
        1 => format!("*.w{n}.allowed.test"),
        2 => format!("11.{}.{}.0/24", n / 256 % 256, n % 256),
        _ => format!("h{n}.allowed.test:8443"),
    });
    let deny = list(&|n| format!("h{n}.denied.test"));
    let paths = list(&|n| match n % 4 {
        0 => format!("/v1/r{n}/items"),
        1 => format!("/v1/*/r{n}"),
        2 => format!("/v1/f{n}-*/content"),
        _ => format!("/v1/**/d{n}"),
    });
    let text = format!(
        r#"{{"network":{{"allow":["api.test",{allow}],"deny":[{deny},"*"]}},
            "credentials_v2":{{"c":{{"key":"k","hosts":["api.test"],
            "endpoints":[{{"methods":["GET","POST"],"paths":[{paths}]}}]}}}}}}"#
    );
    let document = match Document::parse(&text) {
        Ok(parsed) => parsed.document,
        Err(problems) => panic!("{:?}", problems.first()),
    };
    match Policy::compile(&document, &Catalogue::builtin()) {
        Ok(policy) => policy,
        Err(problems) => panic!("{:?}", problems.first()),
    }
}

fn decide(bencher: Bencher<'_, '_>, rules: usize, host: &str, path: &str, allowed: bool) {
    let policy = policy(rules);
    let Ok(host) = Host::parse(host) else { panic!("no host") };
    let request = Request {
        scheme: Scheme::Https,
        host: &host,
        port: 443,
        method: "GET",
        path,
        overrides: &[],
        aws: None,
        presented: &[],
    };
    assert_eq!(
        matches!(policy.decide(&request), Decision::Allow(_)),
        allowed,
        "{:?}",
        policy.decide(&request)
    );
    bencher.bench(|| black_box(policy.decide(black_box(&request))));
}

/// The last prefix of a governed host.
#[divan::bench(args = SIZES)]
fn governed_prefix(bencher: Bencher<'_, '_>, rules: usize) {
    decide(bencher, rules, "api.test", &format!("/v1/r{}/items/42", (rules - 1) / 4 * 4), true);
}

/// A glob within a segment.
#[divan::bench(args = SIZES)]
fn governed_glob(bencher: Bencher<'_, '_>, rules: usize) {
    decide(
        bencher,
        rules,
        "api.test",
        &format!("/v1/f{}-abc/content", (rules - 3) / 4 * 4 + 2),
        true,
    );
}

/// A glob across segments.
#[divan::bench(args = SIZES)]
fn governed_deep(bencher: Bencher<'_, '_>, rules: usize) {
    decide(bencher, rules, "api.test", &format!("/v1/a/b/c/d{}", (rules - 4) / 4 * 4 + 3), true);
}

/// No rule matches the path: a refusal with its nearest miss.
#[divan::bench(args = SIZES)]
fn governed_denied(bencher: Bencher<'_, '_>, rules: usize) {
    decide(bencher, rules, "api.test", "/v2/nothing/here", false);
}

/// A name that no credential governs.
#[divan::bench(args = SIZES)]
fn free_name(bencher: Bencher<'_, '_>, rules: usize) {
    decide(
        bencher,
        rules,
        &format!("x.y.w{}.allowed.test", (rules - 2) / 4 * 4 + 1),
        "/any/path",
        true,
    );
}

/// An address in one of the networks.
#[divan::bench(args = SIZES)]
fn free_address(bencher: Bencher<'_, '_>, rules: usize) {
    decide(bencher, rules, "11.0.2.7", "/any/path", true);
}

/// A name that nothing permits: a refusal with its nearest miss.
#[divan::bench(args = SIZES)]
fn denied_name(bencher: Bencher<'_, '_>, rules: usize) {
    decide(bencher, rules, "elsewhere.test", "/any/path", false);
}

/// Reading and compiling the document.
#[divan::bench(args = SIZES, sample_count = 10)]
fn compile(bencher: Bencher<'_, '_>, rules: usize) {
    bencher.bench(|| policy(black_box(rules)));
}
