use proptest::prelude::*;

use super::*;
use interceptor_policy::Reason;
use std::sync::Arc;
use tokio::sync::Semaphore;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head, payload.to_vec()].concat()
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [vec![b'P'; PREFACE], frames.concat()].concat()
}

/// Watches a stream of a sandbox that may have one incomplete head.
fn read_along<S>(stream: S) -> (Frames<S>, Tally) {
    let tally = Tally::default();
    let time = Duration::from_secs(5);
    let unfinished = Unfinished::new(Arc::new(Semaphore::new(1)), time, Arc::default());
    let explain = || {
        let response = Response::builder().status(431).header("x-why", "too large");
        (response.body(Bytes::from_static(b"too large")).unwrap(), Duration::from_secs(1))
    };
    (Frames::new(stream, tally.clone(), unfinished, Box::new(explain)), tally)
}

fn after(came: &[Vec<u8>], went: &[Vec<u8>], served: u64, pieces: usize) -> (Frames<()>, Tally) {
    let (mut frames, tally) = read_along(());
    for piece in connection(came).chunks_mut(pieces) {
        frames.came(piece).unwrap();
    }
    went.concat().chunks(pieces).for_each(|piece| frames.went(piece));
    (0..served).for_each(|_| tally.served());
    (frames, tally)
}

const BARE: &[u8] = &[0x48, 0x82, 0x68, 0x01];

#[test]
fn unserved_heads_are_reported_once() {
    let came: Vec<_> =
        (0..5).map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, b"xyz")).collect();
    let went = [
        frame(RST_STREAM, 0, 1, &1_u32.to_be_bytes()),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, BARE),
        frame(RST_STREAM, 0, 5, &REFUSED_STREAM.to_be_bytes()),
        frame(HEADERS, END_HEADERS | END_STREAM, 7, b"\x88\x61\x01a"),
    ];
    for pieces in [1, 7, 1000] {
        let (_, tally) = after(&came, &went, 2, pieces);
        let expected = Unserved { malformed: 1, too_large: 1, refused: 1, unread: 0 };
        assert_eq!(tally.settle(), expected, "{pieces}");
        assert_eq!(tally.settle(), Unserved::default());
        assert_eq!(tally.rest(), Unserved::default());
    }
}

#[test]
fn trailers_and_frames_after_goaway_open_no_stream() {
    let came =
        [frame(HEADERS, END_HEADERS, 1, b"x"), frame(HEADERS, END_HEADERS | END_STREAM, 1, b"x")];
    let (mut frames, tally) = after(&came, &[], 1, 1000);
    frames.went(&frame(GOAWAY, 0, 0, &[1_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat()));
    frames.came(&mut frame(HEADERS, END_HEADERS, 3, b"x")).unwrap();
    assert_eq!(tally.rest(), Unserved::default());
}

#[test]
fn nothing_is_settled_while_a_write_is_blocked() {
    let (frames, tally) = after(&[frame(HEADERS, END_HEADERS, 1, b"x")], &[], 0, 1000);
    let _ = frames.wrote::<()>(Poll::Pending);
    assert_eq!(tally.settle(), Unserved::default());
    let _ = frames.wrote(Poll::Ready(Ok(())));
    assert_eq!(tally.settle().malformed, 1);
}

#[test]
fn an_incomplete_head_is_reported_at_the_end() {
    let halves = [
        vec![frame(HEADERS, 0, 1, b"x")],
        vec![frame(HEADERS, END_HEADERS, 1, b"xxxxxxxx")[..12].to_vec()],
        vec![frame(HEADERS, 0, 1, b"x"), frame(CONTINUATION, 0, 1, b"y")],
    ];
    for half in halves {
        for (code, expected) in [
            (0, Unserved { unread: 1, ..Unserved::default() }),
            (1, Unserved { malformed: 1, ..Unserved::default() }),
            (ENHANCE_YOUR_CALM, Unserved { refused: 1, ..Unserved::default() }),
        ] {
            let went = frame(GOAWAY, 0, 0, &[9_u32.to_be_bytes(), code.to_be_bytes()].concat());
            let (_, tally) = after(&half, &[went], 0, 5);
            assert_eq!(tally.settle(), Unserved::default());
            assert_eq!(tally.rest(), expected, "{code}");
        }
    }
    let whole = [frame(HEADERS, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, b"y")];
    assert_eq!(after(&whole, &[], 1, 3).1.rest(), Unserved::default());
}

#[test]
fn a_status_alone_is_one_field() {
    for one in [
        BARE,
        b"\x48\x03431",
        b"\x08\x03431",
        b"\xbe",
        b"\x20\xbe",
        b"\x3f\xe1\x1f\xbe",
        b"\xff\x01",
    ] {
        assert!(is_one_field(one), "{one:x?}");
    }
    for other in
        [&b""[..], b"\x88\xbe", b"\x48\x03431\xbe", b"\x40\x01a\x01b", b"\x48", b"\xff", b"\x20"]
    {
        assert!(!is_one_field(other), "{other:x?}");
    }
}

proptest! {
    #[test]
    fn no_input_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), pieces in 1_usize..50,
    ) {
        let (mut frames, tally) = read_along(());
        for piece in bytes.chunks_mut(pieces) {
            let _ = frames.came(piece);
            let _ = frames.change(piece);
            frames.went(piece);
        }
        let _ = (tally.settle(), tally.rest());
    }
}

