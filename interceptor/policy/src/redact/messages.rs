//! Divides a body into messages that are searched one by one, so that nothing waits beyond a
//! message's end.
//!
//! gRPC puts five bytes before each message: a flag that says whether it is compressed, and its
//! length (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>,
//! "Length-Prefixed-Message"). Each message is searched by itself and never waits for the next one,
//! which in a conversation may depend on an answer to this one. Because the length comes first, a
//! replacement must be as long as the key.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::LateKey;
use super::scan::{Scanner, Scrub};
use super::seam::Seam;

/// Bytes of the prefix before a message.
const PREFIX: usize = 5;
/// The flag of a compressed message.
const COMPRESSED: u8 = 1;
/// The flag of gRPC-Web's last message, which is its trailers.
const TRAILERS: u8 = 0x80;

/// Why a message cannot be searched and passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A gRPC message is compressed, although compression was not offered.
    #[error("the origin sent a compressed gRPC message, although only identity was accepted")]
    Compressed,
    /// A key occurs where it cannot be replaced.
    #[error("the origin sent a real key in a message whose length is fixed")]
    Key,
}

/// A body on its way through the search.
#[derive(Debug)]
pub enum Search {
    /// Searched as one text.
    Stream(Scrub),
    /// Searched message by message.
    Grpc(Box<Messages>),
}

impl Search {
    /// How a body with these headers is searched.
    pub fn of(headers: &HeaderMap, scanner: &Arc<Scanner>) -> Search {
        if is_grpc(headers) {
            Search::Grpc(Box::new(Messages::new(scanner)))
        } else {
            Search::Stream(Scrub::new(Arc::clone(scanner)))
        }
    }

    /// Takes a chunk and returns the bytes that can pass.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, MessageError> {
        match self {
            Search::Stream(scrub) => Ok(scrub.push(chunk)),
            Search::Grpc(messages) => messages.push(chunk),
        }
    }

    /// Searches with another scanner from here on.
    ///
    /// # Errors
    /// Part of a key of it may have passed.
    pub fn renew(&mut self, scanner: &Arc<Scanner>) -> Result<(), LateKey> {
        if let Search::Grpc(messages) = self {
            messages.seam.renew(scanner)?;
            messages.keeps_length = scanner.keeps_length();
        }
        self.scrub_mut().renew(scanner)
    }

    /// The end of the body: returns the held bytes.
    pub fn finish(&mut self) -> Bytes {
        self.scrub_mut().finish()
    }

    fn scrub_mut(&mut self) -> &mut Scrub {
        match self {
            Search::Stream(scrub) => scrub,
            Search::Grpc(messages) => &mut messages.scrub,
        }
    }

    fn scrub(&self) -> &Scrub {
        match self {
            Search::Stream(scrub) => scrub,
            Search::Grpc(messages) => &messages.scrub,
        }
    }

    /// The number of keys found so far.
    pub fn matches(&self) -> u64 {
        let over = match self {
            Search::Stream(_) => 0,
            Search::Grpc(messages) => messages.over_ends,
        };
        self.scrub().matches() + over
    }

    /// The number of bytes held, assuming nothing in them is replaced.
    pub fn owed(&self) -> usize {
        self.scrub().owed()
    }
}

/// Whether a body consists of gRPC messages. `application/grpc-web-text` is base64 as a whole and
/// searched as a text.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    let rest = kind.and_then(|kind| behind(kind, b"application/grpc"));
    let rest = rest.map(|rest| behind(rest, b"-web").unwrap_or(rest));
    rest.is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b' ')))
}

/// What stands behind a prefix, in whatever letter case that is.
fn behind<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// A body of gRPC messages.
#[derive(Debug)]
pub struct Messages {
    scrub: Scrub,
    seam: Seam,
    at: Awaited,
    keeps_length: bool,
    /// The number of keys cut by the end of a message.
    over_ends: u64,
}

#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// This many bytes of the prefix have arrived.
    Prefix([u8; PREFIX], usize),
    /// This many bytes of the message are still to come.
    Message(u32),
    /// No gRPC framing: searched as one text.
    Text,
}

impl Messages {
    fn new(scanner: &Arc<Scanner>) -> Messages {
        Messages {
            scrub: Scrub::new(Arc::clone(scanner)),
            seam: Seam::new(Arc::clone(scanner)),
            at: Awaited::Prefix([0; PREFIX], 0),
            keeps_length: scanner.keeps_length(),
            over_ends: 0,
        }
    }

