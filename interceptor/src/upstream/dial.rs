//! Connecting to one of several addresses: happy eyeballs (RFC 8305).
//!
//! Dials only the given addresses, which the caller has checked.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The delay before the next attempt starts in parallel ("Connection Attempt Delay", RFC 8305
/// section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// The keep-alive delay, so that dead connections do not stay in a pool.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Why no address could be connected to.
#[derive(Debug)]
pub(super) enum DialError {
    /// Every attempt failed, each with its address.
    Failed(Vec<(SocketAddr, io::Error)>),
    /// The time limit passed first.
    Timeout,
}

/// Connects to the first of `addresses` that answers, in their order, within `limit`.
pub(super) async fn dial(
    addresses: Vec<SocketAddr>,
    limit: Duration,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let deadline = Instant::now() + limit;
    // Dropping the set aborts the attempts that lost.
    let mut attempts = JoinSet::new();
    let mut errors = Vec::new();
    for address in addresses {
        attempts.spawn(async move { (address, connect(address).await) });
        let next = (Instant::now() + STAGGER).min(deadline);
        // Until the next attempt is due: after the delay, or when no attempt is left.
        while !attempts.is_empty() {
            tokio::select! {
                Some(done) = attempts.join_next() => match done {
                    Ok((address, Ok(stream))) => return Ok((stream, address)),
                    Ok((address, Err(error))) => {
                        errors.push((address, error));
                        break;
                    }
                    Err(_) => {} // the attempt panicked; the others continue
                },
                () = sleep_until(next) => break,
            }
        }
        if Instant::now() >= deadline {
            return Err(DialError::Timeout);
        }
    }
    loop {
        match timeout_at(deadline, attempts.join_next()).await {
            Err(_) => return Err(DialError::Timeout),
            Ok(None) => return Err(DialError::Failed(errors)),
            Ok(Some(Ok((address, Ok(stream))))) => return Ok((stream, address)),
            Ok(Some(Ok((address, Err(error))))) => errors.push((address, error)),
            Ok(Some(Err(_))) => {}
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // An unused port in the ephemeral range can connect to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// Alternates IPv6 and IPv4, IPv6 first, keeping the order within each family.
pub(super) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn families_take_turns() {
        let all: Vec<SocketAddr> = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "[2001:db8::1]:1"]
            .map(|text| text.parse().unwrap())
            .into();
        let order: Vec<String> = interleave(all).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[2001:db8::1]:1", "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"]);
    }

    /// An address of this host on which nobody listens.
    async fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    /// A listener whose queue is full: the kernel drops what else wants to connect, as a firewall
    /// would.
    async fn silent() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        for _ in 0..16 {
            match tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address))
                .await
            {
                Ok(stream) => held.push(stream.unwrap()),
                Err(_) => return (socket, held, address),
            }
        }
        panic!("the queue of a listener with backlog 0 took {} connections", held.len());
    }

    #[tokio::test]
    async fn the_first_that_answers_is_taken_and_its_options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, dialled) =
            dial(vec![refusing().await, address], Duration::from_secs(5)).await.unwrap();
        assert_eq!(dialled, address);
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn a_silent_address_costs_a_quarter_of_a_second_not_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_socket, _held, silent) = silent().await;
        let start = Instant::now();
        let (_, dialled) = dial(vec![silent, address], Duration::from_secs(5)).await.unwrap();
        assert_eq!(dialled, address);
        let took = start.elapsed();
        assert!(took >= STAGGER && took < Duration::from_secs(4), "{took:?}");
    }

    #[tokio::test]
    async fn when_all_refuse_each_is_named() {
        let (one, two) = (refusing().await, refusing().await);
        match dial(vec![one, two], Duration::from_secs(5)).await {
            Err(DialError::Failed(errors)) => {
                let mut named: Vec<SocketAddr> =
                    errors.iter().map(|(address, _)| *address).collect();
                named.sort_unstable();
                let mut want = vec![one, two];
                want.sort_unstable();
                assert_eq!(named, want);
                assert!(
                    errors
                        .iter()
                        .all(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused)
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn time_is_limited() {
        let (_socket, _held, silent) = silent().await;
        let start = Instant::now();
        let result = dial(vec![silent], Duration::from_millis(400)).await;
        assert!(matches!(result, Err(DialError::Timeout)), "{result:?}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
