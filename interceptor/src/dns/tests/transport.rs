//! Datagrams and streams.

use super::*;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn over_udp_a_client_that_vanishes_or_floods_does_not_stop_the_resolver() {
    let lab = Lab::new(ALLOWING).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(Arc::clone(&lab.server).serve_udp(socket, CancellationToken::new()));
    let plain = query(&[b"api", b"example", b"com"], 1);
    for _ in 0..20 {
        // Gone before the answer comes: the kernel reports that to the resolver's socket.
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        gone.send_to(&plain, address).await.unwrap();
    }
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for size in (0..5000).map(|number| number % 6000) {
        let _ = flood.send_to(&vec![0xff; size], address).await;
        let _ = flood.send_to(&plain, address).await;
    }
    let answer = ask_udp(address, &plain).await;
    synthetic(&lab, &answer, "api.example.com");
    assert!(!serving.is_finished());
    serving.abort();
}

/// Asks up to ten times, as a resolver does.
async fn ask_udp(address: SocketAddr, query: &[u8]) -> Message {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..10 {
        client.send(query).await.unwrap();
        if let Ok(length) =
            tokio::time::timeout(Duration::from_secs(1), client.recv(&mut buffer)).await
        {
            return Message::from_vec(&buffer[..length.unwrap()]).unwrap();
        }
    }
    panic!("no answer");
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

async fn read_framed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Message {
    let length = stream.read_u16().await.unwrap();
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await.unwrap();
    Message::from_vec(&message).unwrap()
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_flagged_and_comes_whole_over_tcp() {
    let lab = Lab::new(ALLOWING).await;
    let texts = query(&[b"api", b"example", b"com"], 16);
    for payload in [512, 1232, 65_535] {
        let message = with_options(texts.clone(), payload, &[]);
        let answer = lab.server.answer_udp(&message).await.unwrap().message;
        assert!(answer.len() <= 1232);
        assert!(Message::from_vec(&answer).unwrap().metadata.truncation, "{payload}");
    }
    let (mut client, stream) = tokio::io::duplex(65_536);
    let serving = tokio::spawn(Arc::clone(&lab.server).serve_tcp(stream));
    client.write_all(&framed(&texts)).await.unwrap();
    let answer = read_framed(&mut client).await;
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 40);
    drop(client);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn over_tcp_queries_are_pipelined_in_whatever_pieces_they_come() {
    let lab = Lab::new(ALLOWING).await;
    let (client, stream) = tokio::io::duplex(1024);
    let serving = tokio::spawn(Arc::clone(&lab.server).serve_tcp(stream));
    let mut bytes = Vec::new();
    for id in 0..100_u16 {
        let mut message = query(&[b"api", b"example", b"com"], if id % 2 == 0 { 1 } else { 28 });
        message[..2].copy_from_slice(&id.to_be_bytes());
        bytes.extend(framed(&message));
    }
    let (mut reader, mut writer) = tokio::io::split(client);
    let writing = tokio::spawn(async move {
        for piece in bytes.chunks(7) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut ids = Vec::new();
    for _ in 0..100 {
        let answer = read_framed(&mut reader).await;
        assert_eq!(addresses(&answer).len(), 1);
        ids.push(answer.metadata.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..100).collect::<Vec<u16>>());
    writing.await.unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn x4_one_tcp_connection_is_bounded_in_size_number_and_silence() {
    let lab = Lab::new(r#"{"network":{"deny":["*"]}}"#).await;
    // A query that is longer than any may be ends the connection; what came before is answered.
    let (mut client, stream) = tokio::io::duplex(65_536);
    let serving = tokio::spawn(Arc::clone(&lab.server).serve_tcp(stream));
    client.write_all(&framed(&query(&[b"a", b"example"], 1))).await.unwrap();
    client.write_all(&[0xff, 0xff, 0, 0]).await.unwrap();
    read_framed(&mut client).await;
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    serving.await.unwrap().unwrap();
    // The thousandth query is the last.
    let (client, stream) = tokio::io::duplex(65_536);
    let serving = tokio::spawn(Arc::clone(&lab.server).serve_tcp(stream));
    let (mut reader, mut writer) = tokio::io::split(client);
    let frame = framed(&query(&[b"a", b"example"], 1));
    let writing = tokio::spawn(async move {
        for _ in 0..2000 {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    let mut received = Vec::new();
    let _ = reader.read_to_end(&mut received).await;
    serving.await.unwrap().unwrap();
    writing.await.unwrap();
    let mut rest = received.as_slice();
    let mut answers = 0;
    while let Some((prefix, after)) = rest.split_first_chunk() {
        rest = &after[usize::from(u16::from_be_bytes(*prefix))..];
        answers += 1;
    }
    assert_eq!(answers, 1000);
}

#[tokio::test]
async fn x4_a_tcp_connection_that_says_nothing_is_ended() {
    let lab = Lab::new(r#"{"network":{"deny":["*"]}}"#).await;
    let (mut client, stream) = tokio::io::duplex(1024);
    let idle = Duration::from_millis(200);
    let serving = tokio::spawn(Arc::clone(&lab.server).serve_tcp_with(stream, idle));
    client.write_all(&[0]).await.unwrap();
    let start = Instant::now();
    serving.await.unwrap().unwrap();
    assert!(
        start.elapsed() >= idle && start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}
