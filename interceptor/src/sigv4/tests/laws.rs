//! For any request: what AWS's library signs is verified, what is signed here is what that library
//! would sign, and a change is found.

use http::HeaderMap;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::Problem;
use super::super::keys::Pair;
use super::{HOST, How, PLACEHOLDER, REAL, Sent, sign_by_aws};

fn segment() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9_.~-]{1,6}",
        1 => "[!$&'()*+,;=:@]",
        1 => Just("%20".to_owned()),
        1 => Just("%2F".to_owned()),
        1 => Just("%C3%A9".to_owned()),
        1 => Just("%25".to_owned()),
        1 => Just("%2B".to_owned()),
    ];
    vec(piece, 1..4)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("no dots", |text| !matches!(text.as_str(), "." | ".."))
}

fn path() -> impl Strategy<Value = String> {
    (vec(segment(), 0..4), any::<bool>()).prop_map(|(segments, slash)| {
        let end = if slash && !segments.is_empty() { "/" } else { "" };
        format!("/{}{end}", segments.join("/"))
    })
}

fn query() -> impl Strategy<Value = String> {
    let text = "[a-zA-Z0-9_.~-]{1,6}|%20|%2F|%3D|%C3%A9|%2B";
    let parameter = (text, proptest::option::of(text));
    vec(parameter, 0..4).prop_map(|parameters| {
        let pairs = parameters.into_iter().map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => format!("{name}="),
        });
        pairs.collect::<Vec<_>>().join("&")
    })
}

prop_compose! {
    fn request()(
        method in prop_oneof![Just("GET"), Just("PUT"), Just("POST"), Just("DELETE")],
        path in path(),
        query in query(),
        meta in proptest::option::of("[!-~]( {0,2}[!-~]){0,8}"),
        kind in proptest::option::of("text/plain|application/x-amz-json-1\\.0"),
        body in vec(any::<u8>(), 0..40),
    ) -> Sent {
        let mut sent = Sent {
            method: method.to_owned(), path, query, host: HOST.to_owned(),
            headers: HeaderMap::new(), body,
        };
        if let Some(meta) = meta {
            sent.set("x-amz-meta-note", &meta);
        }
        if let Some(kind) = kind {
            sent.set("content-type", &kind);
        }
        sent
    }
}

/// For S3 the library takes the path as it is, since clients encode all that is not unreserved.
fn as_clients_write(sent: Sent, service: &str) -> Sent {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte);
    let encode = |byte: u8| match service == "s3" && !plain(byte) {
        true => format!("%{byte:02X}"),
        false => char::from(byte).to_string(),
    };
    let path = sent.path.bytes().map(encode).collect();
    Sent { path, ..sent }
}

fn at() -> Timestamp {
    "2026-02-03T04:05:06Z".parse().expect("a time")
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_the_library_of_aws_signs_is_verified_and_signed_again_as_it_would(
        sent in request(),
        service in prop_oneof![Just("s3"), Just("dynamodb")],
        in_query in any::<bool>(),
        has_token in any::<bool>(),
    ) {
        let how = How { service, in_query, at: at() };
        let sent = as_clients_write(sent, service);
        let signed = sign_by_aws(&sent, &PLACEHOLDER, how);
        let verified = signed.check(&PLACEHOLDER, at());
        prop_assert!(verified.is_ok(), "{:?}: {signed:?}", verified.err());
        let real = Pair { token: has_token.then_some("a/session+token=="), ..REAL };
        let again = signed.signed(&verified.unwrap(), &real);
        let expected = sign_by_aws(&sent, &real, how);
        prop_assert_eq!(
            again.headers.get("authorization"), expected.headers.get("authorization")
        );
        prop_assert_eq!(
            again.headers.get("x-amz-security-token"),
            expected.headers.get("x-amz-security-token")
        );
        let sorted = |query: &str| {
            let mut all: Vec<String> = query.split('&').map(str::to_owned).collect();
            all.sort();
            all
        };
        prop_assert_eq!(sorted(&again.query), sorted(&expected.query));
        for secret in [PLACEHOLDER.secret, PLACEHOLDER.id, REAL.secret] {
            let shown = format!("{again:?}");
            prop_assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn c20_whatever_is_changed_after_the_signature_is_found(
        sent in request(),
        service in prop_oneof![Just("s3"), Just("dynamodb")],
        what in 0..6_usize,
    ) {
        let sent = as_clients_write(sent, service);
        let signed = sign_by_aws(&sent, &PLACEHOLDER, How { service, in_query: false, at: at() });
        let mut changed = signed.clone();
        match what {
            0 => changed.method = "PATCH".to_owned(),
            1 => changed.path.push('x'),
            2 => changed.query = format!("{}&added=1", changed.query),
            3 => changed.host = "other.s3.eu-central-1.amazonaws.com".to_owned(),
            4 => changed.set("x-amz-date", "20260203T040507Z"),
            _ => {
                let authorization = changed.headers["authorization"].to_str().unwrap();
                let other = authorization.replace("eu-central-1", "us-east-1");
                changed.set("authorization", &other);
            }
        }
        prop_assert_eq!(changed.check(&PLACEHOLDER, at()).err(), Some(Problem::Mismatch));
    }
}
