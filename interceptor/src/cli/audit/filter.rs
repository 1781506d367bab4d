//! Selects records.

use std::str::FromStr;

use clap::ValueEnum;
use jiff::{SignedDuration, Timestamp};

use super::record::ParsedRecord;

/// Options that select records. A record must match all of them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct RecordFilter {
    /// Only records with this decision.
    #[arg(long, value_enum, value_name = "DECISION")]
    pub(super) decision: Option<DecisionOption>,
    /// Only records for this host; `*.example.com` matches every name below example.com.
    #[arg(long, value_name = "HOST")]
    pub(super) host: Option<String>,
    /// Only records of this kind.
    #[arg(long, value_enum, value_name = "KIND")]
    pub(super) kind: Option<KindOption>,
    /// Only records since this time: an age (30s, 10m, 2h, 7d), or a time such as
    /// 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN")]
    pub(super) since: Option<Since>,
}

/// A decision, as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DecisionOption {
    /// Permitted.
    Allow,
    /// Refused.
    Deny,
}

impl DecisionOption {
    /// The name in records.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            DecisionOption::Allow => "allow",
            DecisionOption::Deny => "deny",
        }
    }
}

/// A kind of record, as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KindOption {
    /// Connections without a request.
    Connection,
    /// DNS lookups.
    Dns,
    /// HTTP requests.
    Request,
    /// Events of the sandbox or of the interceptor itself.
    Approval,
    Lifecycle,
}

impl KindOption {
    fn as_str(self) -> &'static str {
        match self {
            KindOption::Connection => "connection",
            KindOption::Dns => "dns",
            KindOption::Request => "request",
            KindOption::Approval => "approval",
            KindOption::Lifecycle => "lifecycle",
        }
    }
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since(pub(super) Timestamp);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Since, String> {
        if let Ok(moment) = text.parse() {
            return Ok(Since(moment));
        }
        let ago = duration(text)
            .ok_or("must be a time (2026-01-31T12:00:00Z) or an age (30s, 10m, 2h, 7d)")?;
        Timestamp::now()
            .checked_sub(ago)
            .map(Since)
            .map_err(|_| "the time is out of range".to_owned())
    }
}

/// `30s`, `10m`, `2h`, `7d`.
pub(super) fn duration(text: &str) -> Option<SignedDuration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    Some(SignedDuration::from_secs(i64::from(number) * seconds))
}

impl RecordFilter {
    /// Whether a record matches.
    pub(super) fn wants(&self, record: &ParsedRecord) -> bool {
        self.decision.is_none_or(|wanted| record.decision.as_deref() == Some(wanted.as_str()))
            && self.kind.is_none_or(|wanted| record.kind == wanted.as_str())
            && self.host.as_deref().is_none_or(|wanted| is_host(record.destination(), wanted))
            && self
                .since
                .is_none_or(|since| record.ts.parse().is_ok_and(|at: Timestamp| at >= since.0))
    }
}

fn is_host(host: &str, wanted: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let wanted = wanted.trim_end_matches('.').to_ascii_lowercase();
    match wanted.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_times_are_chosen() {
        assert!(is_host("API.example.com.", "api.example.com"));
        assert!(
            is_host("a.b.example.com", "*.example.com") && !is_host("example.com", "*.example.com")
        );
        assert!(!is_host("notexample.com", "example.com") && !is_host("", "example.com"));
        let record = |ts: &str| ParsedRecord {
            ts: ts.into(),
            kind: "dns".into(),
            ..ParsedRecord::default()
        };
        let filter = RecordFilter {
            since: Some("2026-01-31T12:00:00Z".parse().unwrap()),
            ..RecordFilter::default()
        };
        assert!(filter.wants(&record("2026-01-31T12:00:00.000000Z")));
        assert!(
            !filter.wants(&record("2026-01-31T11:59:59.999999Z"))
                && !filter.wants(&record("yesterday"))
        );
        let filter = RecordFilter {
            since: Some("2h".parse().unwrap()),
            kind: Some(KindOption::Dns),
            ..RecordFilter::default()
        };
        assert!(filter.wants(&record(&Timestamp::now().to_string())));
        assert!(
            !RecordFilter { kind: Some(KindOption::Request), ..filter }
                .wants(&record(&Timestamp::now().to_string()))
        );
        for wrong in ["", "h", "-3h", "3", "3y", "é", "99999999999h"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }
}