/// The expected response: a status, as h2 encodes it or as we do, and the explanation.
fn explained(stream: u32, status: &[u8], has_body: bool) -> Vec<u8> {
    let why = b"\x00\x05x-why\x09too large";
    let length = if has_body { &b"\x00\x0econtent-length\x019"[..] } else { b"" };
    let block = [status, why, length].concat();
    match has_body {
        false => frame(HEADERS, END_HEADERS | END_STREAM, stream, &block),
        true => [
            frame(HEADERS, END_HEADERS, stream, &block),
            frame(DATA, END_STREAM, stream, b"too large"),
        ]
        .concat(),
    }
}

/// Writes `went` as h2 would, after `came`, and returns what the client receives.
async fn written(mut came: Vec<u8>, went: &[u8], step: usize) -> (Vec<u8>, Tally) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (ours, mut theirs) = tokio::io::duplex(64);
    let (mut frames, tally) = read_along(ours);
    frames.came(&mut came).unwrap();
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        got
    });
    let mut left = went;
    while !left.is_empty() {
        let slices = [io::IoSlice::new(&left[..step.min(left.len())])];
        let count = frames.write_vectored(&slices).await.unwrap();
        assert!(count > 0);
        left = &left[count..];
    }
    frames.shutdown().await.unwrap();
    drop(frames);
    (reader.await.unwrap(), tally)
}

fn went_away(code: u32, why: &[u8]) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[&0_u32.to_be_bytes()[..], &code.to_be_bytes(), why].concat())
}

#[tokio::test]
async fn a_bare_431_is_explained_where_it_is_one() {
    let ends = END_HEADERS | END_STREAM;
    let data = frame(DATA, 0, 1, b"abc");
    let came = |more: &[Vec<u8>]| {
        let opened = [frame(HEADERS, ends, 1, b"x"), frame(HEADERS, END_HEADERS, 3, b"x")];
        connection(&[more, &opened].concat())
    };
    let reset = |code: u32| frame(RST_STREAM, 0, 3, &code.to_be_bytes());
    let went = [
        frame(HEADERS, END_HEADERS, 1, b"\x88\x61\x01a"),
        data.clone(),
        frame(HEADERS, ends, 3, BARE),
        reset(1),
        data,
        // Trailers.
        frame(HEADERS, ends, 1, b"\xbe"),
    ];
    let room = frame(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes());
    let none = frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x08");
    for (more, has_body) in [(vec![], false), (vec![room.clone()], true), (vec![room, none], false)]
    {
        let (got, tally) = written(came(&more), &went.concat(), usize::MAX).await;
        let mut expected = went.clone();
        expected[2] = explained(3, BARE, has_body);
        expected[3] = reset(0);
        assert_eq!(got, expected.concat(), "{more:?}");
        assert_eq!(tally.turn(), Duration::from_secs(1));
        tally.served();
        assert_eq!(tally.rest(), Unserved::default());
    }
}

#[tokio::test]
async fn the_end_of_a_connection_is_explained_where_a_head_is_the_reason() {
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"x");
    let half = frame(HEADERS, END_STREAM, 1, b"x");
    let why = b"too_many_continuations";
    for (head, code, said, is_explained) in [
        (&half, ENHANCE_YOUR_CALM, &why[..], true),
        (&whole, ENHANCE_YOUR_CALM, b"header_list_way_too_large", true),
        (&half, COMPRESSION_ERROR, b"", true),
        (&half, ENHANCE_YOUR_CALM, b"too_many_resets", false),
        (&whole, 1, b"", false),
    ] {
        let bye = went_away(code, said);
        let (got, tally) = written(connection(std::slice::from_ref(head)), &bye, usize::MAX).await;
        let answer = explained(1, b"\x08\x03431", true);
        let gently = frame(GOAWAY, 0, 0, &[1_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat());
        let expected = if is_explained { [answer, gently].concat() } else { bye };
        assert_eq!(got, expected, "{code} {said:?}");
        assert_eq!(tally.rest() == Unserved::default(), is_explained);
    }
    // The only head was served, so it is not the reason.
    let (mut frames, tally) = read_along(());
    frames.came(&mut connection(&[whole])).unwrap();
    tally.served();
    assert!(frames.change(&went_away(ENHANCE_YOUR_CALM, why)).is_none());
}

