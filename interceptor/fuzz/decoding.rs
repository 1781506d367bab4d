//! Encoded answers: whatever an origin sends, the output is the same however it is cut, and a key
//! in the encoded text is not in it.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_ENCODING;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use interceptor_policy::redact::Redactor;
use tokio::io::AsyncReadExt as _;

use crate::pieces;
use crate::redaction::RedactResponse as _;

const KEY: &str = "sk-Rx8~c1f0/b6d2e+A9zQ77==";
const PLACEHOLDER: &str = "sk-proxy-managed-0123456ab";
const CODINGS: [&str; 6] = ["gzip", "deflate", "br", "zstd", "gzip, br", "zstd, gzip"];
/// A small input may decode to a large output; this much of it is checked.
const MOST: usize = 1 << 20;

static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| {
    Redactor::of([(KEY.as_bytes(), PLACEHOLDER.as_bytes())].into_iter()).expect("one key")
});

/// Checks one body. The first byte gives the coding, and says whether the rest is encoded already
/// or a text to encode, in which 0xff stands for a key.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Some((lengths, rest)) = pieces::read(rest) else { return };
    let coding = CODINGS[usize::from(first & 0x7f) % CODINGS.len()];
    let runtime = pieces::runtime();
    if first & 0x80 != 0 {
        let whole = runtime.block_on(redacted(rest, coding, &[usize::MAX]));
        let cut = runtime.block_on(redacted(rest, coding, &lengths));
        assert_eq!(whole.1, cut.1);
        if whole.1 && whole.0.len() < MOST && cut.0.len() < MOST {
            assert_eq!(whole.0, cut.0);
        }
        return;
    }
    let text: Vec<u8> = rest
        .iter()
        .flat_map(|byte| if *byte == 0xff { KEY.as_bytes().to_vec() } else { vec![*byte] })
        .collect();
    let sent = runtime.block_on(encoded(&text, coding));
    let (got, whole) = runtime.block_on(redacted(&sent, coding, &lengths));
    assert!(whole);
    assert_eq!(got, REDACTOR.text(&text).unwrap_or(text));
}

async fn encoded(text: &[u8], codings: &str) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for coding in codings.split(", ") {
        let mut out = Vec::new();
        let from = &bytes[..];
        let read = match coding {
            "gzip" => GzipEncoder::new(from).read_to_end(&mut out).await,
            "deflate" => ZlibEncoder::new(from).read_to_end(&mut out).await,
            "br" => BrotliEncoder::new(from).read_to_end(&mut out).await,
            _ => ZstdEncoder::new(from).read_to_end(&mut out).await,
        };
        read.expect("what is in memory is encoded");
        bytes = out;
    }
    bytes
}

/// The sandbox's view of such an answer, and whether the body was complete.
async fn redacted(sent: &[u8], coding: &str, lengths: &[usize]) -> (Vec<u8>, bool) {
    let pieces: Vec<Bytes> =
        pieces::cut(sent, lengths).into_iter().map(Bytes::copy_from_slice).collect();
    let answer = Response::builder().header(CONTENT_ENCODING, coding);
    let answer = answer.body(Pieces(pieces.into_iter())).expect("an answer");
    let answer = REDACTOR.response(answer).expect("codings that are known");
    let mut body = answer.into_body();
    let mut got = Vec::new();
    while got.len() < MOST {
        match body.frame().await {
            Some(Ok(frame)) => got.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => return (got, false),
            None => return (got, true),
        }
    }
    (got, true)
}

struct Pieces(std::vec::IntoIter<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
    }
}
