//! The pieces whose instructions are counted, by name: `instructions PIECE` does one once, and
//! without a name their names are printed. Valgrind counts inside [`measured`] alone.

#[cfg(feature = "requests")]
mod request;

use std::hint::black_box;

use bytes::Bytes;
use interceptor_policy::redact::Redactor;
use interceptor_policy::redact::scan::Scrub;
use interceptor_policy::{Catalogue, Document, Host, Policy, Request, Scheme};

type Piece = (&'static str, fn());

const PIECES: [Piece; 13] = [
    ("redact_json_1_mib", || redact(&repeated(JSON))),
    ("redact_escaped_json_1_mib", || redact(&repeated(ESCAPED))),
    ("redact_random_1_mib", || redact(&random())),
    // The dearest texts that are known. Who chooses an answer may choose these.
    ("redact_percent_1_mib", || redact(&repeated("%41"))),
    ("redact_percent_twice_1_mib", || redact(&repeated("%2541"))),
    ("redact_references_1_mib", || redact(&repeated("&#65;"))),
    ("redact_hex_escapes_1_mib", || redact(&repeated(r"\x61"))),
    ("redact_hex_text_1_mib", || redact(&repeated("61 62 "))),
    ("redact_no_escapes_1_mib", || redact(&deep(b"&#", 500))),
    ("redact_digits_1_mib", || redact(&deep(b"4711", 8))),
    ("redact_mixed_escapes_1_mib", || redact(&mixed())),
    ("decide_allowed", || decide("/v1/r96/items/42")),
    ("decide_denied", || decide("/v2/nothing/here")),
];

#[cfg(feature = "requests")]
const REQUESTS: [Piece; 3] = [
    ("request_http1", || request::http1(0)),
    ("request_http1_beside_200_sandboxes", || request::http1(200)),
    ("request_http2", request::http2),
];
#[cfg(not(feature = "requests"))]
const REQUESTS: [Piece; 0] = [];

fn main() {
    let piece = std::env::args().nth(1);
    for (name, run) in PIECES.into_iter().chain(REQUESTS) {
        match &piece {
            None => println!("{name}"),
            Some(piece) if piece == name => run(),
            Some(_) => {}
        }
    }
}

/// What is counted.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

const SIZE: usize = 1 << 20;
const CHUNK: usize = 16 << 10;

const JSON: &str = concat!(
    r#"{"id":"chatcmpl-123","created":1712345678,"choices":[{"index":0,"#,
    r#""delta":{"content":"risk \"and\" task\nfor a caf\u00e9"},"finish_reason":null}]}"#,
);
const ESCAPED: &str = concat!(
    r#"{"url":"https:\/\/example.com\/wp-json\/wp\/v2\/posts\/1234?context=view","#,
    r#""title":"Caf\u00e9 \u2019s"}"#,
);

fn repeated(line: &str) -> Vec<u8> {
    line.bytes().cycle().take(SIZE).collect()
}

/// Stretches of so many times the same, with an escape three layers deep behind each.
fn deep(same: &[u8], times: usize) -> Vec<u8> {
    [&same.repeat(times)[..], b"%252541"].concat().into_iter().cycle().take(SIZE).collect()
}

/// Escapes of random kinds, of random characters of keys.
fn mixed() -> Vec<u8> {
    let escaped = |pair: &[u8; 2]| {
        let byte = b'0' + pair[0] % 75;
        match pair[1] % 6 {
            0 => format!("%{byte:02x}"),
            1 => format!("\\x{byte:02x}"),
            2 => format!("\\u00{byte:02x}"),
            3 => format!("&#{byte};"),
            4 => format!("%25{byte:02x}"),
            _ => char::from(byte).to_string(),
        }
    };
    let random = random();
    random.as_chunks().0.iter().map(escaped).flat_map(String::into_bytes).take(SIZE).collect()
}

fn random() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(SIZE).collect()
}

/// A whole answer, as large as many, in the pieces in which it comes.
fn redact(text: &[u8]) {
    let key = b"sk-proj-Zr8tQ1vB6nXw3LkY9dPfG2hJ5mC7sT4uA0eR";
    let placeholder = b"sk-proj-proxy-managed-8fK2mQ9xWcB5tLrY3nDpVh";
    let redactor = Redactor::of([(&key[..], &placeholder[..])].into_iter());
    let Ok(redactor) = redactor else { panic!("one key is not too many") };
    let chunks: Vec<Bytes> = text.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
    let mut scrub = Scrub::new(redactor.scanner().clone());
    measured(&mut || {
        let passed: usize = chunks.iter().map(|chunk| scrub.push(chunk.clone()).len()).sum();
        assert_eq!(passed + scrub.finish().len(), text.len());
    });
}

/// One decision on a host with a hundred endpoint rules.
fn decide(path: &str) {
    let paths: Vec<String> = (0..100)
        .map(|n| match n % 4 {
            0 => format!("\"/v1/r{n}/items\""),
            1 => format!("\"/v1/*/r{n}\""),
            2 => format!("\"/v1/f{n}-*/content\""),
            _ => format!("\"/v1/**/d{n}\""),
        })
        .collect();
    let text = format!(
        concat!(
            r#"{{"network":{{"allow":["api.test"],"deny":["*"]}},"credentials_v2":{{"c":{{"#,
            r#""key":"k","hosts":["api.test"],"endpoints":[{{"methods":["GET","POST"],"#,
            r#""paths":[{}]}}]}}}}}}"#,
        ),
        paths.join(",")
    );
    let Ok(parsed) = Document::parse(&text) else { panic!("it is a document") };
    let Ok(policy) = Policy::compile(&parsed.document, &Catalogue::builtin()) else {
        panic!("it is a policy")
    };
    let Ok(host) = Host::parse("api.test") else { panic!("it is a host") };
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
    measured(&mut || drop(black_box(policy.decide(black_box(&request)))));
}
