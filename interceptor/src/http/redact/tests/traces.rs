//! Compares what a client sees of two responses that differ only in how much of a key they match:
//! every frame, its size, and after which action of the origin it came.
//!
//! There is no runtime, so no timer can be set: time is a series of polls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Counts wake-ups of the reader.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything visible at one moment.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Piece(Vec<u8>),
    Trailers(HeaderMap),
    Nothing { wakes: usize, least: u64, most: Option<u64>, ended: bool },
    End,
}

/// The trace of a response that the origin writes in these pieces, pausing between them.
fn trace(redactor: &Redactor, coding: &str, pieces: &[&[u8]]) -> Vec<Seen> {
    let (sender, response) = fed(coding);
    let mut body = redactor.response(response).unwrap().into_body();
    let wakes = Arc::new(Wakes::default());
    let waker = Arc::clone(&wakes).into();
    let mut context = Context::from_waker(&waker);
    let mut seen = Vec::new();
    let mut look = |seen: &mut Vec<Seen>| loop {
        match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(Some(frame)) => seen.push(match frame.unwrap().into_data() {
                Ok(data) => Seen::Piece(data.to_vec()),
                Err(other) => Seen::Trailers(other.into_trailers().unwrap()),
            }),
            Poll::Ready(None) => return seen.push(Seen::End),
            Poll::Pending => {
                let hint = body.size_hint();
                return seen.push(Seen::Nothing {
                    wakes: wakes.0.load(Ordering::Relaxed),
                    least: hint.lower(),
                    most: hint.upper(),
                    ended: body.is_end_stream(),
                });
            }
        }
    };
    let text = pieces.concat();
    let ends: Vec<usize> = pieces
        .iter()
        .scan(0, |end, piece| {
            *end += piece.len();
            Some(*end)
        })
        .collect();
    let wire = match coding {
        "identity" => pieces.iter().map(|piece| piece.to_vec()).collect(),
        _ => encoded(coding, &text, &ends[..ends.len() - 1]),
    };
    look(&mut seen);
    for piece in wire {
        sender.send(data(&piece)).unwrap();
        look(&mut seen);
        look(&mut seen);
    }
    let trailers = [("x-end".parse().unwrap(), HeaderValue::from_static("sk-"))];
    sender.send(Frame::trailers(trailers.into_iter().collect())).unwrap();
    drop(sender);
    look(&mut seen);
    seen
}

/// The ways encoders write a key.
fn spelt(way: usize, key: &str) -> Vec<u8> {
    let each = |escape: &dyn Fn(u8) -> String| -> String { key.bytes().map(escape).collect() };
    let lines = |text: &str, width| -> Vec<u8> {
        text.as_bytes().chunks(width).collect::<Vec<_>>().join(&b"\r\n"[..])
    };
    let encoded = STANDARD.encode(format!("Authorization: Bearer {key}"));
    match way {
        0 => key.into(),
        1 => encoded.into(),
        2 => lines(&encoded, 20),
        3 => each(&|byte| format!("{byte:02x}")).into(),
        4 => each(&|byte| format!("{byte:02X}:")).into(),
        5 => each(&|byte| format!("%{byte:02X}")).into(),
        6 => each(&|byte| format!("\\u{byte:04x}")).into(),
        7 => each(&|byte| format!("&#x{byte:02x};")).into(),
        8 => lines(&each(&|byte| format!("{byte:02x}")), 30),
        _ => key.bytes().flat_map(|byte| [byte, 0]).collect(),
    }
}
const WAYS: usize = 10;

#[test]
fn nothing_visible_tells_how_much_of_a_key_a_response_matches() {
    // The same classes of characters, different at every position.
    let other: String = KEY
        .chars()
        .map(|c| match c {
            '0'..='9' => char::from(b'0' + (c as u8 - b'0' + 3) % 10),
            'a'..='z' => char::from(b'a' + (c as u8 - b'a' + 5) % 26),
            other => other,
        })
        .collect();
    let redactor = redactor();
    let blind = |trace: Vec<Seen>| -> Vec<Seen> {
        let blank = |seen| match seen {
            Seen::Piece(bytes) => Seen::Piece(vec![0; bytes.len()]),
            seen => seen,
        };
        trace.into_iter().map(blank).collect()
    };
    for coding in ["identity", "gzip"] {
        for way in 0..WAYS {
            let (right, wrong) = (spelt(way, KEY), spelt(way, &other));
            assert_eq!(right.len(), wrong.len());
            for upto in 0..right.len() {
                if redactor.text(&right[..upto]).is_some() {
                    break;
                }
                let answer = |text: &[u8]| {
                    let (first, second) = text[..upto].split_at(upto / 2);
                    trace(&redactor, coding, &[b"x \"", first, second, b"\x01", b"\n\n"])
                };
                let (right, wrong) = (answer(&right), answer(&wrong));
                assert_eq!(blind(right), blind(wrong), "way {way}, {upto} bytes, {coding}");
            }
        }
    }
}

#[test]
fn a_whole_key_is_replaced_in_the_same_pieces() {
    let redactor = even();
    let other = EVEN.0.replace('1', "3");
    for way in 0..WAYS {
        let answer = |key: &str| {
            let text = spelt(way, key);
            let (first, second) = text.split_at(text.len() / 2);
            let sizes = trace(&redactor, "identity", &[b"x \"", first, second, b"\"", b"\n\n"]);
            sizes
                .into_iter()
                .map(|seen| match seen {
                    Seen::Piece(bytes) => bytes.len(),
                    _ => 0,
                })
                .collect::<Vec<usize>>()
        };
        assert!(redactor.text(&spelt(way, EVEN.0)).is_some(), "way {way}");
        assert_eq!(answer(EVEN.0), answer(&other), "way {way}");
    }
}
