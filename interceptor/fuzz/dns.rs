//! A DNS question: what is read as one, hickory's reader takes for the same.

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
        // What is in an option nobody here looks at; hickory does.
        assert!(question.payload.is_some(), "hickory does not read it: {data:?}");
        return;
    };
    assert_eq!(message.metadata.id, question.id);
    assert_eq!(message.metadata.recursion_desired, question.recursion_desired);
    let [asked] = &message.queries[..] else { panic!("not one question") };
    // By bytes: names are equal whatever their case.
    assert!(asked.name().iter().eq(question.name.iter()), "{asked} {}", question.name);
    assert_eq!(asked.query_type(), question.kind);
    assert!(question.name.len() <= 255 && question.name.is_fqdn());
    let payload = message.edns.as_ref().map(|edns| edns.max_payload());
    // hickory takes a size below 512 for 512, as RFC 6891 section 6.2.3 says.
    assert_eq!(payload, question.payload.map(|payload| payload.max(512)));
}
