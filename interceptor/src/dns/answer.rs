//! Encodes responses (RFC 1035, RFC 6891, RFC 8914).

use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::opt::EdnsOption;

use super::question::Question;

/// The largest UDP response, which avoids fragmentation (DNS flag day 2020).
const MAX_UDP: u16 = 1232;
/// The limit for clients without EDNS.
const PLAIN_UDP: u16 = 512;
/// The EDNS option for extended errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

/// The reason for a response, for diagnosis (RFC 8914 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The policy denies the name.
    Denied,
    /// The name carries a placeholder.
    CarriesPlaceholder,
    /// The sandbox sends too many queries.
    TooManyQuestions,
    /// The sandbox uses too many names.
    TooManyNames,
    /// No name server answered.
    NoAnswer,
    /// No name server is reachable, or one returned an error.
    Failed,
}

impl Why {
    fn code(self) -> u16 {
        match self {
            // Blocked
            Why::Denied | Why::CarriesPlaceholder => 15,
            // Other
            Why::TooManyQuestions | Why::TooManyNames => 0,
            // No Reachable Authority
            Why::NoAnswer => 22,
            // Network Error
            Why::Failed => 23,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Why::Denied => "host_denied: the sandbox's network policy denies this name",
            Why::CarriesPlaceholder => {
                "credential_misuse: the name carries a credential's placeholder"
            }
            Why::TooManyQuestions => "limit_exceeded: the sandbox has looked up too many names",
            Why::TooManyNames => "limit_exceeded: the sandbox uses too many names at once",
            Why::NoAnswer => "upstream_timeout: no name server of the host answered in time",
            Why::Failed => "upstream_unreachable: the host's name servers could not answer",
        }
    }
}

/// The response to one query.
#[derive(Debug)]
pub(super) struct Answer {
    code: ResponseCode,
    records: Vec<Record>,
    why: Option<Why>,
    /// The delay before sending: a refusal waits its turn.
    pub(super) turn: Duration,
}

impl Answer {
    /// These records; if empty, the name exists without records of this type.
    pub(super) fn records(records: Vec<Record>) -> Answer {
        Answer { records, ..Answer::code(ResponseCode::NoError) }
    }

    /// No records of this type.
    pub(super) fn nothing() -> Answer {
        Answer::records(Vec::new())
    }

    /// An error.
    pub(super) fn code(code: ResponseCode) -> Answer {
        Answer { code, records: Vec::new(), why: None, turn: Duration::ZERO }
    }

    /// Adds a reason.
    pub(super) fn because(self, why: Why) -> Answer {
        Answer { why: Some(why), ..self }
    }

    /// Delays the response.
    pub(super) fn after(self, turn: Duration) -> Answer {
        Answer { turn, ..self }
    }

    /// The message, at most `limit` bytes; records that do not fit are omitted and the message is
    /// marked truncated.
    pub(super) fn to_bytes(&self, question: &Question, limit: usize) -> Option<Vec<u8>> {
        let mut message = Message::response(question.id, OpCode::Query);
        message.metadata.recursion_desired = question.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = self.code;
        message.add_query(question.query());
        if question.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            if let Some(why) = self.why {
                let data = [&why.code().to_be_bytes(), why.text().as_bytes()].concat();
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
            }
            message.set_edns(edns);
        }
        message.add_answers(self.records.iter().cloned());
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        message.truncate().to_vec().ok()
    }
}

/// The client's limit for UDP responses, in bytes.
pub(super) fn udp_limit(question: &Question) -> usize {
    usize::from(question.payload.unwrap_or(PLAIN_UDP).clamp(PLAIN_UDP, MAX_UDP))
}

/// The error response to a malformed query: its id, opcode and a code.
pub(super) fn error(id: u16, opcode: u8, code: ResponseCode) -> Vec<u8> {
    let (id, code) = (id.to_be_bytes(), u16::from(code));
    let mut bytes =
        vec![id[0], id[1], 0x80 | opcode << 3, 0x80 | (code & 0x0f) as u8, 0, 0, 0, 0, 0, 0, 0, 0];
    if code > 0x0f {
        // The upper bits of a code (BADVERS) are in an OPT record of version 0.
        bytes[11] = 1;
        let payload = MAX_UDP.to_be_bytes();
        bytes.extend_from_slice(&[
            0,
            0,
            41,
            payload[0],
            payload[1],
            (code >> 4) as u8,
            0,
            0,
            0,
            0,
            0,
        ]);
    }
    bytes
}
