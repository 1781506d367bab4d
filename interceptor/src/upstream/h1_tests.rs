use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::super::body::{Carriage, RequestBody};
use super::*;

/// A body that is as long as somebody sends.
#[derive(Debug)]
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

impl RequestBody for Pieces {
    fn carried(&mut self, _: Carriage) {}
}

fn request() -> (mpsc::Sender<Bytes>, Request<Outgoing>) {
    let (send, pieces) = mpsc::channel(1);
    let body: Outgoing = Box::new(Pieces(pieces));
    (send, Request::post("/").header("host", "a").body(body).unwrap())
}

fn empty() -> Request<Outgoing> {
    let (_, request) = request();
    request
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A connection, and its origin.
async fn connection() -> (H1, DuplexStream) {
    let (ours, origin) = duplex(1024);
    (H1::handshake(ours).await.unwrap(), origin)
}

/// Reads a head.
async fn head(origin: &mut DuplexStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(origin.read_u8().await.unwrap());
    }
    head
}

async fn whole(h1: &mut H1, response: Response<Incoming>) -> Bytes {
    let mut body = response.into_body();
    let mut all = Vec::new();
    loop {
        let frame = poll_fn(|cx| {
            h1.attend(cx, || {
                Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()))
            })
        });
        match frame.await {
            Some(frame) => all.extend_from_slice(frame.unwrap().data_ref().unwrap()),
            None => return all.into(),
        }
    }
}

#[tokio::test]
async fn whoever_waits_for_a_response_drives_its_connection() {
    let (mut h1, mut origin) = connection().await;
    for round in 0..3 {
        assert!(round == 0 || h1.is_ready());
        let serve = async {
            head(&mut origin).await;
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n";
            origin.write_all(response).await.unwrap();
            origin.write_all(&[b'x'; 4096]).await.unwrap();
        };
        let ask = async {
            let response = h1.send(empty(), round > 0).await.unwrap();
            whole(&mut h1, response).await
        };
        let ((), body) = tokio::join!(serve, ask);
        assert_eq!(body, [b'x'; 4096][..]);
        assert_eq!(tasks(), 0);
    }
    // What the origin does to one that is idle is noticed before it is used again.
    assert!(!h1.is_closed());
    drop(origin);
    assert!(h1.is_closed() && !h1.is_ready());
}

/// Counts how often it wakes.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_response_that_is_there_wakes_nobody() {
    let (mut h1, mut origin) = connection().await;
    for round in 0..3 {
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let mut cx = Context::from_waker(&waker);
        assert!(round == 0 || h1.is_ready());
        let response = {
            let mut sent = pin!(h1.send(empty(), round > 0));
            assert!(sent.as_mut().poll(&mut cx).is_pending());
            head(&mut origin).await;
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            origin.write_all(response).await.unwrap();
            let Poll::Ready(Ok(response)) = sent.as_mut().poll(&mut cx) else { panic!("is there") };
            response
        };
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "that the origin has written");
        let mut body = response.into_body();
        let mut frame = || {
            h1.attend(&mut cx, || {
                Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()))
            })
        };
        assert!(matches!(frame(), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(frame(), Poll::Ready(None)));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_body_that_outlasts_the_head_of_its_response_goes_on_unread() {
    let (mut h1, mut origin) = connection().await;
    let (pieces, request) = request();
    let early = async {
        head(&mut origin).await;
        origin.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
    };
    let ((), response) = tokio::join!(early, h1.send(request, false));
    let response = response.unwrap();
    assert!(!h1.is_driven(), "nobody need read the response for its request to be sent");
    for _ in 0..16 {
        pieces.send(Bytes::from_static(&[b'x'; 1024])).await.unwrap();
        let mut chunk = [0; "400\r\n".len() + 1024 + "\r\n".len()];
        origin.read_exact(&mut chunk).await.unwrap();
    }
    drop(pieces);
    origin.write_all(b"ok").await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn a_connection_that_is_dropped_closes_in_good_order() {
    let (h1, mut origin) = connection().await;
    drop(h1);
    assert_eq!(origin.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_response_may_have_many_header_fields_but_not_any_number() {
    for (sent, passes) in [(99, true), (250, true), (300, false)] {
        let (mut h1, mut origin) = connection().await;
        let fields: String = (0..sent).map(|field| format!("x-{field}: 1\r\n")).collect();
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
        let serve = async {
            head(&mut origin).await;
            // What is refused is not read to its end.
            assert!(origin.write_all(text.as_bytes()).await.is_ok() || !passes);
        };
        let ((), response) = tokio::join!(serve, h1.send(empty(), false));
        match response {
            Ok(response) => assert!(passes && response.headers().len() == sent + 1),
            Err(failed) => assert!(!passes && failed.error.is_parse_too_large()),
        }
    }
}