#[test]
fn the_library_learns_of_a_little_less_room_than_there_is() {
    let room = |bytes: u32| frame(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes());
    for pieces in [usize::MAX, 9 + 4, 5] {
        let (mut frames, _) = read_along(());
        let mut came = connection(&[room(1), room(4000), room(2000), room(10)]);
        let before = came.clone();
        for piece in came.chunks_mut(pieces.min(before.len())) {
            frames.came(piece).unwrap();
        }
        let expected = connection(&[room(1), room(1), room(1903), room(10)]);
        // Increments split between reads are not changed.
        assert_eq!(came, if pieces == usize::MAX { expected } else { before }, "{pieces}");
        let known: i64 = if pieces == usize::MAX { 1 + 1 + 1903 + 10 } else { 6011 };
        assert!(frames.window.take(4096, false) == (pieces == usize::MAX));
        assert!(!frames.window.take(1, false));
        let rest = usize::try_from(65_535 + known).unwrap();
        frames.window.settings(Frame {
            kind: SETTINGS,
            flags: 0,
            stream: 0,
            length: 6,
            seen: b"\x00\x04\x00\xff\xff\xff",
        });
        assert!(!frames.window.take(rest + 1, true) && frames.window.take(rest, true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_not_whole_has_a_place_and_a_time() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (places, activity) =
        (Arc::new(Semaphore::new(1)), Arc::<super::super::activity::Activity>::default());
    let along = |stream| {
        let unfinished = Unfinished::new(places.clone(), Duration::from_secs(5), activity.clone());
        let explain = || (Response::default(), Duration::ZERO);
        Frames::new(stream, Tally::default(), unfinished, Box::new(explain))
    };
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let mut frames = along(ours);
    let mut sink = [0; 1024];
    let half = connection(&[frame(HEADERS, 0, 1, b"x")]);
    theirs.write_all(&half).await.unwrap();
    assert!(frames.read(&mut sink).await.unwrap() > 0);
    assert_eq!(places.available_permits(), 0);
    let mut another = along(tokio::io::duplex(1).0);
    assert!(another.came(&mut half.clone()).is_err(), "there is one place");
    theirs.write_all(&frame(CONTINUATION, END_HEADERS, 1, b"x")).await.unwrap();
    assert!(frames.read(&mut sink).await.unwrap() > 0);
    assert_eq!(places.available_permits(), 1);
    theirs.write_all(&frame(HEADERS, 0, 3, b"x")).await.unwrap();
    assert!(frames.read(&mut sink).await.unwrap() > 0);
    let overdue = frames.read(&mut sink).await.unwrap_err();
    assert_eq!(overdue.kind(), io::ErrorKind::TimedOut);
    assert_eq!(activity.limit(), Some(Reason::LimitExceeded), "the first one counts");
}

/// Reads what comes within 10 ms, `most` bytes at a time.
async fn read_now<S: AsyncRead + Unpin>(frames: &mut Frames<S>, most: usize) -> Vec<u8> {
    use tokio::io::AsyncReadExt as _;
    let (mut got, mut sink) = (Vec::new(), vec![0; most]);
    let within = Duration::from_millis(10);
    while let Ok(count) = tokio::time::timeout(within, frames.read(&mut sink)).await {
        got.extend_from_slice(&sink[..count.unwrap()]);
    }
    got
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_request_waits_for_the_end_of_its_error() {
    use tokio::io::AsyncWriteExt as _;
    let begun = connection(&[frame(HEADERS, END_HEADERS, 1, b"x"), frame(DATA, 0, 1, b"abc")]);
    let ends = frame(DATA, END_STREAM, 1, b"");
    // Its response began before the error, and is none.
    let other = frame(DATA, END_STREAM, 3, b"");
    let rest = [ends.clone(), other.clone(), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])].concat();
    let answer = frame(HEADERS, END_HEADERS, 1, b"\x88\x61\x01a");
    let over = frame(DATA, END_STREAM, 1, b"no");
    for most in [1, 5, 12, 1000] {
        for (errs, ends_within, waits) in
            [(true, true, true), (true, false, true), (false, true, false)]
        {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let (mut frames, tally) = read_along(ours);
            theirs.write_all(&begun).await.unwrap();
            assert_eq!(read_now(&mut frames, most).await, begun);
            tally.served();
            frames.write_all(&frame(HEADERS, END_HEADERS, 3, b"\x88\x61\x01a")).await.unwrap();
            theirs.write_all(&other).await.unwrap();
            assert_eq!(read_now(&mut frames, most).await, other);
            if errs {
                tally.errs();
            }
            frames.write_all(&answer).await.unwrap();
            theirs.write_all(&rest).await.unwrap();
            let mut got = read_now(&mut frames, most).await;
            let is_held = got.len() < ends.len();
            assert_eq!(is_held, waits, "{most} {errs}: {got:?}");
            if ends_within {
                frames.write_all(&over).await.unwrap();
            } else {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            got.extend(read_now(&mut frames, most).await);
            assert_eq!(got, rest, "{most} {errs} {ends_within}");
        }
    }
}
