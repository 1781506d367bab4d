//! The cost of redaction for a response without keys, the usual case: throughput by coding and kind
//! of text. Also the cost of looking for placeholders in a request.
//!
//! `cargo bench -p interceptor --bench redact`

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use async_compression::Level;
use async_compression::codecs::brotli::params::EncoderParams;
use async_compression::codecs::{BrotliEncoder, EncodeV2, GzipEncoder, ZstdEncoder};
use async_compression::core::util::{PartialBuffer, WriteBuffer};
use base64::Engine as _;
use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use http::{HeaderName, HeaderValue, Response};
use http_body::{Body, Frame};
use interceptor::credential::Keyring;
use interceptor::http::redact::RedactResponse as _;
use interceptor_policy::redact::Redactor;
use interceptor_policy::{Catalogue, Document, Policy};

const SIZE: usize = 8 << 20;
const CHUNK: usize = 16 << 10;

fn main() {
    divan::main();
}

/// Keys as services issue them, each with a placeholder of the same length.
const KEYS: [(&str, &str); 8] = [
    (
        "sk-proj-Zr8tQ1vB6nXw3LkY9dPfG2hJ5mC7sT4uA0eR",
        "sk-proj-proxy-managed-8fK2mQ9xWcB5tLrY3nDpVh",
    ),
    ("9b1f04c7d2e85a6370be9f21c4d8a75e", "proxy-managed-q7w3e9r5t1y8u2i6o0"),
    ("ghp_2c8YtLq0XvRb7ZkN4mJw9FhD3sGaPe6UiT1o", "ghp_proxymanaged7Rb2Yc9Xd4Ze1Wf6Vg3Uh8Ti"),
    ("sk-ant-api03-Qv7_nB2-xLk9Rt4Wd6YhZ", "sk-ant-api03-proxy-managed-4f8a1c9e"),
    ("AIzaSyC1d7Fh3kLmQ9rTvXzB5nP8sWuY2aEgJ4i", "AIzaSyproxy-managed-3b7e9d1f5a8c2e6b4d0"),
    ("hf_kLmNoPqRsTuVwXyZaBcDeFgHiJkLmNoPqR", "hf_proxymanaged8c2e6b4d0f1a3b5c7d9e1f3a"),
    ("xoxb-17653672481-19874698323-pdFZKVeTuE8", "xoxb-proxy-managed-8c2e6b4d0f1a3b5c7d9e1"),
    ("A~b+C/d=E1f2G3h4I5j6K7l8M9n0O1p2==", "proxy-managed-0f1a3b5c7d9e1f3a5b7c"),
];

/// The first of them.
fn redactor(keys: usize) -> Redactor {
    let pairs = KEYS.iter().take(keys);
    Redactor::of(pairs.map(|(key, placeholder)| (key.as_bytes(), placeholder.as_bytes())))
        .expect("eight keys are not too many")
}

struct Chunks(Bytes);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.0.len().min(CHUNK);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.0.split_to(length)))))
    }
}

fn json() -> Vec<u8> {
    repeated(concat!(
        r#"{"id":"chatcmpl-123","object":"chat.completion.chunk","created":1712345678,"#,
        r#""choices":[{"index":0,"delta":{"content":"risk \"and\" task\nfor a caf\u00e9"},"#,
        r#""finish_reason":null}]}"#,
    ))
}

fn base64() -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(random());
    let lines = text.as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"].concat());
    lines.take(SIZE).collect()
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

fn words() -> Vec<u8> {
    // Text that compresses about fourfold, as text does.
    let mut words = Vec::new();
    for (index, byte) in random().into_iter().enumerate() {
        let common =
            ["the", "model", "answers", "because", "task", "\n", "a", "context", "of", "streamed"];
        words.extend_from_slice(common[usize::from(byte) % common.len()].as_bytes());
        words.extend_from_slice(if index % 7 == 0 { b"; " } else { b" " });
        if words.len() >= SIZE {
            break;
        }
    }
    words
}

