//! Redaction as a client sees it: whole responses in, whole responses out.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_compression::Level;
use async_compression::codecs::brotli::params::EncoderParams;
use async_compression::codecs::{
    BrotliEncoder, DeflateEncoder, EncodeV2, GzipEncoder, ZlibEncoder, ZstdEncoder,
};
use async_compression::core::util::{PartialBuffer, WriteBuffer};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;

mod parts;
mod renewed;
mod traces;

const KEY: &str = "sk-real+key/0123456789abcdef";
const PLACEHOLDER: &str = "sk-proxy-managed-5fR2kQ8mXw";
/// A key as long as its placeholder, without characters that encoders change.
const EVEN: (&str, &str) = ("billing0key1of2even3length", "proxy-managed-0f3a9c7be21d");

fn redactor_of(keys: &[(&str, &str)]) -> Redactor {
    Redactor::of(keys.iter().map(|(key, ph)| (key.as_bytes(), ph.as_bytes()))).unwrap()
}

fn redactor() -> Redactor {
    redactor_of(&[(KEY, PLACEHOLDER)])
}

fn even() -> Redactor {
    redactor_of(&[EVEN])
}

fn encode(mut encoder: impl EncodeV2, text: &[u8], flush_at: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in flush_at.iter().copied().chain([text.len()]) {
        let mut buffer = vec![0; (to - from) * 2 + 4096];
        let mut input = PartialBuffer::new(&text[from..to]);
        let mut output = WriteBuffer::new_initialized(&mut buffer);
        if to > from {
            encoder.encode(&mut input, &mut output).unwrap();
        }
        assert!(input.unwritten().is_empty());
        let done =
            if to == text.len() { encoder.finish(&mut output) } else { encoder.flush(&mut output) };
        assert!(done.unwrap());
        pieces.push(output.written().to_vec());
        from = to;
    }
    pieces
}

fn encoded(coding: &str, text: &[u8], flush_at: &[usize]) -> Vec<Vec<u8>> {
    match coding {
        "gzip" => encode(GzipEncoder::new(Level::Fastest.into()), text, flush_at),
        "deflate" => encode(ZlibEncoder::new(Level::Fastest.into()), text, flush_at),
        "raw deflate" => encode(DeflateEncoder::new(Level::Fastest.into()), text, flush_at),
        "br" => encode(
            BrotliEncoder::new(EncoderParams::default().quality(Level::Precise(2))),
            text,
            flush_at,
        ),
        "zstd" => encode(ZstdEncoder::new(3), text, flush_at),
        _ => vec![text.to_vec()],
    }
}

/// A body whose frames are already there or arrive later.
struct Feed(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Body for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

fn fed(coding: &str) -> (mpsc::UnboundedSender<Frame<Bytes>>, Response<Feed>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut response = Response::new(Feed(receiver));
    if coding != "identity" {
        let coding = coding.trim_start_matches("raw ");
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_str(coding).unwrap());
    }
    (sender, response)
}

fn data(bytes: &[u8]) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(bytes))
}

fn response(coding: &str, pieces: Vec<Vec<u8>>) -> Response<Feed> {
    let (sender, response) = fed(coding);
    pieces.iter().for_each(|piece| sender.send(data(piece)).unwrap());
    response
}

async fn read<B>(response: Response<B>) -> Vec<u8>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

/// What the client has received once nothing more comes without the origin.
async fn at_once<B: Body<Data = Bytes, Error = BodyError> + Unpin>(body: &mut B) -> Vec<u8> {
    let mut got = Vec::new();
    while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_millis(20), body.frame()).await
    {
        got.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    got
}

fn cut(text: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = at.iter().map(|at| at % (text.len() + 1)).collect();
    at.sort_unstable();
    let ends = at.iter().copied().chain([text.len()]);
    ends.scan(0, |from, to| Some(text[std::mem::replace(from, to)..to].to_vec())).collect()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

const CODINGS: [&str; 6] = ["identity", "gzip", "deflate", "raw deflate", "br", "zstd"];

#[tokio::test]
async fn c3_a_key_in_a_body_becomes_the_placeholder_in_every_coding() {
    let text = format!("{{\"authorization\":\"Bearer {KEY}\",\"again\":\"{KEY}\"}}").repeat(500);
    for coding in CODINGS {
        let pieces = encoded(coding, text.as_bytes(), &[3, 30_000]);
        let mut response = response(coding, pieces);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("1"));
        let response = redactor().response(response).unwrap();
        assert!(response.headers().get(CONTENT_ENCODING).is_none(), "{coding}");
        assert!(response.headers().get(CONTENT_LENGTH).is_none(), "{coding}");
        let got = String::from_utf8(read(response).await).unwrap();
        assert!(got == text.replace(KEY, PLACEHOLDER), "{coding}");
    }
}

