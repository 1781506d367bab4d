//! One-time tokens and sessions: random, short-lived, few, and compared in constant time.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How long a token can be used.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(120);
/// How long a session lasts.
const SESSION_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// How many tokens can be used at one time; the oldest gives way.
const MOST_TOKENS: usize = 16;
/// How many sessions there are at one time; the oldest gives way.
const MOST_SESSIONS: usize = 32;
/// The bytes of a digest.
const DIGEST: usize = 32;
/// The longest text that is looked at.
const LONGEST: usize = 128;

/// The system has no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system has no random bytes")]
pub(crate) struct NoRandomness;

/// The tokens and sessions of a page.
#[derive(Default)]
pub(super) struct Keys {
    tokens: Held<()>,
    /// With the user whose each is.
    sessions: Held<u32>,
}

/// A session, by its digest.
#[derive(Clone, Copy)]
pub(crate) struct KnownSession([u8; DIGEST]);

impl fmt::Debug for KnownSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownSession")
    }
}

/// A session as one process tells another of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedSession {
    /// Its digest.
    digest: [u8; DIGEST],
    /// How long it still lasts.
    seconds: u64,
    /// Whose it is.
    uid: u32,
}

/// Digests, until when each counts, and what is known of it; oldest first.
#[derive(Default)]
struct Held<T>(VecDeque<([u8; DIGEST], Instant, T)>);

impl Keys {
    /// Makes a token.
    pub(super) fn issue(&mut self, now: Instant) -> Result<Zeroizing<String>, NoRandomness> {
        let token = secret()?;
        self.tokens.add((digest_of(&token), now + TOKEN_LIFE, ()), MOST_TOKENS, now);
        Ok(token)
    }

    /// How many tokens can be used.
    pub(super) fn unused(&mut self, now: Instant) -> usize {
        self.tokens.forget(now);
        self.tokens.0.len()
    }

    /// Uses a token up, for a session of a user.
    pub(super) fn enter(
        &mut self,
        token: &str,
        uid: u32,
        now: Instant,
    ) -> Result<Option<Zeroizing<String>>, NoRandomness> {
        let Some(at) = self.tokens.position(token, now) else { return Ok(None) };
        let session = secret()?;
        self.tokens.0.remove(at);
        self.sessions.add((digest_of(&session), now + SESSION_LIFE, uid), MOST_SESSIONS, now);
        Ok(Some(session))
    }

    /// The session, if this is one of the user's.
    pub(super) fn admits(&mut self, session: &str, uid: u32, now: Instant) -> Option<KnownSession> {
        let at = self.sessions.position(session, now)?;
        let (digest, _, of) = self.sessions.0.get(at)?;
        (*of == uid).then_some(KnownSession(*digest))
    }

    /// Whether a token can be used.
    pub(super) fn expects(&mut self, token: &str, now: Instant) -> bool {
        self.tokens.position(token, now).is_some()
    }

    /// Whether a user has a session.
    pub(super) fn knows(&mut self, uid: u32, now: Instant) -> bool {
        self.sessions.forget(now);
        self.sessions.0.iter().any(|(_, _, of)| *of == uid)
    }

    /// Whether a session lasts still.
    pub(super) fn lasts(&mut self, session: KnownSession, now: Instant) -> bool {
        self.sessions.at(&session.0, now).is_some()
    }

    /// The sessions, for another process.
    pub(super) fn sessions(&mut self, now: Instant) -> Vec<HandedSession> {
        self.sessions.forget(now);
        let held = self.sessions.0.iter();
        held.map(|(digest, until, uid)| HandedSession {
            digest: *digest,
            seconds: until.saturating_duration_since(now).as_secs(),
            uid: *uid,
        })
        .collect()
    }

    /// The sessions of another process.
    pub(super) fn of_sessions(handed: Vec<HandedSession>, now: Instant) -> Keys {
        let mut keys = Keys::default();
        for HandedSession { digest, seconds, uid } in handed {
            let left = Duration::from_secs(seconds).min(SESSION_LIFE);
            keys.sessions.add((digest, now + left, uid), MOST_SESSIONS, now);
        }
        keys
    }
}

impl<T> Held<T> {
    fn add(&mut self, held: ([u8; DIGEST], Instant, T), most: usize, now: Instant) {
        self.forget(now);
        if self.0.len() >= most {
            self.0.pop_front();
        }
        self.0.push_back(held);
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|(_, until, _)| *until > now);
    }

    /// Where a text is.
    fn position(&mut self, text: &str, now: Instant) -> Option<usize> {
        if text.len() > LONGEST {
            return None;
        }
        self.at(&digest_of(text), now)
    }

    /// Where a digest is. What this takes does not depend on how much of one it has.
    fn at(&mut self, wanted: &[u8; DIGEST], now: Instant) -> Option<usize> {
        self.forget(now);
        let mut found = None;
        for (at, (digest, _, _)) in self.0.iter().enumerate() {
            if verify_slices_are_equal(digest, wanted).is_ok() {
                found = Some(at);
            }
        }
        found
    }
}

fn secret() -> Result<Zeroizing<String>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(&mut *bytes).map_err(|_| NoRandomness)?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)))
}

fn digest_of(text: &str) -> [u8; DIGEST] {
    let mut own = [0; DIGEST];
    // SHA-256 has as many bytes.
    own.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_sessions_end_by_their_time() {
        let (mut keys, now) = (Keys::default(), Instant::now());
        let second = Duration::from_secs(1);
        let (soon, late) = (keys.issue(now).unwrap(), keys.issue(now).unwrap());
        let session = keys.enter(&soon, 1000, now + TOKEN_LIFE - second).unwrap().unwrap();
        assert!(keys.enter(&late, 1000, now + TOKEN_LIFE).unwrap().is_none());
        let begun = now + TOKEN_LIFE - second;
        assert!(keys.admits(&session, 1000, begun + SESSION_LIFE - second).is_some());
        let handed = keys.sessions(begun + SESSION_LIFE - 2 * second);
        let mut next = Keys::of_sessions(handed, begun);
        assert!(next.admits(&session, 0, begun).is_none(), "another user's");
        let known = next.admits(&session, 1000, begun + second).unwrap();
        assert!(next.lasts(known, begun + second) && !next.lasts(known, begun + 2 * second));
        assert!(next.admits(&session, 1000, begun + 2 * second).is_none());
        assert!(keys.admits(&session, 1000, begun + SESSION_LIFE).is_none());
    }

    #[test]
    fn only_so_many_are_kept() {
        let (mut keys, now) = (Keys::default(), Instant::now());
        let tokens: Vec<_> = (0..=MOST_TOKENS).map(|_| keys.issue(now).unwrap()).collect();
        assert_eq!(keys.unused(now), MOST_TOKENS);
        assert!(keys.enter(&tokens[0], 1000, now).unwrap().is_none(), "the oldest gave way");
        let mut sessions = Vec::new();
        for _ in 0..=MOST_SESSIONS {
            let token = keys.issue(now).unwrap();
            sessions.push(keys.enter(&token, 1000, now).unwrap().unwrap());
        }
        assert!(
            keys.admits(&sessions[0], 1000, now).is_none()
                && keys.admits(&sessions[1], 1000, now).is_some()
        );
        assert!(keys.admits(&"a".repeat(1 << 20), 1000, now).is_none());
    }
}
