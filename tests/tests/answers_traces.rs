//! A client's view of an answer, its bytes and how they are cut into chunks, frames and messages,
//! does not depend on how much of a key some text matches. These tests compare whole traces of
//! answers that differ in that alone.

use async_compression::tokio::write::GzipEncoder;
use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::origin::websocket::accept;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// Another character of the same kind.
fn unlike(character: char) -> char {
    match character {
        'a'..='y' | 'A'..='Y' | '0'..='8' => char::from(character as u8 + 1),
        'z' => 'a',
        'Z' => 'A',
        '9' => '0',
        other => other,
    }
}

/// The key in a usual spelling.
fn spelt(key: &str, spelling: &str) -> String {
    match spelling {
        "hexadecimal" => key.bytes().map(|byte| format!("{byte:02x}")).collect(),
        "percent" => key.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        "json" => key.chars().map(|character| format!("\\u{:04x}", u32::from(character))).collect(),
        _ => key.to_owned(),
    }
}

/// Guesses of one length and kind: the first has nothing in common with the key, the last
/// everything but its last character.
fn guesses(key: &str, spelling: &str) -> Vec<String> {
    let wrong: String = key.chars().map(unlike).collect();
    let guess = |agrees: usize| {
        let (right, rest) = (&key[..agrees], &wrong[agrees..]);
        spelt(&format!("{right}{rest}"), spelling)
    };
    [0, 1, 3, 4, 9, 20, key.len() - 1].into_iter().map(guess).collect()
}

/// Ways a guess may arrive: whole, followed by each kind of byte, cut in many places, a byte at a
/// time.
fn pieces(guess: &str) -> Vec<String> {
    let mut pieces =
        vec![format!("data: {guess}"), "\n\n".into(), guess.into(), "x".into(), " ".into()];
    for at in [1, 2, 5, 11, guess.len() / 2, guess.len() - 1] {
        pieces.extend([guess[..at].to_owned(), guess[at..].to_owned(), "\"".into()]);
    }
    pieces.extend(guess.chars().map(String::from));
    pieces.push(".\n".into());
    // The stream ends while a guess could still continue.
    pieces.push(guess.into());
    pieces
}

const SPELLINGS: [&str; 4] = ["literal", "hexadecimal", "percent", "json"];

#[test]
fn chunks_and_data_frames_are_cut_alike() {
    for protocol in ["http/1.1", "h2"] {
        Lab::test(|lab| {
            let key = lab.key().to_owned();
            let origin = lab.talking(move |head, mut stream| {
                let key = key.clone();
                async move {
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let mut parts = path.trim_start_matches('/').split('/');
                    let (spelling, number) = (parts.next().unwrap(), parts.next().unwrap());
                    let guess = guesses(&key, spelling).swap_remove(number.parse().unwrap());
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: \
                                close\r\n\r\n";
                    stream.write_all(head.as_bytes()).await?;
                    for piece in pieces(&guess) {
                        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                        // One write makes one TLS record, so a chunk arrives whole or not at all.
                        stream.write_all(chunk.as_bytes()).await?;
                        stream.flush().await?;
                    }
                    stream.write_all(b"0\r\n\r\n").await?;
                    stream.shutdown().await
                }
            });
            for spelling in SPELLINGS {
                let count = guesses(lab.key(), spelling).len();
                let mut plan = Plan::https(HOST, protocol);
                for number in 0..count {
                    plan = plan.ask("GET", &format!("/{spelling}/{number}"));
                }
                lab.unordered();
                let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
                let answers = sandbox.fetch(&plan).remove(0).answers;
                assert_eq!(answers.len(), count);
                let none = &answers[0];
                assert!(none.pieces.len() > 8, "{spelling}: {none:?}");
                for (answer, guess) in answers.iter().zip(guesses(lab.key(), spelling)) {
                    assert_eq!(answer.error, None);
                    assert_eq!(answer.body, pieces(&guess).concat(), "nothing was replaced");
                    assert_eq!(answer.pieces, none.pieces, "{protocol} {spelling}");
                }
            }
        });
    }
}

