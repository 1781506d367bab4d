//! A record as it is read back, by people who trust nothing in it.

use serde::Deserialize;

/// One record. What it left out is `None`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Record {
    /// When: RFC 3339.
    pub(super) ts: String,
    /// Which sandbox.
    #[serde(default)]
    pub(super) sandbox: String,
    /// The request id of a refusal's answer.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// `connection`, `dns`, `request` or `lifecycle`.
    pub(super) kind: String,
    /// `allow` or `deny`.
    #[serde(default)]
    pub(super) decision: Option<String>,
    /// Why it was refused, or what happened.
    #[serde(rename = "type", default)]
    pub(super) reason: Option<String>,
    /// Which rule.
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
    /// What was spoken.
    #[serde(default)]
    pub(super) protocol: Option<String>,
    /// The method.
    #[serde(default)]
    pub(super) method: Option<String>,
    /// The path.
    #[serde(default)]
    pub(super) path: Option<String>,
    /// The status the sandbox saw.
    #[serde(default)]
    pub(super) status: Option<u16>,
    /// Bytes from the sandbox.
    #[serde(default)]
    pub(super) bytes_up: Option<u64>,
    /// Bytes to the sandbox.
    #[serde(default)]
    pub(super) bytes_down: Option<u64>,
    /// How long it took.
    #[serde(default)]
    pub(super) duration_ms: Option<f64>,
    /// How many records were lost.
    #[serde(default)]
    pub(super) dropped: Option<u64>,
}

impl Record {
    /// Reads a line; `None` where it is none.
    pub(super) fn parse(line: &[u8]) -> Option<Record> {
        serde_json::from_slice(line).ok()
    }

    /// Where it went or was to go: the host, else the address.
    pub(super) fn destination(&self) -> &str {
        self.host.as_deref().or(self.ip.as_deref()).unwrap_or_default()
    }
}