fn encode(mut encoder: impl EncodeV2, text: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; text.len() + 65536];
    let mut output = WriteBuffer::new_initialized(&mut buffer);
    encoder.encode(&mut PartialBuffer::new(text), &mut output).expect("there is room");
    encoder.finish(&mut output).expect("there is room");
    output.written().to_vec()
}

fn run(bencher: Bencher<'_, '_>, keys: usize, text: &[u8], coding: &'static str, wire: Vec<u8>) {
    let (redactor, wire) = (redactor(keys), Bytes::from(wire));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| {
        let mut response = Response::new(Chunks(wire.clone()));
        response.headers_mut().insert("content-encoding", HeaderValue::from_static(coding));
        let mut body = redactor.response(response).expect("a known coding").into_body();
        let mut context = Context::from_waker(Waker::noop());
        let mut total = 0;
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
            total += frame.expect("whole").data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(total, text.len());
    });
}

/// A text by name, made on demand.
type Text = (&'static str, fn() -> Vec<u8>);

/// Texts without keys; some are full of escapes.
const TEXTS: [Text; 24] = [
    ("json", json),
    ("json_escapes", || {
        repeated(concat!(
            r#"{"text":"one line\nand a \"second\" one\tthen\nanother thing\n"#,
            r#"so it\u00e9 goes\n on"}"#,
        ))
    }),
    ("json_php", || {
        repeated(concat!(
            r#"{"url":"https:\/\/example.com\/wp-json\/wp\/v2\/posts\/1234?context=view","#,
            r#""title":"Caf\u00e9 \u2019s"}"#,
        ))
    }),
    ("json_cyrillic", || {
        repeated(concat!(
            r#"{"text":"\u041f\u0440\u0438\u0432\u0435\u0442, "#,
            r#"\u043a\u0430\u043a \u0434\u0435\u043b\u0430?"}"#,
        ))
    }),
    ("base64", base64),
    ("words", words),
    ("random", random),
    ("html", || {
        repeated(concat!(
            r#"<p class="a">Fish &amp; chips&nbsp;&mdash; it&#39;s &quot;good&quot; "#,
            r#"<a href="/s?q=a&amp;p=2">next</a></p>"#,
        ))
    }),
    ("form", || {
        repeated(
            "user%5Bname%5D=Jane+Doe&address=12+Main+Street%2C+caf%C3%A9&note=all+is+well%0D%0A&",
        )
    }),
    ("url", || {
        repeated(
            "https://example.com/a%20path/and%2Fmore?\
             next=https%3A%2F%2Fother.example%2Fa%3Fb%3Dc&x=1\n",
        )
    }),
    ("source", || repeated(include_str!("redact.rs"))),
    ("json_in_json", || {
        repeated(concat!(
            r#"{"arguments":"{\"path\":\"src\/main.rs\","#,
            r#"\"text\":\"fn main() {\\n    run();\\n}\"}"}"#,
        ))
    }),
    ("json_html", || {
        repeated(
            r#"{"html":"\u003cp class=\"a\"\u003eFish \u0026amp; chips\u003c/p\u003e and more"}"#,
        )
    }),
    ("html_numeric", || {
        repeated(
            "<p>&#1055;&#1088;&#1080;&#1074;&#1077;&#1090;, &#x43a;&#x430;&#x43a; it&#8217;s</p>",
        )
    }),
    ("form_json", || {
        repeated("a=%7B%22name%22%3A%22Jane%22%2C%22n%22%3A12%2C%22list%22%3A%5B1%2C2%5D%7D&")
    }),
    ("url_cyrillic", || {
        repeated("https://ru.wikipedia.org/wiki/%D0%97%D0%B0%D0%B3%D0%BB%D0%B0%D0%B2%D0%BD\n")
    }),
    ("hex_dump", || {
        let lines = random();
        let lines = lines.as_chunks::<16>().0.iter();
        let line = |bytes: &[u8; 16]| {
            bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>()
                + "|................|\n"
        };
        lines.map(line).flat_map(String::into_bytes).take(SIZE).collect()
    }),
    ("digests", || {
        let digits = |byte: u8| format!("{byte:02x}").into_bytes();
        let lines = random();
        let lines = lines.as_chunks::<32>().0.iter();
        let line = |bytes: &[u8; 32]| [bytes.map(digits).concat(), b"\n".to_vec()].concat();
        lines.flat_map(line).take(SIZE).collect()
    }),
    // The dearest that are known. Who chooses an answer may choose these.
    ("percent", || repeated("%41")),
    ("percent_twice", || repeated("%2541")),
    ("references", || repeated("&#65;")),
    ("hex_escapes", || repeated(r"\x61")),
    ("hex_text", || repeated("61 62 ")),
    ("numbers", || repeated("1712345678,20.53,2026-11-29 12:34:56,73,0x41,-17.25\n")),
];

fn repeated(line: &str) -> Vec<u8> {
    line.bytes().cycle().take(SIZE).collect()
}

#[divan::bench(args = TEXTS.map(|(name, _)| name), consts = [1, 8])]
fn identity<const KEYS: usize>(bencher: Bencher<'_, '_>, name: &str) {
    let text =
        TEXTS.iter().find(|(known, _)| *known == name).map(|(_, text)| text()).expect("a text");
    run(bencher, KEYS, &text, "identity", text.clone());
}

#[divan::bench]
fn gzip(bencher: Bencher<'_, '_>) {
    run(bencher, 2, &words(), "gzip", encode(GzipEncoder::new(Level::Default.into()), &words()));
}

#[divan::bench]
fn brotli(bencher: Bencher<'_, '_>) {
    let encoder = BrotliEncoder::new(EncoderParams::default().quality(Level::Precise(5)));
    run(bencher, 2, &words(), "br", encode(encoder, &words()));
}

#[divan::bench]
fn zstd(bencher: Bencher<'_, '_>) {
    run(bencher, 2, &words(), "zstd", encode(ZstdEncoder::new(3), &words()));
}

/// The cost of encoding again, for comparison.
#[divan::bench]
fn encoding_gzip_again(bencher: Bencher<'_, '_>) {
    let text = words();
    bencher
        .counter(BytesCount::new(text.len()))
        .bench_local(|| encode(GzipEncoder::new(Level::Default.into()), &text));
}

/// An ordinary request of an SDK, with or without a placeholder.
#[divan::bench(args = [false, true])]
fn presented(bencher: Bencher<'_, '_>, placeholder: bool) {
    let document = r#"{ "credentials": {
        "openai": "sk-real-one", "anthropic": "sk-real-two", "github": "ghp_real3" } }"#;
    let parsed = Document::parse(document).expect("a document");
    let policy = Policy::compile(&parsed.document, &Catalogue::builtin()).expect("a policy");
    let keyring = Keyring::load(&policy, None).expect("keys");
    let key = if placeholder { keyring.environment()[0].1.clone() } else { "none".to_owned() };
    let headers: http::HeaderMap = [
        ("host", "api.openai.com"),
        ("user-agent", "OpenAI/Python 1.99.1"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("content-type", "application/json"),
        ("content-length", "1234"),
        ("x-stainless-lang", "python"),
        ("x-stainless-package-version", "1.99.1"),
        ("x-stainless-runtime-version", "3.12.4"),
        ("x-stainless-retry-count", "0"),
        ("authorization", &format!("Bearer {key}")),
    ]
    .into_iter()
    .map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    })
    .collect();
    bencher.bench_local(|| {
        let presented = keyring.presented(&headers, None);
        assert_eq!(presented.credentials.is_empty(), !placeholder);
        presented
    });
}

/// Copying the same bytes once, for comparison.
#[divan::bench]
fn copying(bencher: Bencher<'_, '_>) {
    let text = words();
    bencher.counter(BytesCount::new(text.len())).bench_local(|| text.clone());
}
