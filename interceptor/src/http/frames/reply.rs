//! Encodes a response as frames that are independent of h2's compression state: its fields are
//! literals without indexing (RFC 7541 section 6.2.2).

use bytes::Bytes;
use http::Response;

use super::scan::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NO_ERROR, RST_STREAM};

/// `:status` in the static table (RFC 7541 appendix A).
const STATUS: u8 = 8;

/// Encodes a response. `status` is its status field as encoded by h2, if h2 has sent one. Without a
/// body, for which the client's window may be too small, the header fields must do.
pub(super) fn frames(
    stream: u32,
    response: &Response<Bytes>,
    status: Option<&[u8]>,
    with_body: bool,
) -> Vec<u8> {
    let mut block = Vec::with_capacity(256);
    match status {
        Some(field) => block.extend_from_slice(field),
        None => {
            block.push(STATUS);
            string(&mut block, response.status().as_str().as_bytes());
        }
    }
    for (name, value) in response.headers() {
        field(&mut block, name.as_str(), value.as_bytes());
    }
    let body = response.body();
    if with_body {
        field(&mut block, "content-length", body.len().to_string().as_bytes());
    }
    let ends = if with_body { 0 } else { END_STREAM };
    let mut frames = Vec::with_capacity(block.len() + body.len() + 18);
    frame(&mut frames, HEADERS, END_HEADERS | ends, stream, &block);
    if with_body {
        frame(&mut frames, DATA, END_STREAM, stream, body);
    }
    frames
}

/// Tells the client to stop sending a request (RFC 9113 section 8.1).
pub(super) fn no_more(stream: u32) -> Vec<u8> {
    let mut frames = Vec::new();
    frame(&mut frames, RST_STREAM, 0, stream, &NO_ERROR.to_be_bytes());
    frames
}

/// Ends the connection. Requests up to `last` count as processed, so their responses are valid.
pub(super) fn farewell(last: u32) -> Vec<u8> {
    let mut frames = Vec::new();
    frame(&mut frames, GOAWAY, 0, 0, &[last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat());
    frames
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    // A response is a few hundred bytes long; every client accepts frames of 16 KiB.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn field(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    block.push(0);
    string(block, name.as_bytes());
    string(block, value);
}

/// Encodes a string (RFC 7541 sections 5.1 and 5.2) without Huffman coding.
fn string(block: &mut Vec<u8>, text: &[u8]) {
    const PREFIX: usize = 0x7f;
    match u8::try_from(text.len()) {
        Ok(length) if usize::from(length) < PREFIX => block.push(length),
        _ => {
            block.push(0x7f);
            let mut rest = text.len() - PREFIX;
            while rest >= 0x80 {
                block.push(rest.to_le_bytes()[0] | 0x80);
                rest >>= 7;
            }
            block.push(rest.to_le_bytes()[0]);
        }
    }
    block.extend_from_slice(text);
}
