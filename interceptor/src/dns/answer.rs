//! What is answered, as bytes (RFC 1035, RFC 6891, RFC 8914).

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::opt::EdnsOption;

use super::question::Question;

/// The largest answer over UDP: what crosses every path unfragmented (DNS flag day 2020).
const MAX_UDP: u16 = 1232;
/// What a client without EDNS takes.
const PLAIN_UDP: u16 = 512;
/// Option 15 of EDNS, with the code for "blocked by policy".
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: u16 = 15;

/// An answer to one question.
#[derive(Debug)]
pub(super) struct Answer {
    code: ResponseCode,
    records: Vec<Record>,
    blocked: Option<&'static str>,
}

impl Answer {
    /// These records; with none, that the name exists and has none of this type.
    pub(super) fn records(records: Vec<Record>) -> Answer {
        Answer { code: ResponseCode::NoError, records, blocked: None }
    }

    /// No records of this type.
    pub(super) fn nothing() -> Answer {
        Answer::records(Vec::new())
    }

    /// An error.
    pub(super) fn code(code: ResponseCode) -> Answer {
        Answer { code, records: Vec::new(), blocked: None }
    }

    /// Refused by policy, with the reason for a person who looks.
    pub(super) fn blocked(why: &'static str) -> Answer {
        Answer { code: ResponseCode::Refused, records: Vec::new(), blocked: Some(why) }
    }

    /// The message for a client that takes `limit` bytes; what does not fit is left out and flagged as truncated.
    pub(super) fn to_bytes(&self, question: &Question, limit: usize) -> Option<Vec<u8>> {
        let mut message = Message::response(question.id, OpCode::Query);
        message.metadata.recursion_desired = question.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = self.code;
        message.add_query(question.query());
        if question.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            if let Some(why) = self.blocked {
                let data = [&BLOCKED.to_be_bytes(), why.as_bytes()].concat();
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

/// How many bytes of answer a client takes over UDP.
pub(super) fn udp_limit(question: &Question) -> usize {
    usize::from(question.payload.unwrap_or(PLAIN_UDP).clamp(PLAIN_UDP, MAX_UDP))
}

/// The answer to what was no question: its id, its operation, and an error.
pub(super) fn error(id: u16, opcode: u8, code: ResponseCode) -> Vec<u8> {
    let (id, code) = (id.to_be_bytes(), u16::from(code));
    let mut bytes =
        vec![id[0], id[1], 0x80 | opcode << 3, 0x80 | (code & 0x0f) as u8, 0, 0, 0, 0, 0, 0, 0, 0];
    if code > 0x0f {
        // The upper bits of a code (BADVERS) are in an OPT record of version 0.
        bytes[11] = 1;
        let payload = MAX_UDP.to_be_bytes();
        bytes.extend_from_slice(&[0, 0, 41, payload[0], payload[1], (code >> 4) as u8, 0, 0, 0, 0, 0]);
    }
    bytes
}
