//! Chunks are verified and signed again, wherever the pieces that come are cut; AWS's published
//! examples are right.

use http::HeaderMap;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::check::Verified;
use super::super::chunks::{ChunkProblem, Chunks, MOST_CHUNK};
use super::super::claim::{Claim, Place};
use super::super::keys::{Context, Pair, SigningKey};
use super::super::payload::{Digest, Payload};
use super::super::sign::Signed;
use super::super::signature::Signature;
use super::{PLACEHOLDER, REAL};

const SEED: &str = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";

fn signature(text: &str) -> Signature {
    Signature::parse(text).expect("a signature")
}

/// A request whose signature is this, with chunks behind it.
fn verified(pair: &Pair<'_>, seed: &str, payload: Payload) -> Verified {
    let claim = Claim {
        id: pair.id.to_owned(),
        time: "20130524T000000Z".to_owned(),
        region: "us-east-1".to_owned(),
        service: "s3".to_owned(),
        covered: vec!["host".to_owned()],
        signature: signature(seed),
        place: Place::Header,
    };
    let context = Context::of(&claim);
    let key = SigningKey::new(pair, &context);
    Verified { claim, payload, context, key }
}

fn chunks(from: &Pair<'_>, to: &Pair<'_>, payload: Payload, length: Option<usize>) -> Chunks {
    let verified = verified(from, SEED, payload);
    let signed = Signed {
        query: String::new().into(),
        key: SigningKey::new(to, &verified.context),
        signature: signature(SEED),
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-trailer", "x-amz-checksum-crc32c".parse().expect("a value"));
    if let Some(length) = length {
        headers.insert("x-amz-decoded-content-length", length.into());
    }
    Chunks::new(&verified, signed, &headers)
}

/// A body in signed chunks.
fn sealed(pair: &Pair<'_>, seed: &str, parts: &[&[u8]], trailer: Option<&str>) -> Vec<u8> {
    let verified = verified(pair, seed, Payload::Unsigned);
    let (key, context) = (&verified.key, &verified.context);
    let mut before = signature(seed);
    let mut body = Vec::new();
    for part in parts.iter().copied().chain([&b""[..]]) {
        before = key.chunk(context, &before, &Digest::of(part));
        body.extend(format!("{:x};chunk-signature={}\r\n", part.len(), before.as_str()).bytes());
        body.extend_from_slice(part);
        if !part.is_empty() {
            body.extend_from_slice(b"\r\n");
        }
    }
    if let Some(trailer) = trailer {
        let fields = format!("{trailer}\n");
        let last = key.trailer(context, &before, &Digest::of(fields.as_bytes()));
        let text = format!("{trailer}\r\nx-amz-trailer-signature:{}\r\n", last.as_str());
        body.extend(text.bytes());
    }
    body.extend_from_slice(b"\r\n");
    body
}

fn pass(chunks: &mut Chunks, pieces: &[&[u8]]) -> Result<Vec<u8>, ChunkProblem> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&chunks.push(piece)?);
    }
    chunks.finish().map(|()| out)
}

const SIGNED: Payload = Payload::SignedChunks { trailer: false };
const TRAILED: Payload = Payload::SignedChunks { trailer: true };

