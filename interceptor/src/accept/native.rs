//! Refusals in protocols other than HTTP and TLS that have a place for a reason. Clients of all
//! other protocols get a reset.
//!
//! | client | what it gets |
//! | --- | --- |
//! | SSH | `SSH_MSG_DISCONNECT` (RFC 4253 section 11.1), before any key exchange |
//! | PostgreSQL | `ErrorResponse`, also within TLS (<https://www.postgresql.org/docs/current/protocol-flow.html>) |
//! | Redis | an error (<https://redis.io/docs/latest/develop/reference/protocol-spec/>) |
//! | Git | an error line (<https://git-scm.com/docs/gitprotocol-pack>) |
//! | SMTP, FTP, POP3, IMAP, MySQL | a refusal as greeting: the server speaks first, so the port decides |

use std::io;
use std::time::Duration;

use interceptor_policy::Host;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::classify::is_git;
use super::reset::reset;
use crate::proxy::Sandbox;

/// How long telling the client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long and how much further input is read: closing early would lose the message.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;
/// Maximum bytes of a message: one line.
const LONGEST: usize = 400;

/// A connection that is refused.
pub(super) struct RefusedConnection<'a> {
    /// The sandbox it belongs to.
    pub(super) sandbox: &'a Sandbox,
    /// Where it was going.
    pub(super) host: &'a Host,
    /// The port there.
    pub(super) port: u16,
    /// The first bytes the client sent.
    pub(super) first: &'a [u8],
    /// Why.
    pub(super) message: &'a str,
}

/// Whether servers on this port speak first, in a known format.
pub(super) fn server_speaks_first(port: u16) -> bool {
    greeting(port, "").is_some()
}

/// Tells the client why, if its protocol has a place for it, and closes.
pub(super) async fn refuse(refused: &RefusedConnection<'_>, mut stream: TcpStream) {
    match tokio::time::timeout(PATIENCE, tell(refused, &mut stream)).await {
        Ok(Ok(true)) => {}
        _ => return reset(stream),
    }
    if stream.shutdown().await.is_ok() {
        let _ = tokio::time::timeout(LINGER, take(&mut stream)).await;
    }
}

async fn tell(refused: &RefusedConnection<'_>, stream: &mut TcpStream) -> io::Result<bool> {
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

/// Reads to the end, within a limit.
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

/// The reply to a client that spoke first.
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

/// What a client that waits for a greeting gets instead.
fn greeting(port: u16, message: &str) -> Option<Vec<u8>> {
    let text = match port {
        // "No SMTP service here", with the enhanced code for policy refusals (RFC 5321, RFC 3463).
        25 | 587 | 2525 => format!("554 5.7.1 {message}\r\n"),
        // "Not logged in" (RFC 959). curl reads 421, "service not available", as a time-out.
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
    // At least four bytes of padding, so that with the five bytes before it the packet's length is
    // a multiple of eight.
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
    let length = (3 + message.len()) as u32; // at most LONGEST plus three
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
    /// It names its user.
    Startup,
}

impl Postgres {
    fn read(first: &[u8]) -> Option<Postgres> {
        let (length, rest) = first.split_first_chunk()?;
        let code = u32::from_be_bytes(*rest.first_chunk()?);
        match (u32::from_be_bytes(*length), code) {
            (8, 80_877_103) => Some(Postgres::Tls),
            (8, 80_877_104) => Some(Postgres::Gss),
            // Version 3, any minor version.
            (9..=10_000, code) if code >> 16 == 3 => Some(Postgres::Startup),
            _ => None,
        }
    }
}

/// Accepts TLS if the client asks, since many require it, and refuses at the startup message,
/// before the client has sent a password.
async fn postgres(
    refused: &RefusedConnection<'_>,
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

/// The type of the next message.
async fn next(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Option<Postgres>> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    Ok(Postgres::read(&head))
}

fn error_response(message: &str) -> Vec<u8> {
    // Severity twice (localised and not), the SQLSTATE for a rejected connection, the message.
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
    fn a_client_that_speaks_first_is_recognised_by_its_bytes() {
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
    fn an_ssh_packet_is_complete_for_every_message_length() {
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
    fn postgres_is_recognised_by_its_first_message() {
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
    fn no_message_breaks_out_of_its_line() {
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