    fn push(&mut self, mut chunk: Bytes) -> Result<Bytes, MessageError> {
        let mut out = Vec::new();
        while !chunk.is_empty() {
            match self.at {
                Awaited::Text => out.push(self.scrub.push(std::mem::take(&mut chunk))),
                Awaited::Prefix(_, 0) if chunk[0] & !TRAILERS == COMPRESSED => {
                    return Err(MessageError::Compressed);
                }
                Awaited::Prefix(_, 0) if chunk[0] & !TRAILERS != 0 => self.at = Awaited::Text,
                Awaited::Prefix(mut prefix, there) => {
                    let part = chunk.split_to(chunk.len().min(PREFIX - there));
                    let filled = there + part.len();
                    prefix[there..filled].copy_from_slice(&part);
                    out.push(part);
                    self.at = match filled {
                        PREFIX => {
                            let [_, length @ ..] = prefix;
                            self.message(u32::from_be_bytes(length))
                        }
                        filled => Awaited::Prefix(prefix, filled),
                    };
                }
                Awaited::Message(left) => {
                    let part = chunk
                        .split_to(chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                    let left = left - u32::try_from(part.len()).unwrap_or(left);
                    if self.seam.completes(&part) {
                        self.over_ends += 1;
                        return Err(MessageError::Key);
                    }
                    out.push(self.scrub.push(part));
                    if left == 0 {
                        out.push(self.scrub.boundary());
                    }
                    self.at = self.message(left);
                    if !self.keeps_length && self.scrub.matches() > 0 {
                        return Err(MessageError::Key);
                    }
                }
            }
        }
        out.retain(|piece| !piece.is_empty());
        Ok(match out.len() {
            0 | 1 => out.pop().unwrap_or_default(),
            _ => out.concat().into(),
        })
    }

    /// The state with this many bytes of a message still to come.
    fn message(&mut self, left: u32) -> Awaited {
        if left > 0 {
            return Awaited::Message(left);
        }
        self.seam.end();
        Awaited::Prefix([0; PREFIX], 0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sk-real0123456789abcdefgh";
    const PLACEHOLDER: &str = "sk-proxy-managed-01234567";

    fn search(placeholder: &str) -> Messages {
        let keys = [(KEY.as_bytes(), placeholder.as_bytes())];
        Messages::new(&Arc::new(Scanner::new(keys.into_iter())))
    }

    fn message(flag: u8, text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[flag][..], &length, text.as_bytes()].concat()
    }

    fn pushed(search: &mut Messages, bytes: &[u8]) -> Result<Vec<u8>, MessageError> {
        search.push(Bytes::copy_from_slice(bytes)).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn which_bodies_are_messages() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/GRPC; charset=x", true),
            ("application/grpc-web+json", true),
            ("application/grpc-web-text", false),
            ("application/grpcx", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), grpc, "{kind}");
        }
    }

    #[test]
    fn a_message_that_could_continue_as_a_key_passes_at_its_end() {
        let mut search = search(PLACEHOLDER);
        for text in ["hello", "sk-rea", &KEY[..KEY.len() - 1], "", "x"] {
            let sent = message(0, text);
            // Put a message between them, so that no two of them form a key.
            let sent = [sent, message(0, ". ")].concat();
            assert_eq!(pushed(&mut search, &sent).unwrap(), sent);
        }
    }

    #[test]
    fn a_key_is_replaced_if_that_keeps_the_length_and_otherwise_ends_the_body() {
        let mut even = search(PLACEHOLDER);
        let got = pushed(&mut even, &message(0, &format!("it is {KEY}!"))).unwrap();
        assert_eq!(got, message(0, &format!("it is {PLACEHOLDER}!")));
        let mut odd = search("sk-proxy-managed-0123");
        if !odd.keeps_length {
            let ended = pushed(&mut odd, &message(0, &format!("it is {KEY}!")));
            assert!(matches!(ended, Err(MessageError::Key)));
        }
    }

    #[test]
    fn a_key_over_two_messages_and_a_compressed_message_end_the_body() {
        let mut search = search(PLACEHOLDER);
        pushed(&mut search, &message(0, &KEY[..20])).unwrap();
        let ended = pushed(&mut search, &message(0, &KEY[20..]));
        assert!(matches!(ended, Err(MessageError::Key)));
        for flag in [1, 0x81] {
            let mut search = self::search(PLACEHOLDER);
            assert!(matches!(
                pushed(&mut search, &message(flag, "x")),
                Err(MessageError::Compressed)
            ));
        }
    }

    #[test]
    fn a_key_that_becomes_known_is_found_from_then_on() {
        let new = Arc::new(Scanner::new([(KEY.as_bytes(), PLACEHOLDER.as_bytes())].into_iter()));
        for cut in 0..KEY.len() {
            let headers = HeaderMap::from_iter([(
                CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            )]);
            let other = [(&b"sk-other123456789abcdefgh"[..], PLACEHOLDER.as_bytes())];
            let scanner = Arc::new(Scanner::new(other.into_iter()));
            let mut search = Search::of(&headers, &scanner);
            let sent = message(0, KEY);
            let mut got = search.push(Bytes::copy_from_slice(&sent[..5 + cut])).unwrap().to_vec();
            search.renew(&new).unwrap();
            got.extend(search.push(Bytes::copy_from_slice(&sent[5 + cut..])).unwrap());
            assert_eq!(got, message(0, PLACEHOLDER), "{cut}");
            // Whole, and cut by the end of a message.
            let mut search = Search::of(&headers, &scanner);
            search.push(message(0, &KEY[..cut]).into()).unwrap();
            search.renew(&new).unwrap();
            let ended = search.push(message(0, &KEY[cut..]).into());
            assert_eq!(ended.is_err(), cut > 0, "{cut}");
        }
    }

    #[test]
    fn bytes_that_are_not_messages_are_searched_as_a_text() {
        let mut search = search(PLACEHOLDER);
        let mut got = pushed(&mut search, format!("Bad gateway: {KEY}").as_bytes()).unwrap();
        got.extend(search.scrub.finish());
        assert_eq!(got, format!("Bad gateway: {PLACEHOLDER}").as_bytes());
    }

    proptest! {
        #[test]
        fn chunks_never_change_what_comes_out(
            texts in prop::collection::vec("[a-z ]{0,40}", 1..6),
            at in prop::collection::vec(any::<usize>(), 0..8),
        ) {
            let whole: Vec<u8> = texts.iter().flat_map(|text| message(0, text)).collect();
            let mut at: Vec<usize> = at.iter().map(|at| at % (whole.len() + 1)).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let mut search = search(PLACEHOLDER);
            let mut got = Vec::new();
            for cut in at.windows(2) {
                got.extend(pushed(&mut search, &whole[cut[0]..cut[1]]).unwrap());
            }
            prop_assert_eq!(got, whole);
        }
    }
}
