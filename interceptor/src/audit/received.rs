//! A record that another process made, read back from its line: written on as it stands, with the
//! fields that observers look at.

use std::net::IpAddr;
use std::sync::Arc;

use interceptor_policy::Reason;
use serde::Deserialize;

use super::{Kind, Record, RequestId, Verdict};

/// The fields of a line that observers look at.
#[derive(Deserialize)]
struct Fields {
    sandbox: String,
    kind: String,
    decision: Option<String>,
    #[serde(rename = "type")]
    reason: Option<String>,
    host: Option<String>,
    ip: Option<IpAddr>,
    port: Option<u16>,
    method: Option<Box<str>>,
    path: Option<Box<str>>,
}

impl Record {
    /// The record of a line without its line feed; `None` if it is none.
    pub(crate) fn received(line: &str) -> Option<Record> {
        const KINDS: [Kind; 5] =
            [Kind::Connection, Kind::Dns, Kind::Request, Kind::Approval, Kind::Lifecycle];
        let fields: Fields = serde_json::from_str(line).ok()?;
        let kind = KINDS.into_iter().find(|kind| kind.as_str() == fields.kind)?;
        let decision = match fields.decision.as_deref() {
            None => None,
            Some("allow") => Some(Verdict::Allow),
            Some("deny") => Some(Verdict::Deny),
            Some(_) => return None,
        };
        let named = |name: &str| Reason::ALL.into_iter().find(|reason| reason.as_str() == name);
        let reason = fields.reason.as_deref().and_then(named);
        Some(Record {
            decision,
            reason,
            host: fields.host.map(Arc::from),
            ip: fields.ip,
            port: fields.port,
            method: fields.method,
            path: fields.path,
            line: Some(line.into()),
            ..Record::empty(&fields.sandbox.into(), RequestId::new(), kind)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{self, Clock};
    use super::*;

    #[test]
    fn a_received_record_is_written_as_it_came_and_read_as_it_is() {
        let sandbox: Arc<str> = "sb-1".into();
        let made = Record::new(&sandbox, RequestId::new(), Kind::Request, Verdict::Deny)
            .reason(Reason::HostDenied)
            .host("a\u{202e}.test")
            .port(8443)
            .method("GET")
            .path("/x?y");
        let mut text = String::new();
        line::append(&mut text, &mut Clock::default(), &made);
        let received = Record::received(text.trim_end()).unwrap();
        let mut again = String::new();
        line::append(&mut again, &mut Clock::default(), &received);
        assert_eq!(again, text);
        let seen = (received.kind, received.decision, received.reason, received.port);
        assert_eq!(seen, (made.kind, made.decision, made.reason, made.port));
        assert_eq!((received.host, received.path), (made.host, made.path));
        for kind in ["connection", "dns", "request", "approval", "lifecycle"] {
            let text = format!(r#"{{"sandbox":"sb-1","kind":"{kind}"}}"#);
            assert_eq!(Record::received(&text).unwrap().kind.as_str(), kind);
        }
        for text in ["", "{}", "[]", r#"{"sandbox":"a","kind":"odd"}"#, "\u{1b}[2J"] {
            assert!(Record::received(text).is_none(), "{text}");
        }
    }
}