#[test]
fn lengths_and_heads_are_alike() {
    Lab::test(|lab| {
        let key = lab.key().to_owned();
        let origin = lab.talking(move |head, mut stream| {
            let key = key.clone();
            async move {
                let number =
                    head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                let guess = guesses(&key, "literal").swap_remove(number.parse().unwrap());
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nx-guess: {guess}\r\ncontent-length: {}\r\nconnection: \
                     close\r\n\r\n{guess}",
                    guess.len()
                );
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            }
        });
        let mut plan = Plan::https(HOST, "http/1.1");
        let all = guesses(lab.key(), "literal");
        for number in 0..all.len() {
            plan = plan.ask("GET", &format!("/{number}"));
        }
        let outcome =
            lab.sandbox(&policy(lab)).resolve(HOST, origin.address()).fetch_outcome(&plan);
        let (reports, outcome) = outcome;
        for (answer, guess) in reports[0].answers.iter().zip(&all) {
            assert_eq!(answer.header("x-guess"), Some(guess.as_str()));
            assert_eq!(answer.header("content-length"), Some(guess.len().to_string().as_str()));
            assert_eq!((&answer.body, &answer.pieces), (guess, &vec![guess.len()]));
        }
        // Nor does a record reveal it.
        assert!(
            outcome.requests("allow").iter().all(|r| r.key_echoed.is_none() && r.reason.is_none())
        );
    });
}

/// WebSocket frames that contain a guess: whole, in several frames, with a ping between, in several
/// messages.
fn messages(guess: &str) -> Vec<(u8, String)> {
    let (one, two) = guess.split_at(guess.len() / 2);
    let text = |first: u8, text: &str| (first, text.to_owned());
    vec![
        text(0x81, guess),
        text(0x81, " "),
        text(0x01, one),
        text(0x89, "ping"),
        text(0x00, two),
        text(0x80, "."),
        text(0x01, guess),
        text(0x80, ""),
        text(0x82, &format!("{{\"a\":\"{guess}")),
        text(0x81, " "),
        text(0x8a, guess),
        text(0x01, "end"),
        text(0x80, " "),
    ]
}

