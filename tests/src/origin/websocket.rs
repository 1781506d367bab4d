//! A WebSocket (RFC 6455) that echoes, or answers as a model's API, for unfragmented messages only.

use std::io;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::Shared;
use super::body::Frames;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest message either side accepts.
const MESSAGE: u64 = 1 << 20;

/// The opcode of a text message.
pub const TEXT: u8 = 1;
/// The opcode of a close.
pub const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The value of `sec-websocket-accept` that answers `key`.
pub fn accept(key: &str) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    STANDARD.encode(hash.as_ref())
}

pub(super) fn upgrade(request: Request<Incoming>, shared: &Shared) -> Response<Frames> {
    let headers = request.headers();
    let head =
        super::record::pairs(headers).into_iter().map(|(name, value)| format!("{name}: {value}\n"));
    let head: String = head.collect();
    let Some(key) = headers.get("sec-websocket-key").and_then(|key| key.to_str().ok()) else {
        let mut response = Response::new(Frames::full("not a WebSocket handshake\n"));
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return response;
    };
    let accept = http::HeaderValue::from_str(&accept(key)).expect("base64 is visible ASCII");
    let (host, path) = (super::answer::host(&request), request.uri().path().to_owned());
    let mut heard = shared.said.subscribe();
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let answers = |message: &[u8]| super::api::messages(&host, &path, message);
            let _ = echo(TokioIo::new(upgraded), head, answers, &mut heard).await;
        }
    });
    let mut response = Response::new(Frames::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert("connection", http::HeaderValue::from_static("upgrade"));
    fields.insert("upgrade", http::HeaderValue::from_static("websocket"));
    fields.insert("sec-websocket-accept", accept);
    response
}

/// Echoes messages until the peer closes, but for those that an API answers. Answers the message
/// `head` with the fields of the handshake, and `said` with what the test says, each piece a
/// message.
async fn echo(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: String,
    answers: impl Fn(&[u8]) -> Option<Vec<String>>,
    heard: &mut watch::Receiver<Vec<Bytes>>,
) -> io::Result<()> {
    loop {
        let (opcode, payload) = read_message(&mut stream).await?;
        if let Some(messages) = answers(&payload) {
            for message in messages {
                write_message(&mut stream, TEXT, message.as_bytes(), None).await?;
            }
            continue;
        }
        match opcode {
            TEXT if payload == b"head" => {
                write_message(&mut stream, TEXT, head.as_bytes(), None).await?
            }
            TEXT if payload == b"said" => {
                let mut number = 0;
                while let Some(piece) = super::answer::hear(heard, number).await {
                    write_message(&mut stream, TEXT, &piece, None).await?;
                    number += 1;
                }
            }
            PING => write_message(&mut stream, PONG, &payload, None).await?,
            CLOSE => {
                write_message(&mut stream, CLOSE, &payload, None).await?;
                return stream.shutdown().await;
            }
            _ => write_message(&mut stream, opcode, &payload, None).await?,
        }
    }
}

/// Reads one message: opcode and payload, unmasked.
///
/// # Errors
/// If the stream fails or a message is longer than a mebibyte.
pub async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    if length > MESSAGE {
        return Err(io::Error::other("message too long"));
    }
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[index % 4];
    }
    Ok((first & 0x0f, payload))
}

/// Writes one message; clients must mask, servers must not.
///
/// # Errors
/// If the stream fails.
pub async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    opcode: u8,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) -> io::Result<()> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => frame.push(masked | short as u8),
        medium @ 126..=0xffff => {
            frame.push(masked | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(masked | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    stream.write_all(&frame).await?;
    stream.flush().await
}
