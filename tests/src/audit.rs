//! The audit file (docs/audit.md) as a test reads it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// One record. Fields that a record left out are `None`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The time: RFC 3339, UTC, microseconds.
    pub ts: String,
    /// The sandbox's id.
    pub sandbox: String,
    /// The request id of the refusal, if there is one.
    pub id: Option<String>,
    /// `connection`, `dns`, `request` or `lifecycle`.
    pub kind: String,
    /// `allow` or `deny`.
    pub decision: Option<String>,
    /// The reason of a refusal.
    #[serde(rename = "type")]
    pub reason: Option<String>,
    /// `network`, `endpoint`, `request` or `credential`.
    pub filter: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The credential that was injected or concerned.
    pub credential: Option<String>,
    /// The lease that permitted it.
    #[serde(default)]
    pub lease: Option<String>,
    /// Who decided a question.
    #[serde(default)]
    pub by: Option<String>,
    /// The host that was judged.
    pub host: Option<String>,
    /// The address.
    pub ip: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// `h1`, `h2`, `ws`, `tls` or `tcp`.
    pub protocol: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// The path, without the query.
    pub path: Option<String>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Bytes from the sandbox.
    pub bytes_up: Option<u64>,
    /// Bytes to the sandbox.
    pub bytes_down: Option<u64>,
    /// The duration.
    pub duration_ms: Option<f64>,
    /// The number of real keys that the origin sent back.
    #[serde(default)]
    pub key_echoed: Option<u64>,
    /// The TLS alert by which a client refused the certificate.
    #[serde(default)]
    pub alert: Option<String>,
    /// The event of a `lifecycle` record, and the number of dropped records.
    #[serde(default)]
    pub event: Option<Value>,
    /// Records lost before this one.
    #[serde(default)]
    pub dropped: Option<u64>,
    /// Its number in its chain, with `--audit-chain`.
    #[serde(default)]
    pub seq: Option<u64>,
    /// Its MAC.
    #[serde(default)]
    pub mac: Option<String>,
    /// The MAC of the previous file's last record.
    #[serde(default)]
    pub prev: Option<String>,
    /// Free text of a `lifecycle` record.
    #[serde(default)]
    pub message: Option<String>,
}

impl Record {
    /// Whether it is the record of a request with this decision.
    pub fn is_request(&self, decision: &str) -> bool {
        self.kind == "request" && self.decision.as_deref() == Some(decision)
    }

    /// The fields that the agreement oracle compares.
    pub fn line(&self) -> String {
        let part = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        format!("{} {}{}", part(&self.method), part(&self.host), part(&self.path))
    }
}

/// Reads an audit file. A missing file holds no records.
///
/// # Errors
/// If a line is not one JSON object with the fields of docs/audit.md, or its time has another form.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    ensure!(text.is_empty() || text.ends_with('\n'), "the last audit record is not a whole line");
    text.lines()
        .map(|line| {
            let record: Record =
                serde_json::from_str(line).with_context(|| format!("audit record {line}"))?;
            let digits = record.ts.replace(|c: char| c.is_ascii_digit(), "9");
            ensure!(
                digits == "9999-99-99T99:99:99.999999Z",
                "a time without microseconds or not UTC: {line}"
            );
            Ok(record)
        })
        .collect()
}
