//! Frames in, frames out: what a client sees, and what ends the connection.

use proptest::prelude::*;

use super::*;

const KEY: &str = "sk-real0123456789abcdefgh";
const PLACEHOLDER: &str = "sk-proxy-managed-01234567";
const TEXT: u8 = 1;
const PING: u8 = 9;

fn frames() -> Frames {
    let keys = [(KEY.as_bytes(), PLACEHOLDER.as_bytes())];
    Frames::new(&Arc::new(Scanner::new(keys.into_iter())))
}

fn frame(first: u8, payload: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_header(&mut out, first, payload.len() as u64);
    out.extend_from_slice(payload.as_bytes());
    out.to_vec()
}

fn pushed(frames: &mut Frames, bytes: &[u8]) -> Result<Vec<u8>, Ended> {
    frames.push(Bytes::copy_from_slice(bytes)).map(|bytes| bytes.to_vec())
}

/// The frames in a text: first byte and payload.
fn parsed(mut bytes: &[u8]) -> Vec<(u8, String)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let longest = bytes.len().min(LONGEST_HEADER);
        let there =
            (1..=longest).find(|there| header(&bytes[..*there]).unwrap().is_some()).unwrap();
        let length = usize::try_from(header(&bytes[..there]).unwrap().unwrap().length).unwrap();
        let payload = String::from_utf8(bytes[there..there + length].to_vec()).unwrap();
        found.push((bytes[0], payload));
        bytes = &bytes[there + length..];
    }
    found
}

#[test]
fn whole_messages_pass_at_once_whatever_their_end() {
    let mut frames = frames();
    let long = "x".repeat(70_000);
    for text in
        ["hello", "", "sk-", &KEY[..KEY.len() - 1], ".", "{\"a\":1}", &"y".repeat(126), ".", &long]
    {
        let sent = frame(FIN | TEXT, text);
        assert_eq!(pushed(&mut frames, &sent).unwrap(), sent, "{}", text.len());
    }
}

#[test]
fn a_key_that_becomes_known_is_found_even_across_the_end_of_a_message_or_a_frame() {
    let new = Arc::new(Scanner::new([(KEY.as_bytes(), PLACEHOLDER.as_bytes())].into_iter()));
    for first in [FIN | TEXT, TEXT, FIN | PING] {
        for cut in 1..KEY.len() {
            let other = [(&b"sk-other123456789abcdefgh"[..], PLACEHOLDER.as_bytes())];
            let mut frames = Frames::new(&Arc::new(Scanner::new(other.into_iter())));
            pushed(&mut frames, &frame(first, &KEY[..cut])).unwrap();
            frames.renew(&new).unwrap();
            let next = if first == TEXT { FIN | CONTINUATION } else { first };
            let rest = frame(next, &format!("{} and more", &KEY[cut..]));
            assert_eq!(pushed(&mut frames, &rest), Err(Ended::Key), "{first:#x} {cut}");
        }
    }
}

#[test]
fn a_header_and_bytes_that_cannot_be_a_key_pass_before_the_frame_is_complete() {
    let mut frames = frames();
    let sent = frame(FIN | TEXT, "one two ");
    assert_eq!(pushed(&mut frames, &sent[..6]).unwrap(), sent[..6]);
    assert_eq!(pushed(&mut frames, &sent[6..]).unwrap(), sent[6..]);
}

#[test]
fn a_message_of_several_frames_passes_in_valid_frames_and_delays_no_ping() {
    let mut frames = frames();
    let sent = [
        frame(TEXT, "one, sk-re"),
        frame(FIN | PING, "ping"),
        frame(CONTINUATION, "al01"),
        frame(FIN | CONTINUATION, "23."),
        frame(FIN | TEXT, "next"),
    ];
    let got: Vec<_> = sent.iter().map(|sent| parsed(&pushed(&mut frames, sent).unwrap())).collect();
    assert_eq!(got[1], [(FIN | PING, "ping".to_owned())], "{got:?}");
    assert_eq!(got[4], [(FIN | TEXT, "next".to_owned())], "{got:?}");
    let data: Vec<&(u8, String)> =
        got[..4].iter().flatten().filter(|(first, _)| first & 0x0f != PING).collect();
    let text: String = data.iter().map(|(_, payload)| payload.as_str()).collect();
    assert_eq!(text, "one, sk-real0123.");
    assert_eq!(data[0].0, TEXT, "{got:?}");
    let (last, between) = data[1..].split_last().unwrap();
    assert!(last.0 == FIN && between.iter().all(|(first, _)| *first == CONTINUATION), "{got:?}");
}

#[test]
fn an_empty_last_frame_carries_the_held_bytes() {
    let mut frames = frames();
    assert!(pushed(&mut frames, &frame(TEXT, "sk-real")).unwrap().is_empty());
    let got = pushed(&mut frames, &frame(FIN | CONTINUATION, "")).unwrap();
    assert_eq!(
        parsed(&got),
        [(FIN | TEXT, "sk-real".to_owned())],
        "it is a message in one frame now"
    );
}

