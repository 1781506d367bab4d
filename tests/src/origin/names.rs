//! A name server of the "internet". It logs every question and answers from a table, over UDP on
//! port 53 of its own loopback address, so that the interceptor's real resolver can use it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand;
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

const A: u16 = 1;
const AAAA: u16 = 28;

/// The name server.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    answering: JoinHandle<()>,
}

impl NameServer {
    /// A name server for these names; no others exist. A name with several sets of addresses
    /// returns them in turn.
    ///
    /// # Panics
    /// When no loopback address with a free port 53 is found.
    pub fn start(runtime: &Handle, table: &[(&str, &[&[IpAddr]])]) -> NameServer {
        let table: HashMap<String, Vec<Vec<IpAddr>>> = table
            .iter()
            .map(|(name, sets)| ((*name).to_owned(), sets.iter().map(|set| set.to_vec()).collect()))
            .collect();
        let socket = (0..100).find_map(|_| {
            let mut random = [0; 3];
            rand::fill(&mut random).ok()?;
            let [b, c, d] = random;
            // The last octet is neither 0 nor 255, which some software treats specially.
            let address = Ipv4Addr::new(127, b, c, d.clamp(1, 254));
            runtime.block_on(UdpSocket::bind((address, 53))).ok()
        });
        let socket = socket.expect("a loopback address with a free port 53");
        let address = socket.local_addr().expect("a bound address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answering = runtime.spawn(answer(socket, asked.clone(), table));
        NameServer { address, asked, answering }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every name that was asked for, in lower case, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no server panicked").clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn answer(
    socket: UdpSocket,
    asked: Arc<Mutex<Vec<String>>>,
    table: HashMap<String, Vec<Vec<IpAddr>>>,
) {
    let mut turns: HashMap<(String, u16), usize> = HashMap::new();
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Some((name, kind, end)) = question(&buffer[..length]) else { continue };
        asked.lock().expect("no server panicked").push(name.clone());
        let sets = table.get(&name);
        let turn = turns.entry((name, kind)).or_default();
        let set = sets.map(|sets| sets[*turn % sets.len()].clone());
        *turn += 1;
        let _ = socket.send_to(&reply(&buffer[..end], kind, set.as_deref()), from).await;
    }
}

/// The name, the type and the end of the one question of a query (RFC 1035 section 4.1.2).
fn question(message: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

/// An answer to `query` (its head and question) with those of these addresses that have the
/// requested type; `None`: no such name.
fn reply(query: &[u8], kind: u16, addresses: Option<&[IpAddr]>) -> Vec<u8> {
    let matching: Vec<Vec<u8>> = addresses
        .unwrap_or_default()
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) if kind == A => Some(v4.octets().to_vec()),
            IpAddr::V6(v6) if kind == AAAA => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut message = query.to_vec();
    // An authoritative response, recursion available; NXDOMAIN (3) if there is no such name.
    message[2..4].copy_from_slice(&[0x85, if addresses.is_some() { 0x80 } else { 0x83 }]);
    message[6..8].copy_from_slice(&(matching.len() as u16).to_be_bytes());
    message[8..12].fill(0);
    for address in matching {
        // The name as a pointer to the question, class IN, TTL 0.
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 0]);
        message.extend((address.len() as u16).to_be_bytes());
        message.extend(address);
    }
    message
}
