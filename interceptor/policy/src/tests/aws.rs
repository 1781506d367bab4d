//! Credentials that sign requests to AWS, and rules about what a signature is for.

use serde_json::json;

use super::super::{
    AwsScope, Catalogue, CredentialId, Decision, Form, KeySource, Policy, Request, Scheme, check,
};
use super::{host, outcome, policy};

const KEYS: &str =
    r#"{ "aws": { "access_key_id": "AKIAEXAMPLE", "secret_access_key": { "env": "SECRET" } } }"#;

fn with_rules(rules: &serde_json::Value) -> Policy {
    let key: serde_json::Value = serde_json::from_str(KEYS).unwrap();
    policy(&json!({ "credentials_v2": { "aws": { "key": key, "endpoints": rules } } }).to_string())
}

fn decide(policy: &Policy, method: &str, path: &str, scope: Option<(&str, &str)>) -> Decision {
    let host = host("bucket.s3.eu-central-1.amazonaws.com");
    policy.decide(&Request {
        scheme: Scheme::Https,
        host: &host,
        port: 443,
        method,
        path,
        overrides: &[],
        presented: &[],
        aws: scope.map(|(service, region)| AwsScope { service, region }),
    })
}

/// The pointer and the text of every error.
fn errors(document: &str) -> Vec<(String, String)> {
    let errors = check(document, &Catalogue::builtin()).errors;
    errors.into_iter().map(|error| (error.pointer, error.message)).collect()
}

#[test]
fn the_keys_of_aws_have_a_source_each_or_one_program() {
    let policy = policy(&format!(r#"{{ "credentials": {{ "aws": {KEYS} }} }}"#));
    let aws = policy.credential(CredentialId(0));
    assert_eq!(aws.forms, [Form::SigV4]);
    assert_eq!(aws.env, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    assert_eq!(aws.placeholder.prefix, "AKIA");
    let KeySource::Aws(keys) = &aws.key else { panic!("{:?}", aws.key) };
    assert!(keys.session_token.is_none());
    assert!(!format!("{:?}", aws.key).contains("EXAMPLE"));
    assert_eq!(aws.key.all().len(), 3);

    let program = r#"{ "credentials_v2": { "mine": { "hosts": ["s3.example.test"],
        "env": ["ONE", "TWO"], "key": { "aws": { "exec": ["keys"], "ttl_seconds": 60 } } } } }"#;
    let policy = super::policy(program);
    let mine = policy.credential(CredentialId(0));
    assert!(matches!(mine.key, KeySource::Exec(_)), "{:?}", mine.key);
    assert!(mine.key.is_aws());
    assert_eq!(mine.keeps.headers, ["x-amz-copy-source"]);
}

