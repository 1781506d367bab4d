//! Refusals in the words of protocols that are neither HTTP nor TLS but have a place for a reason.
//! A client of any other is reset.
//!
//! | client | what it is told |
//! | --- | --- |
//! | SSH | `SSH_MSG_DISCONNECT` (RFC 4253 section 11.1), before any key exchange |
//! | PostgreSQL | `ErrorResponse`, also within TLS (<https://www.postgresql.org/docs/current/protocol-flow.html>) |
//! | Redis | an error (<https://redis.io/docs/latest/develop/reference/protocol-spec/>) |
//! | Git | an error line (<https://git-scm.com/docs/gitprotocol-pack>) |
//! | SMTP, FTP, POP3, IMAP, MySQL | a greeting that refuses: the server speaks first, so the port tells |

use std::io;
use std::time::Duration;

use interceptor_policy::Host;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::classify::is_git;
use super::connection::reset;
use crate::proxy::Sandbox;

/// How long a client has to listen.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what it still sends is taken, and how much: closing under it would lose what it was
/// told.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;
/// The most of a message that is told, in bytes: one line.
const LONGEST: usize = 400;

/// A connection that is refused.
pub(super) struct Refused<'a> {
    /// Whose it is.
    pub(super) sandbox: &'a Sandbox,
    /// Where it was going.
    pub(super) host: &'a Host,
    /// The port there.
    pub(super) port: u16,
    /// What it said.
    pub(super) first: &'a [u8],
    /// Why.
    pub(super) message: &'a str,
}

/// Whether the servers at this port speak first, and how they would refuse is known.
pub(super) fn server_speaks_first(port: u16) -> bool {
    greeting(port, "").is_some()
}

/// Tells the client why, where its protocol has a place for it, and closes.
pub(super) async fn refuse(refused: &Refused<'_>, mut stream: TcpStream) {
    match tokio::time::timeout(PATIENCE, tell(refused, &mut stream)).await {
        Ok(Ok(true)) => {}
        _ => return reset(stream),
    }
    if stream.shutdown().await.is_ok() {
        let _ = tokio::time::timeout(LINGER, take(&mut stream)).await;
    }
}

async fn tell(refused: &Refused<'_>, stream: &mut TcpStream) -> io::Result<bool> {
    let message = line(refused.message);
    let words = match refused.first {
        [] => greeting(refused.port, &message),
        first => match Postgres::read(first) {
            Some(request) => return postgres(refused, stream, request, &message).await,
            None => reply(first, &message),
        },
    };
    let Some(words) = words else { return Ok(false) };
    stream.write_all(&words).await?;
    Ok(true)
}

/// Reads to the end, within a bound.
async fn take(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut taken = 0;
    while taken < LINGER_BYTES {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => taken += count,
        }
    }
    Ok(())
}

/// One line of visible ASCII: nothing in it ends a line, a string or a packet.
fn line(message: &str) -> String {
    let visible = |character| if matches!(character, ' '..='~') { character } else { '?' };
    format!("interceptor: {message}").chars().map(visible).take(LONGEST).collect()
}

/// What a client that spoke first is answered.
fn reply(first: &[u8], message: &str) -> Option<Vec<u8>> {
    if first.starts_with(b"SSH-2.0-") || first.starts_with(b"SSH-1.99-") {
        return Some(ssh(message));
    }
    if is_git(first) {
        return Some(git(message));
    }
    // An array of bulk strings.
    let rest = first.strip_prefix(b"*")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_redis = digits > 0 && rest[digits..].starts_with(b"\r\n$");
    is_redis.then(|| format!("-ERR {message}\r\n").into_bytes())
}

/// What a client that waits for a greeting gets instead of one.
fn greeting(port: u16, message: &str) -> Option<Vec<u8>> {
    let text = match port {
        // "No SMTP service here", and the class of what policy refuses (RFC 5321, RFC 3463).
        25 | 587 | 2525 => format!("554 5.7.1 {message}\r\n"),
        // "Not logged in" (RFC 959): 421, "service not available", is read as a time-out by curl.
        21 => format!("530 {message}\r\n"),
        110 => format!("-ERR {message}\r\n"),
        143 => format!("* BYE {message}\r\n"),
        3306 => return Some(mysql(message)),
        _ => return None,
    };
    Some(text.into_bytes())
}