#[test]
fn frames_of_a_web_socket_are_alike_and_wait_for_nothing() {
    Lab::test(|lab| {
        let key = lab.key().to_owned();
        let origin = lab.talking(move |head, mut stream| {
            let key = key.clone();
            async move {
                let field = |name: &str| {
                    head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
                };
                let number =
                    head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                let accept = accept(field("sec-websocket-key:").unwrap_or_default());
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: \
                     websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                let guess = guesses(&key, "literal").swap_remove(number.parse().unwrap());
                for (first, text) in messages(&guess) {
                    let frame =
                        [&[first, u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
                    stream.write_all(&frame).await?;
                    stream.flush().await?;
                    if first & 0x80 != 0 {
                        // The next one is sent only once the sandbox has all of this one.
                        stream.read_exact(&mut [0; 7]).await?;
                    }
                }
                stream.shutdown().await
            }
        });
        let count = guesses(lab.key(), "literal").len();
        let program = format!(
            "import socket, ssl\ndef run(n):\n\x20   s = \
             ssl.create_default_context().wrap_socket(socket.create_connection(('{HOST}', 443)), \
             server_hostname='{HOST}')\n\x20   s.settimeout(20)\n\x20   s.sendall(b'GET /%d \
             HTTP/1.1\\r\\nhost: {HOST}\\r\\nconnection: Upgrade\\r\\nupgrade: \
             websocket\\r\\nsec-websocket-version: 13\\r\\n'\n\x20             \
             b'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n' % n)\n\x20   f = \
             s.makefile('rb')\n\x20   while f.readline() != b'\\r\\n': pass\n\x20   seen, text = \
             [], b''\n\x20   while h := f.read(2):\n\x20       seen.append((h[0], h[1])); text += \
             f.read(h[1])\n\x20       if h[0] & 0x80: s.sendall(b'\\x81\\x81abcdX')\n\x20   \
             print(n, seen); print(text.decode())\nfor n in range({count}): run(n)\n"
        );
        let outcome = lab.sandbox(&policy(lab)).resolve(HOST, origin.address()).python(&program);
        let text = outcome.success().out();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 * count, "{text}");
        let trace = |number: usize| lines[2 * number].split_once(' ').unwrap().1.to_owned();
        for (number, guess) in guesses(lab.key(), "literal").iter().enumerate() {
            let said = lines[2 * number + 1];
            let whole: String = messages(guess).iter().map(|(_, text)| text.as_str()).collect();
            // A ping between the frames of a message may overtake bytes held in it.
            let sorted = |text: &str| {
                let mut all: Vec<char> = text.chars().collect();
                all.sort_unstable();
                all
            };
            assert_eq!(sorted(said), sorted(&whole));
            assert_eq!(trace(number), trace(0), "{guess}");
        }
    });
}

#[test]
fn a_grpc_message_waits_for_nothing_and_is_cut_as_any_other() {
    Lab::test(|lab| {
        let key = lab.key().to_owned();
        let origin = lab.talking(move |head, mut stream| {
            let key = key.clone();
            async move {
                let number =
                    head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                let guess = guesses(&key, "literal").swap_remove(number.parse().unwrap());
                let head = "HTTP/1.1 200 OK\r\ncontent-type: \
                            application/grpc\r\ntransfer-encoding: chunked\r\nconnection: \
                            close\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                for text in ["hello", &guess, ".", &format!("x{guess}"), "."] {
                    let message =
                        [&[0, 0, 0, 0, u8::try_from(text.len()).unwrap()][..], text.as_bytes()]
                            .concat();
                    let chunk =
                        [format!("{:x}\r\n", message.len()).as_bytes(), &message, b"\r\n"].concat();
                    stream.write_all(&chunk).await?;
                    stream.flush().await?;
                    // As in a conversation, the next message answers one from the sandbox: here a
                    // chunk of one byte.
                    stream.read_exact(&mut [0; 6]).await?;
                }
                stream.write_all(b"0\r\n\r\n").await?;
                stream.shutdown().await
            }
        });
        let count = guesses(lab.key(), "literal").len();
        let program = format!(
            "import socket, ssl\n\
             def run(n):\n\
             \x20   s = socket.create_connection(('{HOST}', 443))\n\
             \x20   s = ssl.create_default_context().wrap_socket(s, server_hostname='{HOST}')\n\
             \x20   s.settimeout(20)\n\
             \x20   s.sendall(b'POST /%d HTTP/1.1\\r\\nhost: {HOST}\\r\\nte: trailers\\r\\n\
             content-type: application/grpc\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n' % n)\n\
             \x20   f = s.makefile('rb')\n\
             \x20   while f.readline() != b'\\r\\n': pass\n\
             \x20   chunks, texts = [], []\n\
             \x20   body = b''\n\
             \x20   while length := int(f.readline(), 16):\n\
             \x20       chunks.append(length); body += f.read(length + 2)[:-2]\n\
             \x20       while len(body) >= 5 and len(body) >= 5 + body[4]:\n\
             \x20           texts.append(body[5:5 + body[4]].decode()); body = body[5 + body[4]:]\n\
             \x20           s.sendall(b'1\\r\\nx\\r\\n')\n\
             \x20   print(chunks); print(' '.join(texts))\n\
             for n in range({count}): run(n)\n"
        );
        let outcome = lab.sandbox(&policy(lab)).resolve(HOST, origin.address()).python(&program);
        let text = outcome.success().out();
        let lines: Vec<&str> = text.lines().collect();
        for (number, guess) in guesses(lab.key(), "literal").iter().enumerate() {
            assert_eq!(lines[2 * number], lines[0], "{guess}");
            assert_eq!(lines[2 * number + 1], format!("hello {guess} . x{guess} ."));
        }
    });
}

/// 33 kB of which the first three thousand compress well or not at all.
fn compressible(well: bool) -> Vec<u8> {
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] % 64 + b'0'
    });
    let mut text: Vec<u8> = noise.take(33_000).collect();
    if well {
        text[..3000].fill(b'w');
    }
    // Long runs of letters are not held.
    text.iter_mut().step_by(20).for_each(|byte| *byte = b' ');
    text
}

#[test]
fn how_well_an_answer_compresses_is_not_seen() {
    // A client gets DATA frames as sent, but its reads may cut chunks of HTTP/1.1 further.
    Lab::test(|lab| {
        let origin = lab.talking(|head, mut stream| async move {
            let mut encoder = GzipEncoder::new(Vec::new());
            encoder.write_all(&compressible(head.contains("/well"))).await?;
            encoder.shutdown().await?;
            let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: \
                        chunked\r\nconnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            for piece in encoder.into_inner().chunks(1000) {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                stream.write_all(&chunk).await?;
                stream.flush().await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
            stream.shutdown().await
        });
        lab.unordered();
        let plan = Plan::https(HOST, "h2").ask("GET", "/well").ask("GET", "/badly");
        let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
        let answers = sandbox.fetch(&plan).remove(0).answers;
        for (answer, well) in answers.iter().zip([true, false]) {
            assert_eq!(answer.body.as_bytes(), compressible(well));
        }
        assert!(answers[0].pieces.len() > 8, "{:?}", answers[0].pieces);
        assert_eq!(answers[0].pieces, answers[1].pieces);
    });
}
