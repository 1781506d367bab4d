//! A query as the sandbox sent it (RFC 1035 section 4, RFC 6891), read strictly.
//!
//! Every byte here is hostile. A query has one question and at most an OPT record, so the parser
//! accepts nothing else: no compression, no other record, no trailing data. It allocates one name
//! of at most 255 bytes and cannot loop.

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

/// The largest query accepted, in bytes. One with every sensible EDNS option has a few hundred.
pub(super) const MAX_QUERY: usize = 4096;

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const TYPE_OPT: u16 = 41;

/// One question.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// To be repeated in the answer.
    pub(super) id: u16,
    /// To be repeated in the answer.
    pub(super) recursion_desired: bool,
    /// The name as sent, with its case and any odd bytes.
    pub(super) name: Name,
    /// The record type.
    pub(super) kind: RecordType,
    /// The client's UDP payload size, with EDNS.
    pub(super) payload: Option<u16>,
}

impl Question {
    /// The question as echoed in the response. Keeps the name's case, which some clients check
    /// (draft-vixie-dnsext-dns0x20).
    pub(super) fn query(&self) -> Query {
        Query::query(self.name.clone(), self.kind)
    }
}

/// Why a message is not a valid query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Not a query, or too short: ignored.
    Ignore,
    /// Answered with only a header.
    Answer {
        /// Of the query.
        id: u16,
        /// Of the query.
        opcode: u8,
        /// Why.
        code: ResponseCode,
    },
}

/// Reads one query.
pub(super) fn parse(message: &[u8]) -> Result<Question, Malformed> {
    let mut reader = ByteReader { rest: message };
    let header: [u8; HEADER] = reader.array().ok_or(Malformed::Ignore)?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (id, flags) = (field(0), field(2));
    if flags & 0x8000 != 0 {
        // A response: answering it could start an endless exchange.
        return Err(Malformed::Ignore);
    }
    let opcode = ((flags >> 11) & 0x0f) as u8;
    let answer = |code| Malformed::Answer { id, opcode, code };
    if opcode != 0 {
        return Err(answer(ResponseCode::NotImp));
    }
    let truncated = flags & 0x0200 != 0;
    let [questions, answers, authorities, additionals] = [field(4), field(6), field(8), field(10)];
    let one_question = questions == 1 && answers == 0 && authorities == 0 && additionals <= 1;
    if truncated || !one_question || message.len() > MAX_QUERY {
        return Err(answer(ResponseCode::FormErr));
    }
    let malformed = || answer(ResponseCode::FormErr);
    let name = reader.name().ok_or_else(malformed)?;
    let kind = reader.u16().ok_or_else(malformed)?;
    let class = reader.u16().ok_or_else(malformed)?;
    let options = match additionals {
        0 => None,
        _ => Some(reader.options().ok_or_else(malformed)?),
    };
    if !reader.rest.is_empty() {
        return Err(malformed());
    }
    if options.as_ref().is_some_and(|options| options.version != 0) {
        return Err(answer(ResponseCode::BADVERS));
    }
    if class != CLASS_IN {
        return Err(answer(ResponseCode::Refused));
    }
    Ok(Question {
        id,
        recursion_desired: flags & 0x0100 != 0,
        name,
        kind: RecordType::from(kind),
        payload: options.map(|options| options.payload),
    })
}

struct Options {
    payload: u16,
    version: u8,
}

struct ByteReader<'a> {
    rest: &'a [u8],
}

