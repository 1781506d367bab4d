//! A DNS question: hickory's parser reads every accepted one alike.

#[allow(dead_code, reason = "the target uses a part")]
#[path = "../src/dns/question.rs"]
mod question;

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::BinDecodable as _;

/// Checks one datagram.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let Ok(question) = question::parse(data) else { return };
    assert!(data.len() <= question::MAX_QUERY);
    let Ok(message) = Message::from_bytes(data) else {
        // Nothing here reads the content of options; hickory does.
        assert!(question.payload.is_some(), "hickory does not read it: {data:?}");
        return;
    };
    assert_eq!(message.metadata.id, question.id);
    assert_eq!(message.metadata.recursion_desired, question.recursion_desired);
    let [asked] = &message.queries[..] else { panic!("not one question") };
    // Compare bytes: names compare equal in any case.
    assert!(asked.name().iter().eq(question.name.iter()), "{asked} {}", question.name);
    assert_eq!(asked.query_type(), question.kind);
    assert!(question.name.len() <= 255 && question.name.is_fqdn());
    let payload = message.edns.as_ref().map(|edns| edns.max_payload());
    // hickory treats a size below 512 as 512 (RFC 6891 section 6.2.3).
    assert_eq!(payload, question.payload.map(|payload| payload.max(512)));
}