#[tokio::test]
async fn c3_a_key_cut_at_each_byte_is_found() {
    let text = format!("before {KEY} behind");
    for at in 0..=text.len() {
        let response = response("identity", cut(text.as_bytes(), &[at]));
        let got = read(redactor().response(response).unwrap()).await;
        assert_eq!(
            String::from_utf8(got).unwrap(),
            format!("before {PLACEHOLDER} behind"),
            "cut at {at}"
        );
    }
    let every: Vec<usize> = (0..text.len()).collect();
    let response = response("identity", cut(text.as_bytes(), &every));
    let got = read(redactor().response(response).unwrap()).await;
    assert_eq!(String::from_utf8(got).unwrap(), format!("before {PLACEHOLDER} behind"));
}

#[tokio::test]
async fn c3_headers_and_trailers_hold_no_key() {
    let (sender, mut response) = fed("identity");
    let headers = response.headers_mut();
    for (name, value) in [
        (
            "location",
            format!("https://h.example/cb?key={}", KEY.replace('+', "%2B").replace('/', "%2F")),
        ),
        ("www-authenticate", format!("Bearer error=\"{KEY} is not valid\"")),
        ("x-basic", "dXNlcjpzay1yZWFsK2tleS8wMTIzNDU2Nzg5YWJjZGVm".into()),
        ("x-harmless", "sk-".into()),
    ] {
        headers.append(name, HeaderValue::from_str(&value).unwrap());
    }
    sender.send(data(b"ok")).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-message", HeaderValue::from_str(&format!("bad key {KEY}")).unwrap());
    trailers.insert("grpc-status", HeaderValue::from_static("16"));
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    let response = redactor().response(response).unwrap();
    let seen = format!("{:?}", response.headers());
    assert!(seen.contains(PLACEHOLDER) && seen.contains("\"sk-\""), "{seen}");
    assert_eq!(response.headers()["location"], format!("https://h.example/cb?key={PLACEHOLDER}"));
    assert!(
        !seen.contains("0123456789abcdef") && !seen.contains("yZWFsK2tleS8wMTIzNDU2Nzg5YWJjZGV"),
        "{seen}"
    );
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap().clone();
    assert_eq!(trailers["grpc-message"], format!("bad key {PLACEHOLDER}"));
    assert_eq!(trailers["grpc-status"], "16");
    assert_eq!(body.to_bytes(), "ok");
}

#[tokio::test]
async fn c3_a_header_named_like_a_key_and_a_reason_phrase_are_dropped() {
    let mut response = Response::new(Full::new(Bytes::from_static(b"x")));
    response.headers_mut().insert("x-billing0key1of2even3length", HeaderValue::from_static("1"));
    response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(b"bad key"));
    let response = even().response(response).unwrap();
    assert!(response.headers().is_empty());
    assert!(response.extensions().get::<hyper::ext::ReasonPhrase>().is_none());
}

#[tokio::test]
async fn an_event_is_passed_on_at_once() {
    for coding in CODINGS {
        // The last event ends like the start of the key, and like the start of its base64.
        let events =
            ["data: one\n\n", "data: two sk-\n\n", "data: two and c2st\n\n", "{\"k\":\"sk-\"}"];
        let whole = events.concat();
        let flushes: Vec<usize> = events
            .iter()
            .scan(0, |at, event| {
                *at += event.len();
                Some(*at)
            })
            .collect();
        let pieces = encoded(
            coding,
            whole.as_bytes(),
            if coding == "identity" { &[] } else { &flushes[..3] },
        );
        let (sender, response) = fed(coding);
        let mut body = redactor().response(response).unwrap().into_body();
        for (index, event) in events.iter().enumerate() {
            let piece = if coding == "identity" { event.as_bytes() } else { &pieces[index] };
            sender.send(data(piece)).unwrap();
            assert_eq!(String::from_utf8(at_once(&mut body).await).unwrap(), *event, "{coding}");
        }
        drop(sender);
        assert!(body.frame().await.is_none(), "{coding}");
    }
}

#[tokio::test]
async fn what_may_belong_to_a_key_waits_and_nothing_else_does() {
    for (word, more) in [("sk-real+ke", "n, none"), ("anything", " at all"), ("%41%4", "z.")] {
        let (sender, response) = fed("identity");
        let mut body = redactor().response(response).unwrap().into_body();
        sender.send(data(format!("text {word}").as_bytes())).unwrap();
        assert_eq!(at_once(&mut body).await, b"text ");
        sender.send(data(more.as_bytes())).unwrap();
        drop(sender);
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest, format!("{word}{more}"));
    }
}

