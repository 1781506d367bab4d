//! Unrequested ranges, headers that describe more than is passed on, and what shows how well a
//! response compresses.

use http::HeaderName;
use interceptor_policy::redact::ranges::Range;

use super::*;

fn with<B>(body: B, status: u16, fields: &[(&'static str, &'static str)]) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        response.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    response
}

fn full() -> Full<Bytes> {
    Full::new(Bytes::from_static(b"0123456789ab"))
}

#[test]
fn an_unrequested_part_is_an_error() {
    let range = ("content-range", "bytes 5-16/100");
    let several = ("content-type", "Multipart/ByteRanges; boundary=x");
    for (status, fields) in [
        (206, &[][..]),
        (206, &[range]),
        (200, &[range]),
        (404, &[range]),
        (226, &[("im", "range")]),
        (200, &[several]),
    ] {
        let refused = redactor().response(with(full(), status, fields)).err();
        assert_eq!(refused, Some(RedactError::Unasked), "{status} {fields:?}");
        let refused = redactor().response(with(Empty::<Bytes>::new(), status, fields)).err();
        assert_eq!(refused, Some(RedactError::Unasked), "{status} {fields:?} to HEAD");
    }
    let asked = Range::parse(b"bytes=5-16").unwrap().widened(redactor().reach());
    for (status, fields) in [(206, &[range, several][..]), (200, &[range]), (226, &[])] {
        let refused = even().answer(with(full(), status, fields), Some(asked)).err();
        assert_eq!(refused, Some(RedactError::Unasked), "{status} {fields:?}, asked for a range");
    }
    assert!(redactor().response(with(full(), 416, &[("content-range", "bytes */100")])).is_ok());
    let whole = [("accept-ranges", "bytes"), ("content-type", "multipart/mixed; boundary=x")];
    assert!(redactor().response(with(full(), 200, &whole)).is_ok());
}

const DIGESTS: [&str; 10] = [
    "content-md5",
    "content-digest",
    "digest",
    "repr-digest",
    "x-ms-content-crc64",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc64nvme",
    "x-goog-hash",
    "x-oss-hash-crc64ecma",
    "x-content-sha256",
];

#[tokio::test]
async fn a_part_carries_no_digest_of_the_whole() {
    let (sender, mut response) = fed("identity");
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 0-19/20"));
    headers.insert(ETAG, HeaderValue::from_static("\"v1\""));
    let digests: HeaderMap = DIGESTS
        .iter()
        .map(|name| (name.parse().unwrap(), HeaderValue::from_static("abc")))
        .collect();
    headers.extend(digests.clone());
    let mut trailers = digests;
    trailers.insert("x-end", HeaderValue::from_static("1"));
    sender.send(data(b"0123456789abcdefghij")).unwrap();
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    let asked = Range::parse(b"bytes=3-5").unwrap().widened(even().reach());
    let response = even().answer(response, Some(asked)).unwrap();
    let mut names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-range", "etag"]);
    let body = response.into_body().collect().await.unwrap();
    let trailers: Vec<&str> = body.trailers().unwrap().keys().map(HeaderName::as_str).collect();
    assert_eq!(trailers, ["x-end"]);
    assert_eq!(body.to_bytes(), "345");
}

#[test]
fn without_a_body_no_header_describes_encoded_bytes() {
    for coding in ["gzip", "br", "x-own", "identity, zstd"] {
        for status in [200, 304] {
            let fields = [
                ("content-length", "77"),
                ("etag", "\"4d-1\""),
                ("content-md5", "x"),
                ("vary", "accept-encoding"),
            ];
            let mut response = with(Empty::<Bytes>::new(), status, &fields);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_str(coding).unwrap());
            let response = redactor().response(response).unwrap();
            let names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
            assert_eq!(names, ["vary"], "{coding} {status}");
        }
    }
}

/// The sizes of the frames of a response whose encoded bytes arrive 1,000 at a time.
fn sizes(coding: &str, text: &[u8]) -> Vec<usize> {
    let wire = encoded(coding, text, &[]).concat();
    let (sender, response) = fed(coding);
    let mut body = redactor().response(response).unwrap().into_body();
    let mut sizes = Vec::new();
    block_on(async {
        for piece in wire.chunks(1000) {
            sender.send(data(piece)).unwrap();
            while let Some(frame) = frame_now(&mut body) {
                sizes.push(frame.into_data().unwrap().len());
            }
        }
        drop(sender);
        while let Some(frame) = body.frame().await {
            sizes.push(frame.unwrap().into_data().unwrap().len());
        }
    });
    sizes
}

/// The next frame, if it is ready.
fn frame_now(body: &mut RedactedBody<Feed>) -> Option<Frame<Bytes>> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(frame) => frame.map(|frame| frame.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn the_pieces_of_a_decoded_body_do_not_tell_how_well_it_compresses() {
    let mut state = 1_u32;
    let mut noise = |length: usize| -> Vec<u8> {
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 | 0x80
        };
        (0..length).map(next).collect()
    };
    let filler = noise(30_000);
    let well = [&[0xaa; 3000][..], &filler].concat();
    let badly = [&noise(3000)[..], &filler].concat();
    for coding in &CODINGS[1..] {
        let sizes_of = sizes(coding, &well);
        assert_eq!(sizes_of, sizes(coding, &badly), "{coding}");
        let (last, full) = sizes_of.split_last().unwrap();
        assert!(full.iter().all(|size| *size == 4096), "{coding}: {sizes_of:?}");
        assert_eq!(*last, 33_000 % 4096, "{coding}");
    }
}
