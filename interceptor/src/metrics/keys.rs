//! The metrics of keys that live, by the names of their credentials.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// What is known of the sources of the credentials of one name.
#[derive(Clone, Debug)]
pub(crate) struct KeyLife {
    /// The name.
    pub(crate) credential: String,
    /// Attempts to fetch a key.
    pub(crate) fetches: u64,
    /// Those that failed.
    pub(crate) failures: u64,
    /// How long the key has been there; the oldest of several.
    pub(crate) age: Option<Duration>,
    /// How long it lasts, zero once it has expired; the first of several to end.
    pub(crate) left: Option<Duration>,
}

/// Writes them.
pub(super) fn encode(all: &[KeyLife], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    type Count = fn(&KeyLife) -> u64;
    let counts: [(&str, &str, Count); 2] = [
        ("credential_fetches", "Attempts to fetch a credential's key", |key| key.fetches),
        ("credential_failures", "Attempts to fetch a key that failed", |key| key.failures),
    ];
    for (name, help, count) in counts {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for key in all {
            let name = escaped(&key.credential);
            let labels = [("credential", name.as_str())];
            let mut family = family.encode_family(&labels)?;
            family.encode_counter::<NoLabelSet, _, f64>(&count(key), None)?;
        }
    }
    type Span = fn(&KeyLife) -> Option<Duration>;
    let spans: [(&str, &str, Span); 2] = [
        ("credential_age", "Time since the key was fetched", |key| key.age),
        ("credential_expires_in", "Time until the key expires, or 0", |key| key.left),
    ];
    for (name, help, span) in spans {
        let seconds = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor(name, help, seconds, MetricType::Gauge)?;
        for (key, span) in all.iter().filter_map(|key| Some((key, span(key)?))) {
            let name = escaped(&key.credential);
            let labels = [("credential", name.as_str())];
            family.encode_family(&labels)?.encode_gauge(&span.as_secs_f64())?;
        }
    }
    Ok(())
}

/// A name as the value of a label, which the encoder writes as it is.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::KeyLife;
    use crate::audit::Audit;
    use crate::metrics::Metrics;

    fn keys() -> Vec<KeyLife> {
        let key = |credential: &str, age| KeyLife {
            credential: credential.to_owned(),
            fetches: 3,
            failures: 1,
            age,
            left: age.map(|_| Duration::from_millis(1500)),
        };
        let odd = "odd\"} 1\ninterceptor_fake{x=\"\\";
        vec![key("lab", Some(Duration::from_secs(2))), key(odd, None)]
    }

    #[test]
    fn keys_that_live_are_told_by_name_and_no_name_forges_a_line() {
        let text = Metrics::new(Audit::discard().unwrap(), keys).encode();
        for line in [
            "interceptor_credential_fetches_total{credential=\"lab\"} 3",
            "interceptor_credential_failures_total{credential=\"lab\"} 1",
            "interceptor_credential_age_seconds{credential=\"lab\"} 2.0",
            "interceptor_credential_expires_in_seconds{credential=\"lab\"} 1.5",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
        assert!(!text.lines().any(|line| line.starts_with("interceptor_fake")), "{text}");
        let odd = r#"{credential="odd\"} 1\ninterceptor_fake{x=\"\\"} 3"#;
        assert!(text.contains(odd), "{text}");
        assert_eq!(text.matches("credential_age_seconds{").count(), 1, "{text}");
    }
}