#[tokio::test]
async fn a_chunk_without_a_match_is_passed_on_uncopied() {
    let chunk = Bytes::from("nothing to see here.\n".repeat(1000));
    let response = redactor().response(Response::new(Full::new(chunk.clone()))).unwrap();
    let got = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(got.as_ptr(), chunk.as_ptr());
}

#[tokio::test]
async fn a_length_is_kept_if_every_replacement_is_as_long() {
    let text = format!("one {} two", EVEN.0);
    let mut response = Response::new(Full::new(Bytes::from(text.clone())));
    response.headers_mut().insert(CONTENT_LENGTH, text.len().into());
    let response = even().response(response).unwrap();
    assert_eq!(response.headers()[CONTENT_LENGTH], text.len().to_string());
    assert_eq!(response.body().size_hint().exact(), Some(text.len() as u64));
    assert_eq!(read(response).await, format!("one {} two", EVEN.1).as_bytes());
}

#[tokio::test]
async fn a_body_empty_from_the_start_keeps_its_description() {
    let mut response = Response::new(Empty::<Bytes>::new());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("5000"));
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("identity"));
    response.headers_mut().insert(ETAG, HeaderValue::from_static("\"1\""));
    let response = redactor().response(response).unwrap();
    assert_eq!(response.headers()[CONTENT_LENGTH], "5000");
    assert_eq!(response.headers()[CONTENT_ENCODING], "identity");
    assert_eq!(response.headers()[ETAG], "\"1\"");
    assert!(response.body().is_end_stream());
    assert!(read(response).await.is_empty());
}

#[tokio::test]
async fn stacked_codings_are_undone_and_unknown_ones_refused() {
    let text = format!("x{KEY}y").repeat(3000);
    let gzip = encoded("gzip", text.as_bytes(), &[]).concat();
    let twice = encoded("br", &gzip, &[]).concat();
    let thrice = encoded("zstd", &twice, &[]).concat();
    let mut stacked = response("identity", cut(&thrice, &[1, 7, 100]));
    stacked.headers_mut().append(CONTENT_ENCODING, HeaderValue::from_static("GZIP, identity"));
    stacked.headers_mut().append(CONTENT_ENCODING, HeaderValue::from_static("br,zstd"));
    let got = read(redactor().response(stacked).unwrap()).await;
    assert!(got == text.replace(KEY, PLACEHOLDER).as_bytes());

    for (coding, error) in [
        ("compress", RedactError::UnknownCoding),
        ("gzip;q=1", RedactError::UnknownCoding),
        ("dcb", RedactError::UnknownCoding),
        ("gzip, gzip, gzip, gzip", RedactError::TooManyCodings),
    ] {
        let refused = redactor().response(response(coding, vec![b"x".to_vec()]));
        assert_eq!(refused.err(), Some(error), "{coding}");
    }
}

#[tokio::test]
async fn several_members_are_one_body_and_an_early_end_is_an_error() {
    let text = format!("x{KEY}y").repeat(100);
    for coding in ["gzip", "zstd"] {
        let member = encoded(coding, text.as_bytes(), &[]).concat();
        for at in [0, 1, member.len() - 1, member.len(), member.len() + 1] {
            let got =
                read(redactor().response(response(coding, cut(&member.repeat(2), &[at]))).unwrap())
                    .await;
            assert!(
                got == text.replace(KEY, PLACEHOLDER).repeat(2).as_bytes(),
                "{coding} cut at {at}"
            );
        }
    }
    for coding in ["gzip", "deflate", "raw deflate", "br", "zstd"] {
        let mut whole = encoded(coding, text.as_bytes(), &[]).concat();
        assert!(
            read(redactor().response(response(coding, Vec::new())).unwrap()).await.is_empty(),
            "{coding}"
        );
        whole.truncate(whole.len() / 2);
        let early =
            redactor().response(response(coding, vec![whole])).unwrap().into_body().collect().await;
        assert!(matches!(early, Err(BodyError::Coding(_))), "{coding}");
        let rubbish = redactor().response(response(coding, vec![vec![0xff; 100]])).unwrap();
        assert!(
            matches!(rubbish.into_body().collect().await, Err(BodyError::Coding(_))),
            "{coding}"
        );
    }
}

#[tokio::test]
async fn gzip_padding_is_not_part_of_the_body() {
    let member = encoded("gzip", b"text", &[]).concat();
    let padded = response("gzip", vec![member, vec![0; 512]]);
    assert_eq!(read(redactor().response(padded).unwrap()).await, b"text");
}