impl<'a> ByteReader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*head)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Labels up to the root; pointers are invalid because nothing precedes a question.
    fn name(&mut self) -> Option<Name> {
        let mut labels: Vec<&[u8]> = Vec::new();
        let mut length = 1;
        loop {
            let count = usize::from(self.u8()?);
            if count == 0 {
                break;
            }
            length += 1 + count;
            if count > 63 || length > 255 {
                return None;
            }
            labels.push(self.bytes(count)?);
        }
        let mut name = Name::from_labels(labels).ok()?;
        name.set_fqdn(true);
        Some(name)
    }

    /// An OPT record (RFC 6891 section 6.1.2) whose options fill it exactly.
    fn options(&mut self) -> Option<Options> {
        if self.u8()? != 0 || self.u16()? != TYPE_OPT {
            return None;
        }
        let payload = self.u16()?;
        let [_extended_code, version, _flags @ ..] = self.array::<4>()?;
        let length = usize::from(self.u16()?);
        let mut options = ByteReader { rest: self.bytes(length)? };
        while !options.rest.is_empty() {
            let _code = options.u16()?;
            let length = usize::from(options.u16()?);
            options.bytes(length)?;
        }
        Some(Options { payload, version })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A query for `name`, whose labels are given as bytes.
    pub(in crate::dns) fn query(labels: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            message.push(label.len() as u8);
            message.extend_from_slice(label);
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message
    }

    /// The same with an OPT record.
    pub(in crate::dns) fn with_options(
        mut message: Vec<u8>,
        payload: u16,
        options: &[u8],
    ) -> Vec<u8> {
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&payload.to_be_bytes());
        message.extend_from_slice(&[0, 0, 0, 0]);
        message.extend_from_slice(&(options.len() as u16).to_be_bytes());
        message.extend_from_slice(options);
        message
    }

    fn plain() -> Vec<u8> {
        query(&[b"ApI", b"example", b"com"], 1)
    }

    fn code(message: &[u8]) -> Option<ResponseCode> {
        match parse(message) {
            Err(Malformed::Answer { code, .. }) => Some(code),
            Err(Malformed::Ignore) => None,
            Ok(question) => panic!("understood: {question:?}"),
        }
    }

    #[test]
    fn a_question_keeps_its_case_its_id_and_its_payload_size() {
        let question = parse(&plain()).unwrap();
        assert_eq!(question.id, 0x1234);
        assert!(question.recursion_desired);
        assert_eq!(question.name.to_string(), "ApI.example.com.");
        assert_eq!(question.kind, RecordType::A);
        assert_eq!(question.payload, None);
        // A cookie option (RFC 7873) is skipped.
        let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(parse(&with_options(plain(), 1400, &cookie)).unwrap().payload, Some(1400));
    }

    #[test]
    fn d7_what_is_not_one_plain_question_is_refused() {
        let edit = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = plain();
            change(&mut message);
            message
        };
        let form = Some(ResponseCode::FormErr);
        // Silence: no header, or a response.
        assert_eq!(code(&[]), None);
        assert_eq!(code(&plain()[..11]), None);
        assert_eq!(code(&edit(&|m| m[2] |= 0x80)), None);
        // Other operations: IQUERY, STATUS, NOTIFY, UPDATE.
        for opcode in [1, 2, 4, 5, 15] {
            assert_eq!(
                code(&edit(&|m| m[2] = opcode << 3)),
                Some(ResponseCode::NotImp),
                "{opcode}"
            );
        }
        // Counts.
        for (at, count) in [(5, 0), (5, 2), (5, 255), (7, 1), (9, 1), (11, 1), (11, 2)] {
            assert_eq!(code(&edit(&|m| m[at] = count)), form, "{at} {count}");
        }
        assert_eq!(code(&edit(&|m| m[4] = 255)), form, "65,281 questions");
        // The truncation bit on a query, something after the end, and every shortening.
        assert_eq!(code(&edit(&|m| m[2] |= 2)), form);
        assert_eq!(code(&edit(&|m| m.push(0))), form);
        for length in HEADER..plain().len() {
            assert_eq!(code(&plain()[..length]), form, "{length}");
        }
        // Classes: CH, HS, ANY, and the multicast bit.
        for class in [3_u16, 4, 255, 0x8001] {
            let message = edit(&|m| {
                let at = m.len() - 2;
                m[at..].copy_from_slice(&class.to_be_bytes());
            });
            assert_eq!(code(&message), Some(ResponseCode::Refused), "{class}");
        }
    }

    #[test]
    fn d7_names_are_bounded_and_never_compressed() {
        let form = Some(ResponseCode::FormErr);
        // A pointer to itself, to the header, forwards; the reserved label types.
        for pointer in [[0xc0, 12], [0xc0, 0], [0xc0, 0xff], [0x40, 1], [0x80, 1]] {
            let mut message = query(&[], 1);
            message.splice(12..13, pointer);
            assert_eq!(code(&message), form, "{pointer:?}");
            let mut after_a_label = query(&[b"www"], 1);
            after_a_label.splice(16..17, pointer);
            assert_eq!(code(&after_a_label), form, "{pointer:?} after a label");
        }
        let long = [b'a'; 63];
        assert!(parse(&query(&[&long, &long, &long, &long[..61]], 1)).is_ok(), "255 bytes");
        assert_eq!(code(&query(&[&long, &long, &long, &long[..62]], 1)), form, "256 bytes");
        assert_eq!(code(&query(&[&[b'a'; 64]], 1)), form);
        // 127 labels of one byte are the most that fit; a label of any bytes is one label.
        assert!(parse(&query(&[b"a".as_slice(); 127], 1)).is_ok());
        assert_eq!(code(&query(&[b"a".as_slice(); 128], 1)), form);
        let odd = parse(&query(&[b"evil\0.com", b"test"], 1)).unwrap();
        assert_eq!(odd.name.iter().count(), 2);
    }

    #[test]
    fn d7_options_must_fill_their_record() {
        let form = Some(ResponseCode::FormErr);
        assert_eq!(code(&with_options(plain(), 1232, &[0, 10, 0, 9, 1])), form);
        assert_eq!(code(&with_options(plain(), 1232, &[0, 10, 0])), form);
        let mut newer = with_options(plain(), 1232, &[]);
        let version = newer.len() - 5;
        newer[version] = 1;
        assert_eq!(code(&newer), Some(ResponseCode::BADVERS));
        let mut large = with_options(plain(), 1232, &[0; 4096]);
        assert_eq!(code(&large), form, "too large");
        large.truncate(1000);
        assert_eq!(code(&large), form);
    }

    #[test]
    fn d7_no_mutation_makes_the_parser_panic_or_invent() {
        let seeds = [plain(), with_options(plain(), 1232, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])];
        // xorshift64: the same run every time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut understood = 0;
        for round in 0..200_000 {
            let mut message = seeds[round % seeds.len()].clone();
            for _ in 0..=random(4) {
                match random(4) {
                    0 if !message.is_empty() => message.truncate(random(message.len())),
                    1 => message.insert(random(message.len() + 1), random(256) as u8),
                    _ if !message.is_empty() => {
                        let at = random(message.len());
                        message[at] = random(256) as u8;
                    }
                    _ => {}
                }
            }
            if let Ok(question) = parse(&message) {
                understood += 1;
                assert!(question.name.len() <= 255);
                assert!(message.len() >= HEADER + 5);
            }
        }
        assert!(understood > 1000, "the mutations reach nothing: {understood}");
    }
}
