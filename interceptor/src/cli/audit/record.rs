//! A record read back from a file; its contents are untrusted.

use serde::Deserialize;

/// One record. Absent fields are `None`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ParsedRecord {
    /// When: RFC 3339.
    pub(super) ts: String,
    /// Which sandbox.
    #[serde(default)]
    pub(super) sandbox: String,
    /// The request id shown in a refusal.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// `connection`, `dns`, `request` or `lifecycle`.
    pub(super) kind: String,
    /// `allow` or `deny`.
    #[serde(default)]
    pub(super) decision: Option<String>,
    /// The reason for a refusal, or the event.
    #[serde(rename = "type", default)]
    pub(super) reason: Option<String>,
    /// The rule that decided.
    #[serde(default)]
    pub(super) rule: Option<String>,
    /// The credential concerned.
    #[serde(default)]
    pub(super) credential: Option<String>,
    /// The host named.
    #[serde(default)]
    pub(super) host: Option<String>,
    /// The address.
    #[serde(default)]
    pub(super) ip: Option<String>,
    /// The port.
    #[serde(default)]
    pub(super) port: Option<u16>,
    /// The protocol.
    #[serde(default)]
    pub(super) protocol: Option<String>,
    /// The method.
    #[serde(default)]
    pub(super) method: Option<String>,
    /// The path.
    #[serde(default)]
    pub(super) path: Option<String>,
    /// The response status sent to the sandbox.
    #[serde(default)]
    pub(super) status: Option<u16>,
    /// Bytes received from the sandbox.
    #[serde(default)]
    pub(super) bytes_up: Option<u64>,
    /// Bytes sent to the sandbox.
    #[serde(default)]
    pub(super) bytes_down: Option<u64>,
    /// How long it took.
    #[serde(default)]
    pub(super) duration_ms: Option<f64>,
    /// How many records were lost.
    #[serde(default)]
    pub(super) dropped: Option<u64>,
}

impl ParsedRecord {
    /// Parses a line; `None` if it is not a record.
    pub(super) fn parse(line: &[u8]) -> Option<ParsedRecord> {
        serde_json::from_slice(line).ok()
    }

    /// The destination: the host, or else the address.
    pub(super) fn destination(&self) -> &str {
        self.host.as_deref().or(self.ip.as_deref()).unwrap_or_default()
    }
}