#[test]
fn a_key_ends_the_connection_before_the_frame_that_completes_it() {
    let (one, two) = KEY.split_at(11);
    let cases: [&[Vec<u8>]; 6] = [
        &[frame(FIN | TEXT, KEY)],
        &[frame(FIN | TEXT, &format!("x {KEY} y"))],
        &[frame(TEXT, one), frame(FIN | CONTINUATION, two)],
        &[frame(TEXT, one), frame(FIN | PING, "p"), frame(FIN | CONTINUATION, two)],
        &[frame(FIN | TEXT, one), frame(FIN | TEXT, two)],
        &[frame(FIN | PING, KEY)],
    ];
    for case in cases {
        let mut frames = frames();
        let (last, before) = case.split_last().unwrap();
        before.iter().for_each(|frame| drop(pushed(&mut frames, frame).unwrap()));
        assert_eq!(pushed(&mut frames, last), Err(Ended::Key), "{case:?}");
    }
}

#[test]
fn frames_that_only_an_extension_or_a_client_sends_end_the_connection() {
    for bytes in [
        &[0xc1, 0x01][..],
        &[0xa1],
        &[0x91],
        &[0x83],
        &[0x8b],
        &[0x81, 0x85, 1, 2, 3, 4],
        &[0x80, 0x01],
        &[0x09, 0x00],
        &[0x89, 0x7e, 0x01, 0x00],
        &[0x81, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0],
        &[0x01, 0x01, b'.', 0x81, 0x00],
    ] {
        assert!(matches!(pushed(&mut frames(), bytes), Err(Ended::Broken(_))), "{bytes:?}");
    }
    // A length that overflows when the held bytes are added.
    let mut frames = frames();
    pushed(&mut frames, &frame(TEXT, "sk-real")).unwrap();
    let longest = [&[0x80, 0x7f][..], &i64::MAX.to_be_bytes()].concat();
    assert!(matches!(pushed(&mut frames, &longest), Err(Ended::Broken(_))));
}

#[test]
fn the_output_does_not_depend_on_how_much_of_a_key_a_message_matches() {
    let guess = |shown: usize| {
        let wrong = "Q".repeat(KEY.len() - shown - 1);
        format!("{}{wrong}", &KEY[..shown])
    };
    let trace = |text: &str, end: &str| {
        let mut frames = frames();
        let sent = [frame(TEXT, "a "), frame(CONTINUATION, text), frame(FIN | CONTINUATION, end)];
        let mut seen = Vec::new();
        for byte in sent.concat().chunks(3) {
            seen.push(pushed(&mut frames, byte).unwrap().len());
        }
        for sent in [frame(FIN | TEXT, text), frame(FIN | TEXT, " ")] {
            seen.push(pushed(&mut frames, &sent).unwrap().len());
        }
        seen
    };
    for end in ["", ".", "QQ"] {
        let none = trace(&guess(0), end);
        (1..KEY.len())
            .for_each(|shown| assert_eq!(trace(&guess(shown), end), none, "{shown} {end:?}"));
    }
}

proptest! {
    #[test]
    fn messages_are_the_same_however_they_are_cut(
        messages in prop::collection::vec(prop::collection::vec("[a-z. ]{0,200}", 1..4), 1..5),
        at in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        let mut whole = Vec::new();
        for message in &messages {
            for (index, part) in message.iter().enumerate() {
                let opcode = if index == 0 { TEXT } else { CONTINUATION };
                let fin = if index + 1 == message.len() { FIN } else { 0 };
                whole.extend(frame(fin | opcode, part));
            }
        }
        let mut at: Vec<usize> = at.iter().map(|at| at % (whole.len() + 1)).collect();
        at.extend([0, whole.len()]);
        at.sort_unstable();
        let mut frames = frames();
        let mut got = Vec::new();
        for cut in at.windows(2) {
            got.extend(pushed(&mut frames, &whole[cut[0]..cut[1]]).unwrap());
        }
        let mut texts = vec![String::new()];
        for (first, payload) in parsed(&got) {
            let begins = texts.last().is_some_and(|text| !text.starts_with('<'));
            prop_assert_eq!(first & 0x0f == TEXT, begins);
            let text = texts.last_mut().unwrap();
            if first & 0x0f == TEXT {
                text.push('<');
            }
            text.push_str(&payload);
            if first & FIN != 0 {
                texts.push(String::new());
            }
        }
        texts.pop();
        let expected: Vec<String> =
            messages.iter().map(|message| format!("<{}", message.concat())).collect();
        prop_assert_eq!(texts, expected);
    }

    #[test]
    fn no_bytes_do_any_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frames = frames();
        if let Ok(got) = pushed(&mut frames, &bytes) {
            prop_assert!(got.len() <= 2 * bytes.len() + LONGEST_HEADER);
            prop_assert!(frames.finish().is_ok());
        }
    }
}
