//! Signatures are what AWS publishes and what its own library makes; whatever is changed is found.

mod chunks;
mod laws;
mod refused;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::Deserialize;

use super::check::{Verified, check};
use super::claim::Claim;
use super::keys::{Context, Pair, SigningKey};
use super::payload::{CONTENT_SHA256, Digest};
use super::{Message, Problem};

const PLACEHOLDER: Pair<'static> =
    Pair { id: "AKIAPLACEHOLDER23456", secret: "proxy-managed-placeholder", token: None };
const REAL: Pair<'static> =
    Pair { id: "AKIAREALREALREAL2345", secret: "real/secret+key", token: None };
const HOST: &str = "bucket.s3.eu-central-1.amazonaws.com";

/// A request that can be changed.
#[derive(Clone, Debug)]
struct Sent {
    method: String,
    path: String,
    query: String,
    host: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Sent {
    fn message(&self) -> Message<'_> {
        Message {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            host: &self.host,
            headers: &self.headers,
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        self.headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }

    /// Verifies it at that time.
    fn check(&self, pair: &Pair<'_>, now: Timestamp) -> Result<Verified, Problem> {
        let claim = Claim::of(&self.headers, Some(&self.query))?;
        let claim = claim.ok_or(Problem::Unsupported("unsigned"))?;
        check(claim, &self.message(), pair, Some(&Digest::of(&self.body)), now)
    }

    /// Signs it again with that pair.
    fn signed(&self, verified: &Verified, pair: &Pair<'_>) -> Sent {
        let mut again = self.clone();
        let message = (&*self.method, &*self.path, &*self.query, &*self.host);
        let signed = super::sign(verified, message, &mut again.headers, pair).expect("signed");
        again.query = signed.query.to_string();
        again
    }
}

/// How `aws-sigv4` is to sign.
#[derive(Clone, Copy, Debug)]
struct How<'a> {
    service: &'a str,
    in_query: bool,
    at: Timestamp,
}

/// Signs a request with AWS's own library.
fn sign_by_aws(sent: &Sent, pair: &Pair<'_>, how: How<'_>) -> Sent {
    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
        SigningSettings, UriPathNormalizationMode, sign,
    };
    let is_s3 = how.service == "s3";
    let mut settings = SigningSettings::default();
    if is_s3 {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    if how.in_query {
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(std::time::Duration::from_secs(900));
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
    }
    let token = pair.token.map(str::to_owned);
    let credentials =
        aws_credential_types::Credentials::new(pair.id, pair.secret, token, None, "test");
    let identity = credentials.into();
    let parameters = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region("eu-central-1")
        .name(how.service)
        .time(std::time::SystemTime::from(how.at))
        .settings(settings)
        .build()
        .expect("parameters")
        .into();
    let body = match sent.headers.get(CONTENT_SHA256) {
        Some(word) => SignableBody::Precomputed(word.to_str().expect("text").to_owned()),
        None if how.in_query && is_s3 => SignableBody::UnsignedPayload,
        None => SignableBody::Bytes(&sent.body),
    };
    let mark = if sent.query.is_empty() { "" } else { "?" };
    let uri = format!("https://{}{}{mark}{}", sent.host, sent.path, sent.query);
    let headers = sent.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().expect("text")));
    let request =
        SignableRequest::new(&sent.method, uri.clone(), headers, body).expect("a request");
    let (instructions, _) = sign(request, &parameters).expect("signed").into_parts();
    let mut signed = sent.clone();
    let mut request = http::Request::builder().uri(&uri).body(()).expect("a request");
    instructions.apply_to_request_http1x(&mut request);
    for (name, value) in request.headers() {
        signed.headers.insert(name, value.clone());
    }
    signed.query = request.uri().query().unwrap_or_default().to_owned();
    signed
}

#[derive(Deserialize)]
struct Vectors {
    id: String,
    secret: String,
    cases: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    as_is: bool,
    method: String,
    body: String,
    header: (String, Vec<(String, String)>),
    query: (String, Vec<(String, String)>),
}

#[test]
fn the_signatures_that_aws_publishes_are_right() {
    let vectors: Vectors = serde_json::from_str(include_str!("vectors.json")).expect("vectors");
    let pair = Pair { id: &vectors.id, secret: &vectors.secret, token: None };
    let at: Timestamp = "2015-08-30T12:36:00Z".parse().expect("a time");
    assert_eq!(vectors.cases.len(), 35);
    for case in &vectors.cases {
        for (target, headers) in [&case.header, &case.query] {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let mut sent = Sent {
                method: case.method.clone(),
                path: path.to_owned(),
                query: query.to_owned(),
                host: "example.amazonaws.com".to_owned(),
                headers: HeaderMap::new(),
                body: case.body.clone().into_bytes(),
            };
            for (name, value) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                sent.headers.append(name, HeaderValue::from_str(value).expect("a value"));
            }
            let name = &case.name;
            if !case.as_is {
                sent.check(&pair, at).unwrap_or_else(|problem| panic!("{name}: {problem}"));
                continue;
            }
            // Only S3 takes a path as it is.
            let claim = Claim::of(&sent.headers, Some(query)).expect(name).expect(name);
            let context = Context::of(&claim);
            let digest = Digest::of(b"");
            let without = |parameter: &str| parameter.starts_with("X-Amz-Signature=");
            let canonical =
                sent.message().canonical(&claim.covered, digest.as_str(), true, without);
            let key = SigningKey::new(&pair, &context);
            assert!(key.request(&context, &canonical).is(&claim.signature), "{name}");
        }
    }
}
