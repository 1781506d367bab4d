//! Proves from inside, before anything runs, that enforcement works (attack K17): forbidden traffic
//! is refused at once, and intercepted traffic reaches the proxy.
//!
//! Without the kernel programs every part fails: a private network namespace has nowhere to go,
//! which is a different error than a refusal, and a shared one would send the datagram.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Timeout for the proxy's answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than any token.
const MAX_ANSWER: u64 = 256;
/// The discard port (RFC 863) of a documentation address (RFC 3849), where a leaked datagram does
/// no harm.
const FORBIDDEN6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9);

/// The failed part, and how it failed.
#[derive(Debug, thiserror::Error)]
#[error(
    "self-test failed: {what}. The sandbox was not started, because its egress would not be under \
     control"
)]
pub(crate) struct Failed {
    what: String,
}

fn failed(what: String) -> Failed {
    Failed { what }
}

/// Tests this process's network namespace and cgroup. `probe` is the address at which the proxy
/// answers with `token`.
pub(crate) fn run(probe: SocketAddr, token: &str, ipv6: bool) -> Result<(), Failed> {
    refused_datagram(probe)?;
    intercepted(probe, token)?;
    if let SocketAddr::V4(v4) = probe {
        intercepted(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()), token).or_else(
            |error| {
                // Without IPv6 there are no mapped addresses either.
                if ipv6 { Err(error) } else { Ok(()) }
            },
        )?;
    }
    if ipv6 {
        refused_datagram(FORBIDDEN6)?;
    }
    refused_protocol()
}

/// A datagram to a port that is not DNS must be refused with EPERM, unconnected and connected.
fn refused_datagram(to: SocketAddr) -> Result<(), Failed> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)
        .map_err(|error| failed(format!("a UDP socket could not be made: {error}")))?;
    let attempts = [
        ("sent", socket.send_to(b"interceptor self-test", to).map(drop)),
        ("connected", socket.connect(to)),
    ];
    for (verb, outcome) in attempts {
        match outcome {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(error) => {
                return Err(failed(format!(
                    "UDP {verb} to {to} was not refused with EPERM but with: {error}"
                )));
            }
            Ok(()) => return Err(failed(format!("UDP could be {verb} to {to}"))),
        }
    }
    Ok(())
}

/// A TCP connection to an unassigned address must reach the proxy, which sends the token.
fn intercepted(to: SocketAddr, token: &str) -> Result<(), Failed> {
    let describe = |error: io::Error| {
        failed(format!("a TCP connection to {to} did not reach the proxy: {error}"))
    };
    let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(describe)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(describe)?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).map_err(describe)?;
    if answer.trim_end() == token {
        Ok(())
    } else {
        Err(failed(format!(
            "a TCP connection to {to} was answered by something other than the proxy"
        )))
    }
}

/// Creating a socket for a protocol that the connect hooks cannot see must fail.
fn refused_protocol() -> Result<(), Failed> {
    match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::EPROTONOSUPPORT)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(format!("a raw socket was not refused but failed with: {error}"))),
        Ok(_) => Err(failed("a raw socket could be created".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    const PROBE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 19, 255, 254)), 9);

    #[test]
    fn k17_without_the_kernels_programs_the_self_test_fails() {
        let outcome = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            super::super::loopback::up().unwrap();
            [
                run(PROBE, "token", true),
                refused_datagram(FORBIDDEN6),
                intercepted(PROBE, "token"),
                refused_protocol(),
            ]
            .map(|part| part.unwrap_err().to_string())
        })
        .join()
        .unwrap();
        assert!(
            outcome.iter().all(|message| message.starts_with("self-test failed")),
            "{outcome:?}"
        );
    }

    #[test]
    fn k17_an_answer_without_the_token_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["right\n", "wrong\n", ""] {
                listener.accept().unwrap().0.write_all(answer.as_bytes()).unwrap();
            }
        });
        intercepted(address, "right").unwrap();
        assert!(intercepted(address, "right").is_err());
        assert!(intercepted(address, "right").is_err());
        server.join().unwrap();
    }
}
