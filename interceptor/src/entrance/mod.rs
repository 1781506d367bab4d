//! Who may see the page: where it listens, the one-time tokens of its address, and the sessions
//! that they open.
//!
//! Only digests of tokens and sessions are kept, so that neither this process nor the one that it
//! hands the page over to can give one away.

mod claim;
mod keys;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use self::claim::Claim;
pub(crate) use self::claim::is_page;
pub(crate) use self::keys::{HandedSession, KnownSession, TOKEN_LIFE};
use self::keys::{Keys, NoRandomness};

/// The path that takes a token.
pub(crate) const WAY_IN: &str = "/enter";

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntranceError {
    /// Others than this host could reach it.
    #[error("{0} is not a loopback address; the page is for this host alone")]
    NotLoopback(SocketAddr),
    /// The system refuses.
    #[error("cannot listen at {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's error.
        cause: io::Error,
    },
}

/// Where the page listens, and whom it knows.
pub(crate) struct Entrance {
    listener: TcpListener,
    address: SocketAddr,
    claim: Claim,
    keys: Mutex<Keys>,
    /// Another process serves it instead.
    handed: CancellationToken,
}

/// The page as one process tells another of it; the sockets come beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedEntrance {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Who is known.
    sessions: Vec<HandedSession>,
}

impl Entrance {
    /// Listens at an address; port 0 is one that is free.
    ///
    /// # Errors
    /// If it is not a loopback address, or is in use.
    pub(crate) fn bind(address: SocketAddr) -> Result<Entrance, EntranceError> {
        if !address.ip().is_loopback() {
            return Err(EntranceError::NotLoopback(address));
        }
        let failed = |cause| EntranceError::Listen { address, cause };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let claim = Claim::make(address).map_err(failed)?;
        Ok(Entrance::of(listener, address, claim, Keys::default()))
    }

    fn of(listener: TcpListener, address: SocketAddr, claim: Claim, keys: Keys) -> Entrance {
        let (keys, handed) = (Mutex::new(keys), CancellationToken::new());
        Entrance { listener, address, claim, keys, handed }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listening socket.
    ///
    /// # Errors
    /// If no descriptor is free.
    pub(crate) fn listener(&self) -> io::Result<TcpListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// An address that lets one browser in, once and soon.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub(crate) fn invite(&self) -> Result<Zeroizing<String>, NoRandomness> {
        let token = self.keys().issue(Instant::now())?;
        Ok(Zeroizing::new(format!("http://{}{WAY_IN}?token={}", self.address, token.as_str())))
    }

    /// How many addresses were given that nobody has used yet.
    pub(crate) fn unused(&self) -> usize {
        self.keys().unused(Instant::now())
    }

    /// The session that a token opens for a user; `None` for one that is unknown, used or too old.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub(crate) fn enter(
        &self,
        token: &str,
        uid: u32,
    ) -> Result<Option<Zeroizing<String>>, NoRandomness> {
        self.keys().enter(token, uid, Instant::now())
    }

    /// Whether a token would let somebody in, which does not use it up.
    pub(crate) fn expects(&self, token: &str) -> bool {
        self.keys().expects(token, Instant::now())
    }

    /// Whether a user has a session.
    pub(crate) fn knows(&self, uid: u32) -> bool {
        self.keys().knows(uid, Instant::now())
    }

    /// The session, if this is one of the user's: the cookie of a loopback address is sent to
    /// whoever listens at any of its ports, so that another user can come to know it.
    pub(crate) fn admits(&self, session: &str, uid: u32) -> Option<KnownSession> {
        self.keys().admits(session, uid, Instant::now())
    }

    /// Whether a session lasts still.
    pub(crate) fn lasts(&self, session: KnownSession) -> bool {
        self.keys().lasts(session, Instant::now())
    }

    /// What another process needs besides the sockets.
    pub(crate) fn to_hand_over(&self) -> HandedEntrance {
        let sessions = self.keys().sessions(Instant::now());
        HandedEntrance { address: self.address, sessions }
    }

    /// The sockets that go with it.
    pub(crate) fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.listener.as_fd(), self.claim.as_fd()]
    }

    /// The page of another process, which serves it until it has handed it over.
    pub(crate) fn inherit(handed: HandedEntrance, sockets: [OwnedFd; 2]) -> Entrance {
        let [listener, claim] = sockets;
        let keys = Keys::of_sessions(handed.sessions, Instant::now());
        let claim = Claim::inherit(UnixDatagram::from(claim));
        Entrance::of(TcpListener::from(listener), handed.address, claim, keys)
    }

    /// Gives the page up to another process.
    pub(crate) fn hand_over(&self) {
        self.handed.cancel();
    }

    /// Cancelled once another process serves it.
    pub(crate) fn handed(&self) -> CancellationToken {
        self.handed.clone()
    }

    /// Every step leaves the keys consistent.
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entrance").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anywhere() -> Entrance {
        Entrance::bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn token(entrance: &Entrance) -> String {
        entrance.invite().unwrap().split_once("token=").unwrap().1.to_owned()
    }

    #[test]
    fn the_page_listens_at_loopback_alone() {
        for wrong in ["0.0.0.0:0", "192.0.2.1:7878", "[::]:0"] {
            let refused = Entrance::bind(wrong.parse().unwrap()).unwrap_err();
            assert!(matches!(refused, EntranceError::NotLoopback(_)), "{refused}");
        }
        let entrance = anywhere();
        let taken = Entrance::bind(entrance.address()).unwrap_err();
        assert!(matches!(taken, EntranceError::Listen { .. }), "{taken}");
    }

    #[test]
    fn a_token_opens_one_session() {
        let entrance = anywhere();
        let (one, other) = (token(&entrance), token(&entrance));
        assert_eq!(entrance.unused(), 2);
        assert!(
            entrance.enter("", 7).unwrap().is_none() && entrance.enter("x", 7).unwrap().is_none()
        );
        let session = entrance.enter(&one, 7).unwrap().unwrap();
        assert!(entrance.enter(&one, 7).unwrap().is_none(), "it was used");
        assert!(entrance.expects(&other) && !entrance.expects(&one) && !entrance.expects(""));
        assert!(entrance.knows(7) && !entrance.knows(8));
        assert!(entrance.admits(&session, 7).is_some());
        assert!(entrance.admits(&session, 8).is_none(), "another user has the cookie");
        for wrong in ["", &one, &other, "x"] {
            assert!(entrance.admits(wrong, 7).is_none(), "{wrong}");
        }
        assert_eq!(entrance.unused(), 1);
    }

    #[test]
    fn sessions_are_handed_over_and_tokens_are_not() {
        let entrance = anywhere();
        let session = entrance.enter(&token(&entrance), 7).unwrap().unwrap();
        let unused = token(&entrance);
        let told = serde_json::to_string(&entrance.to_hand_over()).unwrap();
        assert!(!told.contains(session.as_str()) && !told.contains(&unused), "{told}");
        let sockets = entrance.sockets().map(|socket| socket.try_clone_to_owned().unwrap());
        let next = Entrance::inherit(serde_json::from_str(&told).unwrap(), sockets);
        let address = entrance.address();
        drop(entrance);
        assert_eq!(next.address(), address);
        assert!(next.admits(&session, 7).is_some() && next.admits(&session, 8).is_none());
        assert!(next.enter(&unused, 7).unwrap().is_none());
        assert!(is_page(address), "the claim came along");
    }
}