#[test]
fn what_cannot_be_meant_with_keys_of_aws_is_an_error() {
    let own = |key: &str, more: &str| {
        format!(
            r#"{{ "credentials_v2": {{ "own": {{ "hosts": ["a.test"], "key": {key}{more} }} }} }}"#
        )
    };
    let service = |name: &str, key: &str| {
        format!(r#"{{ "credentials_v2": {{ "{name}": {{ "key": {key} }} }} }}"#)
    };
    let key = "/credentials_v2/own/key/aws";
    for (document, pointer, text) in [
        (own(r#"{"aws":{"access_key_id":"AKIA"}}"#, ""), key, "`secret_access_key`"),
        (own(r#"{"aws":{}}"#, ""), key, "or `exec`"),
        (own(r#"{"aws":{"exec":["a"],"access_key_id":"A"}}"#, ""), key, "not both"),
        (own(r#"{"aws":{"exec":["a"],"secret":"A"}}"#, ""), "/secret", "unknown"),
        (own(r#"{"aws":"AKIA"}"#, ""), key, "an object"),
        (own(r#"{"aws":{"access_key_id":"","secret_access_key":"s"}}"#, ""), "id", "is empty"),
        (own(KEYS, r#","env":"ONE""#), "/credentials_v2/own", "two variables"),
        (own(KEYS, r#","inject":{"header":"x"}"#), "/credentials_v2/own", "`inject`"),
        (service("aws", r#""secret""#), "/credentials_v2/aws/key", "needs a pair of keys"),
        (service("openai", KEYS), "/credentials_v2/openai/key", "takes no signatures"),
    ] {
        let seen = errors(&document);
        let is_found = seen.iter().any(|(at, said)| at.ends_with(pointer) && said.contains(text));
        assert!(is_found, "{document}: {seen:?}");
        assert!(!seen.iter().any(|(_, said)| said.contains("AKIA")), "{seen:?}");
    }
    let rule = |aws: &str| {
        own(KEYS, &format!(r#","endpoints":[{{"methods":[],"paths":["/"],"aws":{aws}}}]"#))
    };
    for (aws, text) in [
        ("{}", "`services`, `regions` or both"),
        (r#"{"services":[]}"#, "the list is empty"),
        (r#"{"services":["S3"]}"#, "lower-case"),
        (r#"{"regions":["*"]}"#, "lower-case"),
        (r#"{"region":["eu-central-1"]}"#, "unknown"),
        (r#"["s3"]"#, "an object"),
    ] {
        let seen = errors(&rule(aws));
        assert!(seen.iter().any(|(_, said)| said.contains(text)), "{aws}: {seen:?}");
    }
    let seen = errors(
        r#"{ "credentials_v2": { "own": { "hosts": ["a.test"], "key": "k", "endpoints": [
            { "methods": [], "paths": ["/"], "aws": { "services": ["s3"] } } ] } } }"#,
    );
    assert!(seen.iter().any(|(_, said)| said.contains("signs nothing")), "{seen:?}");
}

#[test]
fn c20_a_rule_matches_only_what_is_signed_for_its_services_and_regions() {
    let rules = json!([
        { "methods": ["GET"], "paths": ["/*"],
          "aws": { "services": ["s3"], "regions": ["eu-central-1", "eu-west-1"] } },
        { "methods": ["POST"], "paths": ["/"], "aws": { "services": ["dynamodb"] } },
        { "methods": ["HEAD"], "paths": ["/any"] },
    ]);
    let policy = with_rules(&rules);
    for (method, path, scope, expected) in [
        ("GET", "/key", Some(("s3", "eu-central-1")), "allow"),
        ("GET", "/key", Some(("s3", "eu-west-1")), "allow"),
        ("GET", "/key", Some(("s3", "us-east-1")), "endpoint_denied"),
        ("GET", "/key", Some(("s3-outposts", "eu-west-1")), "endpoint_denied"),
        ("GET", "/key", None, "endpoint_denied"),
        ("PUT", "/key", Some(("s3", "eu-west-1")), "endpoint_denied"),
        ("POST", "/", Some(("dynamodb", "us-east-1")), "allow"),
        ("POST", "/", Some(("sts", "us-east-1")), "endpoint_denied"),
        ("HEAD", "/any", Some(("anything", "us-east-1")), "allow"),
        ("HEAD", "/any", None, "allow"),
    ] {
        let decision = decide(&policy, method, path, scope);
        assert_eq!(outcome(&decision), expected, "{method} {path} {scope:?}: {decision:?}");
    }
}

#[test]
fn a_refusal_for_the_scope_names_the_list_that_lacks_it() {
    let rules = json!([
        { "methods": ["GET"], "paths": ["/a"],
          "aws": { "services": ["s3"], "regions": ["eu-west-1"] } }
    ]);
    let policy = with_rules(&rules);
    for (scope, text) in [
        (Some(("sqs", "eu-west-1")), "add \"sqs\" to /credentials_v2/aws/endpoints/0/aws/services"),
        (
            Some(("s3", "us-east-1")),
            "add \"us-east-1\" to /credentials_v2/aws/endpoints/0/aws/regions",
        ),
        (None, "sign the request for a service and a region that the rule names"),
    ] {
        let Decision::Deny(deny) = decide(&policy, "GET", "/a", scope) else { panic!("allowed") };
        assert!(deny.message.contains(text), "{}", deny.message);
        assert_eq!(deny.nearest.map(|near| near.failed), Some("aws"));
    }
}

#[test]
fn r7_with_keys_for_aws_no_metadata_of_the_host_is_reached() {
    let rules = r#""network": { "allow": ["169.254.0.0/16", "fd00::/8"] }"#;
    let with = policy(&format!(r#"{{ {rules}, "credentials": {{ "aws": {KEYS} }} }}"#));
    let without = policy(&format!("{{ {rules} }}"));
    for address in ["169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254"] {
        let parsed = host(address);
        assert!(!with.decide_host(&parsed, 80).is_allow(), "{address}");
        let address = address.parse().unwrap();
        assert!(with.decide_address(&host("a.test"), address, 80).is_err(), "{address}");
        assert!(without.decide_host(&parsed, 80).is_allow(), "{address}");
    }
    assert!(with.decide_host(&host("169.254.1.1"), 80).is_allow());
}
