mod rotation;

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::super::{Household, SourceProblem};
use super::doubles::{Home, described, fetched};
use super::*;
use crate::fetch::doubles::{Heard, Says, Service};

const NOW: &str = "2026-01-02T03:04:05Z";

/// The key that a service gives, with its life in seconds.
fn ask(key: &Value, home: &Arc<dyn Household>) -> Result<(String, u64), SourceProblem> {
    let given = fetched(key, home).fetch(NOW.parse().unwrap())?;
    Ok((given.key.expose().to_owned(), given.life.as_secs()))
}

fn home() -> (tempfile::TempDir, Arc<dyn Household>) {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::at(directory.path());
    (directory, home)
}

/// The fields of a form.
fn form(heard: &Heard) -> Vec<(String, String)> {
    assert_eq!(heard.field("content-type"), Some("application/x-www-form-urlencoded"));
    let decoded =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pairs = heard.body.split('&').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn value(heard: &Heard, name: &str) -> Option<String> {
    form(heard).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn credentials(service: &Service) -> Value {
    json!({ "oauth2": { "token_url": service.url("/token").to_string(),
        "grant": "client_credentials", "client_id": "me@a b", "client_secret": "canary:s/3 %",
        "scope": "read write" } })
}

#[test]
fn a_client_presents_its_password_as_the_endpoint_wants_it() {
    let (_state, home) = home();
    let service = Service::start(|_| {
        let token = json!({ "access_token": "canary-token", "token_type": "bearer",
            "expires_in": 3599 });
        Says::json("200 OK", &token)
    });
    let mut source = credentials(&service);
    assert_eq!(ask(&source, &home), Ok(("canary-token".to_owned(), 3599)));
    source["oauth2"]["client_auth"] = "post".into();
    assert_eq!(ask(&source, &home), Ok(("canary-token".to_owned(), 3599)));
    let heard = service.heard();
    assert!(heard.iter().all(|heard| heard.line == "POST /token HTTP/1.1"));
    // RFC 6749 section 2.3.1: both are encoded first.
    let basic = STANDARD.encode("me%40a%20b:canary%3As%2F3%20%25");
    assert_eq!(heard[0].field("authorization"), Some(format!("Basic {basic}").as_str()));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let common = [pair("grant_type", "client_credentials"), pair("scope", "read write")];
    assert_eq!(form(&heard[0]), common);
    assert_eq!(heard[1].field("authorization"), None);
    let own = [pair("client_id", "me@a b"), pair("client_secret", "canary:s/3 %")];
    assert_eq!(form(&heard[1]), [common, own].concat());
}

/// Fails unless a token's signature and claims are as they must be; returns the claims.
fn verify(
    token: &str,
    (algorithm, name): (&'static dyn VerificationAlgorithm, &str),
    key: &[u8],
) -> Value {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let part = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let header: Value = serde_json::from_slice(&part(header)).unwrap();
    assert_eq!((&header["alg"], &header["typ"]), (&name.into(), &"JWT".into()));
    let key = UnparsedPublicKey::new(algorithm, key);
    key.verify(signed.as_bytes(), &part(signature)).expect("its signature is right");
    let mut claims: Value = serde_json::from_slice(&part(claims)).unwrap();
    claims["kid"] = header["kid"].clone();
    claims
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

#[test]
fn an_assertion_is_signed_for_its_endpoint_and_holds_for_minutes() {
    let (_state, home) = home();
    let rsa = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_pem = pem("PRIVATE KEY", rsa.as_der().unwrap().as_ref());
    let (p256, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, aws_lc_rs::rand::SystemRandom::new());
    let document = EcdsaKeyPair::generate_pkcs8(p256, &random).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(p256, document.as_ref()).unwrap();
    let ec_pem = pem("PRIVATE KEY", document.as_ref());
    let rsa_public = rsa.public_key().as_ref().to_vec();
    let ec_public = ec.public_key().as_ref().to_vec();
    let service = Service::start(move |heard| {
        let grant = value(heard, "grant_type").unwrap();
        assert_eq!(grant, "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let token = value(heard, "assertion").unwrap();
        let claims = match value(heard, "scope").as_deref() {
            Some("rsa") => verify(&token, (&RSA_PKCS1_2048_8192_SHA256, "RS256"), &rsa_public),
            _ => verify(&token, (&ECDSA_P256_SHA256_FIXED, "ES256"), &ec_public),
        };
        Says::json("200 OK", &json!({ "access_token": "canary-token", "claims": claims }))
    });
    let url = service.url("/token").to_string();
    let mut source = json!({ "oauth2": { "token_url": url, "grant": "jwt_bearer",
        "client_id": "me", "assertion_key": rsa_pem, "scope": "rsa" } });
    assert_eq!(ask(&source, &home), Ok(("canary-token".to_owned(), 300)));
    source["oauth2"]["assertion_key"] = ec_pem.into();
    source["oauth2"]["scope"] = "ec".into();
    source["oauth2"]["key_id"] = "second".into();
    source["oauth2"]["subject"] = "them".into();
    source["oauth2"]["audience"] = "https://elsewhere.test/".into();
    assert_eq!(ask(&source, &home), Ok(("canary-token".to_owned(), 300)));
    let claims = |heard: &Heard| -> Value {
        let token = value(heard, "assertion").unwrap();
        let claims = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
    };
    let heard = service.heard();
    let (first, second) = (claims(&heard[0]), claims(&heard[1]));
    let now = NOW.parse::<Timestamp>().unwrap().as_second();
    assert_eq!(
        (&first["iss"], &first["sub"], &first["aud"]),
        (&"me".into(), &"me".into(), &url.into())
    );
    assert_eq!((&first["iat"], &first["exp"]), (&(now - 30).into(), &(now + 300).into()));
    assert_eq!(
        (&second["sub"], &second["aud"]),
        (&"them".into(), &"https://elsewhere.test/".into())
    );
    assert!(first["jti"].is_string() && first["jti"] != second["jti"]);
    // What is no such key is told, and not shown.
    for bad in ["canary", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----"] {
        source["oauth2"]["assertion_key"] = bad.into();
        let told = ask(&source, &home).unwrap_err().to_string();
        let expected = "was not asked: its assertion_key is no private key, PEM, of RSA (2048 bits \
            or more) or P-256";
        assert_eq!(told, expected);
    }
}

#[test]
fn what_an_endpoint_says_instead_of_a_token_is_told_by_status_and_code() {
    let (_state, home) = home();
    let told = |says: fn() -> Says| {
        let service = Service::start(move |_| says());
        let problem = ask(&credentials(&service), &home).unwrap_err();
        let shown = format!("{problem} {problem:?}");
        assert!(!shown.contains("canary"), "{shown}");
        problem.to_string()
    };
    type Row = (fn() -> Says, &'static str);
    let table: [Row; 13] = [
        (
            || {
                Says::json(
                    "400 canary",
                    &json!({ "error": "invalid_grant", "error_description": "canary-token" }),
                )
            },
            "answered 400 (invalid_grant)",
        ),
        (
            || Says::json("401 canary", &json!({ "error": "canary", "access_token": "canary" })),
            "answered 401",
        ),
        (|| Says::answer("500 canary", "", "canary"), "answered 500"),
        (|| Says::answer("204 x", "", ""), "answered 204"),
        (
            || Says::answer("302 x", "location: http://127.0.0.1/canary\r\n", "canary"),
            "answered 302 with a redirect, which is not followed",
        ),
        (
            || Says::answer("200 OK", "content-encoding: gzip\r\n", "canary"),
            "answered in a content coding that it was not offered",
        ),
        (
            || Says::answer("200 OK", "", "<html>canary"),
            "gave an answer in which no token is recognised",
        ),
        (
            || Says::json("200 OK", &json!({ "access_token": { "canary": "canary" } })),
            "gave an answer in which no token is recognised",
        ),
        (
            || Says::json("200 OK", &json!({ "token": "canary" })),
            "gave an answer in which no token is recognised",
        ),
        (
            || Says::json("200 OK", &json!({ "access_token": "canary", "token_type": "mac" })),
            "gave a token that is no bearer token",
        ),
        (
            || Says::json("200 OK", &json!({ "access_token": "canary", "expires_in": -1 })),
            "gave a key that has expired",
        ),
        (
            || Says::json("200 OK", &json!({ "access_token": "canary canary" })),
            "gave what is no key: it has a space, a line end, a control character or a non-ASCII \
             character as character 7; a key is visible ASCII alone (a scheme such as `Bearer` \
             belongs to `inject`)",
        ),
        (
            || Says::AndFloods(b"HTTP/1.1 200 OK\r\n\r\n{".to_vec()),
            "answered with more than 64 KiB",
        ),
    ];
    for (says, expected) in table {
        assert_eq!(told(says), expected);
    }
    let service = Service::start(|_| Says::AndHangs(Vec::new()));
    let mut source = credentials(&service);
    source["oauth2"]["timeout_seconds"] = 1.into();
    assert_eq!(ask(&source, &home).unwrap_err().to_string(), "did not answer within 1 s");
}

#[test]
fn secrets_are_read_each_time_and_what_is_missing_is_named() {
    let (state, home) = home();
    let file = state.path().join("secret");
    let service = Service::start(|_| Says::json("200 OK", &json!({ "access_token": "sk-token" })));
    let mut source = credentials(&service);
    source["oauth2"]["client_auth"] = "post".into();
    source["oauth2"]["client_secret"] = json!({ "file": file });
    let problem = ask(&source, &home).unwrap_err().to_string();
    let start = format!(
        "was not asked: its client_secret in the file {}, cannot be read: No such",
        file.display()
    );
    assert!(problem.starts_with(&start), "{problem}");
    for secret in ["first", "second\n", "third\r\n"] {
        std::fs::write(&file, secret).unwrap();
        assert!(ask(&source, &home).is_ok());
    }
    let heard = service.heard();
    let sent: Vec<_> = heard.iter().map(|heard| value(heard, "client_secret").unwrap()).collect();
    assert_eq!(sent, ["first", "second", "third"]);
    std::fs::write(&file, "\n").unwrap();
    let empty = ask(&source, &home).unwrap_err().to_string();
    assert_eq!(empty, "was not asked: its client_secret is empty");
    source["oauth2"]["client_secret"] = json!({ "env": "UNSET" });
    let unset = ask(&source, &home).unwrap_err().to_string();
    assert_eq!(unset, "was not asked: its client_secret in the variable UNSET, is not set");
    source["oauth2"]["client_secret"] = json!({ "exec": ["/bin/false"] });
    let unrun = ask(&source, &home).unwrap_err().to_string();
    assert_eq!(unrun, "was not asked: its client_secret is not run: not in this test");
    assert_eq!(service.heard().len(), 3);
    let shown = format!("{:?} {:?}", fetched(&source, &home), described(&credentials(&service)));
    assert!(!shown.contains("canary"), "{shown}");
}