#[test]
fn the_chunks_that_aws_publishes_are_right() {
    let pair = Pair {
        id: "AKIAIOSFODNN7EXAMPLE",
        secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        token: None,
    };
    let (first, second) = ([b'a'; 65_536], [b'a'; 1024]);
    let plain = String::from_utf8(sealed(&pair, SEED, &[&first, &second], None)).expect("text");
    for known in [
        "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ] {
        assert!(plain.contains(known), "{known}");
    }
    let seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
    let trailer = Some("x-amz-checksum-crc32c:sOO8/Q==");
    let trailed =
        String::from_utf8(sealed(&pair, seed, &[&first, &second], trailer)).expect("text");
    for known in [
        "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
        "x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435",
    ] {
        assert!(trailed.contains(known), "{known}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn chunks_are_signed_again_wherever_they_are_cut(
        parts in vec(vec(any::<u8>(), 1..200), 0..5),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
        has_trailer in any::<bool>(),
        is_told in any::<bool>(),
    ) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let trailer = has_trailer.then_some("x-amz-checksum-crc32c:sOO8/Q==");
        let payload = if has_trailer { TRAILED } else { SIGNED };
        let theirs = sealed(&PLACEHOLDER, SEED, &parts, trailer);
        let ours = sealed(&REAL, SEED, &parts, trailer);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(theirs.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([theirs.len()]) {
            pieces.push(&theirs[from..cut]);
            from = cut;
        }
        let length = is_told.then(|| parts.iter().map(|part| part.len()).sum());
        let passed = pass(&mut chunks(&PLACEHOLDER, &REAL, payload, length), &pieces);
        prop_assert_eq!(passed, Ok(ours));
    }

    #[test]
    fn c20_a_changed_byte_of_signed_chunks_never_passes(
        parts in vec(vec(any::<u8>(), 1..60), 1..4),
        place in any::<prop::sample::Index>(),
        other in 1..=255_u8,
        has_trailer in any::<bool>(),
    ) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let trailer = has_trailer.then_some("x-amz-checksum-crc32c:sOO8/Q==");
        let payload = if has_trailer { TRAILED } else { SIGNED };
        let mut body = sealed(&PLACEHOLDER, SEED, &parts, trailer);
        let place = place.index(body.len());
        let before = body[place];
        body[place] ^= other;
        // Names of trailers and lengths are read in either case.
        prop_assume!(!body[place].eq_ignore_ascii_case(&before));
        let passed = pass(&mut chunks(&PLACEHOLDER, &REAL, payload, None), &[&body]);
        prop_assert!(passed.is_err(), "{place}");
    }

    #[test]
    fn no_bytes_make_the_reader_of_chunks_panic_or_hold_much(
        pieces in vec(vec(any::<u8>(), 0..200), 0..20),
        is_signed in any::<bool>(),
    ) {
        let payload = if is_signed { SIGNED } else { Payload::UnsignedChunks };
        let mut chunks = chunks(&PLACEHOLDER, &REAL, payload, None);
        for piece in &pieces {
            if chunks.push(piece).is_err() {
                break;
            }
        }
    }
}

#[test]
fn chunks_that_are_not_signed_pass_as_they_come() {
    let body = b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\nx-amz-checksum-crc32c:sOO8/Q==\r\n\r\n";
    for length in [None, Some(15)] {
        let mut whole = chunks(&PLACEHOLDER, &REAL, Payload::UnsignedChunks, length);
        assert_eq!(pass(&mut whole, &[body]).expect("passed"), body);
    }
    // Nothing is held of a chunk that has begun.
    let mut begun = chunks(&PLACEHOLDER, &REAL, Payload::UnsignedChunks, None);
    assert_eq!(&begun.push(b"5\r\nhe").expect("passed")[..], b"5\r\nhe");
}

#[test]
fn c20_chunks_that_say_something_else_are_refused() {
    use ChunkProblem::{Length, Malformed, Mismatch, Short, TooLong, Trailer};
    let unsigned = Payload::UnsignedChunks;
    let good = sealed(&PLACEHOLDER, SEED, &[b"one", b"two"], None);
    let foreign = sealed(&REAL, SEED, &[b"one"], None);
    let line = |length: u64| format!("{length:x};chunk-signature={SEED}\r\n").into_bytes();
    let table: Vec<(Payload, Option<usize>, Vec<u8>, ChunkProblem)> = vec![
        (SIGNED, None, foreign, Mismatch),
        (SIGNED, Some(5), good.clone(), Length),
        (SIGNED, Some(7), good.clone(), Length),
        (SIGNED, None, good[..good.len() - 2].to_vec(), Short),
        (SIGNED, None, [&good[..], b"x"].concat(), Malformed),
        (SIGNED, None, line(MOST_CHUNK + 1), TooLong),
        (SIGNED, None, b"3\r\none\r\n".to_vec(), Malformed),
        (SIGNED, None, vec![b'0'; 5000], Malformed),
        (TRAILED, None, good, Malformed),
        (unsigned.clone(), None, b"3\r\none\r\n0\r\nx-other:1\r\n\r\n".to_vec(), Trailer),
        (unsigned.clone(), None, b"3;a=b\r\none\r\n0\r\n\r\n".to_vec(), Malformed),
        (unsigned.clone(), None, b"+3\r\none\r\n0\r\n\r\n".to_vec(), Malformed),
        (unsigned.clone(), None, b"3\none\r\n0\r\n\r\n".to_vec(), Malformed),
        (unsigned.clone(), None, b"3\r\nonex\r\n0\r\n\r\n".to_vec(), Malformed),
        (unsigned.clone(), None, b"3\r\none\r\n".to_vec(), Short),
        (unsigned.clone(), Some(2), b"3\r\none\r\n0\r\n\r\n".to_vec(), Length),
        (unsigned, None, b"fffffffffffffff0\r\n".to_vec(), Malformed),
    ];
    for (number, (payload, length, body, expected)) in table.into_iter().enumerate() {
        let mut chunks = chunks(&PLACEHOLDER, &REAL, payload, length);
        assert_eq!(pass(&mut chunks, &[&body]), Err(expected), "{number}");
    }
}
