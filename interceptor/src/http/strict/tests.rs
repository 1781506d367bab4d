use super::*;
use tokio::io::AsyncReadExt as _;

const CEILINGS: Ceilings =
    Ceilings { head_bytes: 16 * 1024, headers: 100, time: Duration::from_secs(5) };

/// What the filter passes of `bytes` when they arrive in pieces of `piece` bytes, and its refusal.
async fn filtered(bytes: &[u8], piece: usize) -> (io::Result<Vec<u8>>, Option<Refused>) {
    let mut mock = pieces(bytes, piece);
    let (mut strict, notes) = Strict::new(&mut mock, BytesMut::new(), || CEILINGS);
    let mut out = Vec::new();
    let result = strict.read_to_end(&mut out).await;
    (result.map(|_| out), notes.refused())
}

/// A stream that returns `bytes` in pieces.
fn pieces(bytes: &[u8], piece: usize) -> Pieces {
    Pieces { bytes: bytes.to_vec(), at: 0, piece }
}

struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = (self.at + self.piece.min(out.remaining())).min(self.bytes.len());
        out.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn each_head_is_checked_against_the_current_limits() {
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(2));
    let now = most.clone();
    let ceilings =
        move || Ceilings { headers: now.load(std::sync::atomic::Ordering::Relaxed), ..CEILINGS };
    let (mut client, server) = tokio::io::duplex(1024);
    let (mut strict, notes) = Strict::new(server, BytesMut::new(), ceilings);
    let head = b"GET / HTTP/1.1\r\nhost: x\r\na: 1\r\n\r\n";
    for (allowed, passes) in [(2, true), (3, true), (2, true), (1, false)] {
        most.store(allowed, std::sync::atomic::Ordering::Relaxed);
        tokio::io::AsyncWriteExt::write_all(&mut client, head).await.unwrap();
        let mut read = vec![0; 1024];
        let count = strict.read(&mut read).await.unwrap();
        assert_eq!(read[..count] == head[..], passes, "{allowed}");
        assert_eq!(notes.refused().is_none(), passes, "{allowed}");
    }
}

#[tokio::test]
async fn h5_well_formed_requests_pass_unchanged_however_they_are_cut() {
    let requests: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nx:\r\ny:\t z \r\n\r\n\
          GET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\
          GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
          GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
          1\r\n\n\r\n00000A\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    for request in requests {
        for piece in 1..=request.len() {
            let (out, refused) = filtered(request, piece).await;
            assert_eq!(refused, None, "{} cut at {piece}", request.escape_ascii());
            assert_eq!(out.unwrap(), *request, "{} cut at {piece}", request.escape_ascii());
        }
    }
}

#[tokio::test]
async fn one_empty_line_before_a_request_is_skipped_and_a_second_refused_however_cut() {
    let request = b"\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let both = [&request[..], request].concat();
    let two = [b"\r\n", &request[..]].concat();
    for piece in 1..=both.len() {
        let (out, refused) = filtered(&both, piece).await;
        assert_eq!(
            (out.unwrap(), refused),
            ([&request[2..], &request[2..]].concat(), None),
            "{piece}"
        );
        let (out, refused) = filtered(&two, piece).await;
        assert_eq!(out.unwrap(), STAND_IN, "{piece}");
        assert!(refused.is_some(), "{piece}");
    }
}

#[tokio::test]
async fn h1_h3_h6_an_ambiguous_head_is_refused_and_none_of_it_passes() {
    let heads: &[(&[u8], u16)] = &[
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\
              transfer-encoding: chunked\r\n\r\n",
            400,
        ),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\
              content-length: 1\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\
              transfer-encoding: chunked\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n host: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nhost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx\xffy: b\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.32\r\nhost: a\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / http/1.1\r\nhost: a\r\n\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"CONNECT a:443: HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"INTERCEPTOR-REFUSED / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ];
    for (head, status) in heads {
        for piece in [1, 7, head.len()] {
            let (out, refused) = filtered(head, piece).await;
            assert_eq!(out.unwrap(), STAND_IN, "{}", head.escape_ascii());
            let refused = refused.unwrap_or_else(|| panic!("not refused: {}", head.escape_ascii()));
            assert_eq!(refused.status, *status, "{}", head.escape_ascii());
        }
    }
}

#[tokio::test]
async fn every_control_byte_is_refused_in_every_part_of_a_head() {
    let parts: [(&[u8], &[u8]); 4] = [
        (b"GE", b"T / HTTP/1.1\r\nhost: a\r\n\r\n"),
        (b"GET /a", b"b HTTP/1.1\r\nhost: a\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nna", b"me: v\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nname: va", b"lue\r\n\r\n"),
    ];
    for (before, after) in parts {
        for byte in (0..0x20_u8).chain([0x7f]).filter(|byte| *byte != b'\t') {
            let head = [before, &[byte], after].concat();
            let (out, refused) = filtered(&head, head.len()).await;
            assert!(refused.is_some(), "0x{byte:02x} passed in {}", head.escape_ascii());
            assert_eq!(out.unwrap(), STAND_IN);
        }
    }
}

#[tokio::test]
async fn h1_a_malformed_chunked_body_ends_the_connection() {
    let bodies: &[&[u8]] = &[
        b"5;ext=1\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhelloX\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"0\r\nbad trailer: x\r\n\r\n",
        b"0\r\n: x\r\n\r\n",
    ];
    for body in bodies {
        let mut request =
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        request.extend_from_slice(body);
        let (out, _) = filtered(&request, request.len()).await;
        assert!(out.is_err(), "{} passed", body.escape_ascii());
    }
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused_as_such() {
    let large =
        [b"GET / HTTP/1.1\r\nhost: a\r\nx: ".as_slice(), &vec![b'y'; 20_000], b"\r\n\r\n"].concat();
    assert_eq!(filtered(&large, 1000).await.1.unwrap().status, 431);
    let endless = [b"GET / HTTP/1.1\r\nhost: a\r\nx: ".as_slice(), &vec![b'y'; 20_000]].concat();
    assert_eq!(filtered(&endless, 1000).await.1.unwrap().status, 431);
    let many =
        [b"GET / HTTP/1.1\r\nhost: a\r\n".as_slice(), &b"x: y\r\n".repeat(101), b"\r\n"].concat();
    assert_eq!(filtered(&many, 1000).await.1.unwrap().status, 431);
}

#[tokio::test]
async fn h10_after_a_declined_upgrade_the_next_bytes_are_a_request_again() {
    let upgrade = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    for (outcome, passes) in [(Upgrade::Declined, false), (Upgrade::Switched, true)] {
        let mut mock = pieces(&[upgrade.as_slice(), b"not http\r\n\r\n"].concat(), 1000);
        let (mut strict, notes) = Strict::new(&mut mock, BytesMut::new(), || CEILINGS);
        let mut head = vec![0; upgrade.len()];
        strict.read_exact(&mut head).await.unwrap();
        notes.upgrade(outcome);
        let mut rest = Vec::new();
        strict.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest == b"not http\r\n\r\n", passes, "{outcome:?}: {}", rest.escape_ascii());
        assert_eq!(notes.refused().is_none(), passes);
    }
}