/// A pkt-line, whose length counts its own four digits (gitprotocol-common(5)).
fn git(message: &str) -> Vec<u8> {
    let line = format!("ERR {message}");
    format!("{:04x}{line}", 4 + line.len()).into_bytes()
}

/// An identification and one packet: length, padding, payload (RFC 4253 section 6).
fn ssh(message: &str) -> Vec<u8> {
    /// `SSH_DISCONNECT_HOST_NOT_ALLOWED_TO_CONNECT`
    const NOT_ALLOWED: u32 = 1;
    let mut payload = vec![1]; // SSH_MSG_DISCONNECT
    payload.extend(NOT_ALLOWED.to_be_bytes());
    for text in [message, ""] {
        payload.extend((text.len() as u32).to_be_bytes()); // at most LONGEST
        payload.extend(text.as_bytes());
    }
    // At least four bytes of padding, to a multiple of eight with the five that stand before.
    let padding = 4 + (8 - (5 + payload.len() + 4) % 8) % 8;
    let mut bytes = b"SSH-2.0-Interceptor\r\n".to_vec();
    bytes.extend(((1 + payload.len() + padding) as u32).to_be_bytes());
    bytes.push(padding as u8); // at most 11
    bytes.extend(payload);
    bytes.extend(vec![0; padding]);
    bytes
}

/// An `ERR_Packet` in place of the handshake; it has no SQL state yet.
fn mysql(message: &str) -> Vec<u8> {
    /// `ER_HOST_NOT_PRIVILEGED`
    const NOT_PRIVILEGED: u16 = 1130;
    let length = (3 + message.len()) as u32; // at most LONGEST and three
    let mut bytes = length.to_le_bytes()[..3].to_vec();
    bytes.extend([0, 0xff]);
    bytes.extend(NOT_PRIVILEGED.to_le_bytes());
    bytes.extend(message.as_bytes());
    bytes
}

/// The first message of a PostgreSQL client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Postgres {
    /// It asks for TLS.
    Tls,
    /// It asks for GSSAPI encryption.
    Gss,
    /// It says who it is.
    Startup,
}

impl Postgres {
    fn read(first: &[u8]) -> Option<Postgres> {
        let (length, rest) = first.split_first_chunk()?;
        let code = u32::from_be_bytes(*rest.first_chunk()?);
        match (u32::from_be_bytes(*length), code) {
            (8, 80_877_103) => Some(Postgres::Tls),
            (8, 80_877_104) => Some(Postgres::Gss),
            // Version 3, with any minor one.
            (9..=10_000, code) if code >> 16 == 3 => Some(Postgres::Startup),
            _ => None,
        }
    }
}

/// Agrees to TLS where the client asks, since many demand it, and refuses whoever then says who it
/// is: before it has sent a password.
async fn postgres(
    refused: &Refused<'_>,
    stream: &mut TcpStream,
    mut request: Postgres,
    message: &str,
) -> io::Result<bool> {
    if request == Postgres::Gss {
        stream.write_all(b"N").await?;
        let Some(next) = next(stream).await? else { return Ok(false) };
        request = next;
    }
    match request {
        Postgres::Gss => Ok(false),
        Postgres::Startup => {
            stream.write_all(&error_response(message)).await?;
            Ok(true)
        }
        Postgres::Tls => {
            let Ok(config) = refused.sandbox.certificates.get(refused.host) else {
                return Ok(false);
            };
            let mut config = ServerConfig::clone(&config);
            config.alpn_protocols = vec![b"postgresql".to_vec()];
            stream.write_all(b"S").await?;
            let mut inside = TlsAcceptor::from(std::sync::Arc::new(config)).accept(stream).await?;
            if next(&mut inside).await? != Some(Postgres::Startup) {
                return Ok(false);
            }
            inside.write_all(&error_response(message)).await?;
            inside.shutdown().await?;
            Ok(true)
        }
    }
}