#[tokio::test]
async fn garbage_after_the_end_is_an_error() {
    for coding in ["gzip", "deflate", "raw deflate", "br", "zstd"] {
        let whole = encoded(coding, b"text", &[]).concat();
        for rubbish in [&b"sk-real"[..], b"\0\0x"] {
            for pieces in [vec![[&whole, rubbish].concat()], vec![whole.clone(), rubbish.to_vec()]]
            {
                let body = redactor().response(response(coding, pieces)).unwrap().into_body();
                assert!(matches!(body.collect().await, Err(BodyError::Coding(_))), "{coding}");
            }
        }
    }
}

#[tokio::test]
async fn h14_a_bomb_is_decoded_in_small_pieces_only_as_fast_as_it_is_read() {
    for coding in ["gzip", "br", "zstd"] {
        let bomb = encoded(coding, &vec![0; 16 << 20], &[]).concat();
        let twice = encoded(coding, &bomb, &[]).concat();
        let mut response = response(coding, vec![twice]);
        response.headers_mut().append(CONTENT_ENCODING, HeaderValue::from_static(coding));
        let mut body = redactor().response(response).unwrap().into_body();
        let mut total = 0;
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(
                piece.len() <= 32 * 1024 + KEY.len() * 4,
                "{coding}: a piece of {}",
                piece.len()
            );
            total += piece.len();
        }
        assert_eq!(total, 16 << 20, "{coding}");
    }
}

#[test]
fn c11_debug_shows_no_key() {
    let redactor = redactor();
    let body = redactor.response(Response::new(Full::new(Bytes::from(KEY)))).unwrap();
    let shown = format!("{redactor:?} {:?} {:?}", body.body(), redactor.web_socket());
    assert!(!shown.contains("real"), "{shown}");
}

/// Text in which prefixes, whole keys and their encodings are common.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(KEY.to_owned()),
        Just(EVEN.0.to_owned()),
        (0..KEY.len()).prop_map(|at| KEY[..at].to_owned()),
        (0..KEY.len()).prop_map(|at| KEY[at..].to_owned()),
        (0..EVEN.0.len()).prop_map(|at| EVEN.0[..at].to_owned()),
        Just("c2stcmVhbCtrZXkvMDEyMzQ1Njc4OWFiY2RlZg==".to_owned()),
        Just("sk-real%2Bkey%2F0123456789abcdef".to_owned()),
        "[a-z \n]{0,12}",
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_result_does_not_depend_on_how_a_body_was_cut(
        text in text(),
        at in prop::collection::vec(any::<usize>(), 0..20),
        coding in prop::sample::select(&CODINGS[..]),
    ) {
        let keys = [(KEY, PLACEHOLDER), EVEN];
        let redactor = redactor_of(&keys);
        let expected = redactor.text(&text).unwrap_or_else(|| text.clone());
        let wire = encoded(coding, &text, &[]).concat();
        let response = redactor.response(response(coding, cut(&wire, &at))).unwrap();
        let got = block_on(read(response));
        prop_assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
        let literal = String::from_utf8(text).unwrap()
            .replace(KEY, PLACEHOLDER).replace(EVEN.0, EVEN.1)
            .replace("sk-real%2Bkey%2F0123456789abcdef", PLACEHOLDER)
            .replace(
                "c2stcmVhbCtrZXkvMDEyMzQ1Njc4OWFiY2RlZ", "c2stcHJveHktbWFuYWdlZC01ZlIya1E4bVh3",
            );
        prop_assert_eq!(String::from_utf8(expected).unwrap(), literal);
    }

    #[test]
    fn nothing_an_origin_sends_panics(
        wire in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
        coding in prop::sample::select(&CODINGS[..]),
    ) {
        let response = redactor().response(response(coding, wire)).unwrap();
        let _ = block_on(response.into_body().collect());
    }

    #[test]
    fn keys_that_overlap_each_other_are_replaced_alike_however_cut(
        parts in prop::collection::vec(
            prop::sample::select(&["ab", "abab", "b", "abc", "c", "x"][..]), 0..40,
        ),
        at in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let keys = [
            ("ababc", "ab-ONE"), ("babab", "TWO22"), ("abcababc", "abcXXXXXX"), ("cabx", "ca"),
        ];
        let redactor = redactor_of(&keys);
        let text = parts.concat().into_bytes();
        let expected = redactor.text(&text).unwrap_or_else(|| text.clone());
        let got = block_on(read(redactor.response(response("identity", cut(&text, &at))).unwrap()));
        prop_assert_eq!(String::from_utf8(got).unwrap(), String::from_utf8(expected).unwrap());
    }
}
