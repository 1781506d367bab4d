//! One-time tokens and sessions: random, short-lived, few, and compared in constant time.

use std::collections::VecDeque;
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
    tokens: Held,
    sessions: Held,
}

/// A session as one process tells another of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedSession {
    /// Its digest.
    digest: [u8; DIGEST],
    /// How long it still lasts.
    seconds: u64,
}

/// Digests, and until when each counts; oldest first.
#[derive(Default)]
struct Held(VecDeque<([u8; DIGEST], Instant)>);

impl Keys {
    /// Makes a token.
    pub(super) fn issue(&mut self, now: Instant) -> Result<Zeroizing<String>, NoRandomness> {
        let token = secret()?;
        self.tokens.add(digest_of(&token), now + TOKEN_LIFE, MOST_TOKENS, now);
        Ok(token)
    }

    /// How many tokens can be used.
    pub(super) fn unused(&mut self, now: Instant) -> usize {
        self.tokens.forget(now);
        self.tokens.0.len()
    }

    /// Uses a token up, for a session.
    pub(super) fn enter(
        &mut self,
        token: &str,
        now: Instant,
    ) -> Result<Option<Zeroizing<String>>, NoRandomness> {
        let Some(at) = self.tokens.position(token, now) else { return Ok(None) };
        let session = secret()?;
        self.tokens.0.remove(at);
        self.sessions.add(digest_of(&session), now + SESSION_LIFE, MOST_SESSIONS, now);
        Ok(Some(session))
    }

    /// Whether this is a session.
    pub(super) fn admits(&mut self, session: &str, now: Instant) -> bool {
        self.sessions.position(session, now).is_some()
    }

    /// The sessions, for another process.
    pub(super) fn sessions(&mut self, now: Instant) -> Vec<HandedSession> {
        self.sessions.forget(now);
        let held = self.sessions.0.iter();
        held.map(|(digest, until)| HandedSession {
            digest: *digest,
            seconds: until.saturating_duration_since(now).as_secs(),
        })
        .collect()
    }

    /// The sessions of another process.
    pub(super) fn of_sessions(handed: Vec<HandedSession>, now: Instant) -> Keys {
        let mut keys = Keys::default();
        for HandedSession { digest, seconds } in handed {
            let left = Duration::from_secs(seconds).min(SESSION_LIFE);
            keys.sessions.add(digest, now + left, MOST_SESSIONS, now);
        }
        keys
    }
}

impl Held {
    fn add(&mut self, digest: [u8; DIGEST], until: Instant, most: usize, now: Instant) {
        self.forget(now);
        if self.0.len() >= most {
            self.0.pop_front();
        }
        self.0.push_back((digest, until));
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|(_, until)| *until > now);
    }

    /// Where a text is. What this takes does not depend on how much of one it has.
    fn position(&mut self, text: &str, now: Instant) -> Option<usize> {
        self.forget(now);
        if text.len() > LONGEST {
            return None;
        }
        let wanted = digest_of(text);
        let mut found = None;
        for (at, (digest, _)) in self.0.iter().enumerate() {
            if verify_slices_are_equal(digest, &wanted).is_ok() {
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
        let session = keys.enter(&soon, now + TOKEN_LIFE - second).unwrap().unwrap();
        assert!(keys.enter(&late, now + TOKEN_LIFE).unwrap().is_none());
        let begun = now + TOKEN_LIFE - second;
        assert!(keys.admits(&session, begun + SESSION_LIFE - second));
        let handed = keys.sessions(begun + SESSION_LIFE - 2 * second);
        let mut next = Keys::of_sessions(handed, begun);
        assert!(next.admits(&session, begun + second));
        assert!(!next.admits(&session, begun + 2 * second));
        assert!(!keys.admits(&session, begun + SESSION_LIFE));
    }

    #[test]
    fn only_so_many_are_kept() {
        let (mut keys, now) = (Keys::default(), Instant::now());
        let tokens: Vec<_> = (0..=MOST_TOKENS).map(|_| keys.issue(now).unwrap()).collect();
        assert_eq!(keys.unused(now), MOST_TOKENS);
        assert!(keys.enter(&tokens[0], now).unwrap().is_none(), "the oldest gave way");
        let mut sessions = Vec::new();
        for _ in 0..=MOST_SESSIONS {
            let token = keys.issue(now).unwrap();
            sessions.push(keys.enter(&token, now).unwrap().unwrap());
        }
        assert!(!keys.admits(&sessions[0], now) && keys.admits(&sessions[1], now));
        assert!(!keys.admits(&"a".repeat(1 << 20), now));
    }
}