/// The next message, as far as it tells what it is.
async fn next(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Option<Postgres>> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    Ok(Postgres::read(&head))
}

fn error_response(message: &str) -> Vec<u8> {
    // Severity twice (translated, and not), the SQL state of a server that rejects, the message.
    let fields = format!("SFATAL\0VFATAL\0C08004\0M{message}\0\0");
    let mut bytes = b"E".to_vec();
    bytes.extend((4 + fields.len() as u32).to_be_bytes());
    bytes.extend(fields.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spoke_first_is_known_by_what_it_said() {
        for (first, start) in [
            (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], Some("SSH-2.0-")),
            (b"*1\r\n$4\r\nPING\r\n", Some("-ERR no\r\n")),
            (b"*12\r\n$4\r\nPING\r\n", Some("-ERR no\r\n")),
            (b"0032git-upload-pack /x\0host=evil.test\0", Some("000aERR no")),
            (b"0032git", None),
            (b"003git-upload-pack /x\0", None),
            (b"*", None),
            (b"*1", None),
            (b"* 1\r\n$4", None),
            (b"*x\r\n$4", None),
            (b"SSH-1.5-old\r\n", None),
            (b"\x05\x01\x00", None),
            (b"EHLO example.com\r\n", None),
        ] {
            let said = reply(first, "no").map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            assert_eq!(said.is_some(), start.is_some(), "{}", first.escape_ascii());
            assert!(said.is_none_or(|said| said.starts_with(start.unwrap())));
        }
    }

    #[test]
    fn an_ssh_packet_is_whole_for_every_length_of_message() {
        for length in 0..64 {
            let bytes = ssh(&"x".repeat(length));
            let packet = bytes.strip_prefix(b"SSH-2.0-Interceptor\r\n").unwrap();
            let (size, rest) = packet.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_be_bytes(*size) as usize, rest.len());
            assert_eq!(packet.len() % 8, 0, "RFC 4253 section 6");
            let padding = usize::from(rest[0]);
            assert!((4..16).contains(&padding));
            assert_eq!(rest.len(), 1 + 1 + 4 + 4 + length + 4 + padding);
        }
    }

    #[test]
    fn postgres_is_known_by_its_first_message() {
        let message = |length: u32, code: u32| [length.to_be_bytes(), code.to_be_bytes()].concat();
        assert_eq!(Postgres::read(&message(8, 80_877_103)), Some(Postgres::Tls));
        assert_eq!(Postgres::read(&message(8, 80_877_104)), Some(Postgres::Gss));
        assert_eq!(Postgres::read(&message(42, 0x0003_0000)), Some(Postgres::Startup));
        assert_eq!(Postgres::read(&message(42, 0x0003_0002)), Some(Postgres::Startup));
        for other in
            [message(16, 80_877_102), message(8, 0x0003_0000), message(42, 0x0002_0000), vec![0; 7]]
        {
            assert_eq!(Postgres::read(&other), None, "{other:?}");
        }
    }

    #[test]
    fn no_message_breaks_the_line_it_is_told_in() {
        let hostile = line("a\r\nb\0c\u{1b}[2J é");
        assert!(hostile.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{hostile}");
        assert!(line(&"é".repeat(10_000)).len() <= LONGEST);
        let error = error_response("no");
        assert_eq!(u32::from_be_bytes(error[1..5].try_into().unwrap()) as usize, error.len() - 1);
        let packet = mysql("no");
        assert_eq!((packet[0] as usize, packet[3], packet[4]), (packet.len() - 4, 0, 0xff));
        for port in [21, 25, 110, 143, 587, 2525] {
            assert!(greeting(port, "no").unwrap().ends_with(b" no\r\n"), "{port}");
        }
        assert!(server_speaks_first(3306) && !server_speaks_first(443) && !server_speaks_first(22));
    }
}
