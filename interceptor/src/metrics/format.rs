//! The two formats for scrapers: OpenMetrics, which we generate, and Prometheus' older text format.

use std::borrow::Cow;

/// The format of a scrape's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpositionFormat {
    /// Prometheus text format, version 0.0.4; the default.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl ExpositionFormat {
    /// The format requested by the `Accept` headers.
    pub(crate) fn accepted<'a>(mut accepts: impl Iterator<Item = &'a str>) -> ExpositionFormat {
        let asked = accepts
            .any(|accept| accept.to_ascii_lowercase().contains("application/openmetrics-text"));
        if asked { ExpositionFormat::OpenMetrics } else { ExpositionFormat::Prometheus }
    }

    /// The `Content-Type`.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            ExpositionFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            ExpositionFormat::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8"
            }
        }
    }

    /// Converts an OpenMetrics text to this format.
    pub(crate) fn text(self, open_metrics: String) -> String {
        match self {
            ExpositionFormat::Prometheus => prometheus(&open_metrics),
            ExpositionFormat::OpenMetrics => open_metrics,
        }
    }
}

/// The older format names a family like its samples, and has no "info", units or end mark. Samples
/// are the same.
fn prometheus(open_metrics: &str) -> String {
    // A family's help precedes its type, which determines the name in both lines.
    let mut help: Option<&str> = None;
    let mut out = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = Some(said);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let (name, kind) = match kind {
                "counter" => (Cow::Owned(format!("{name}_total")), kind),
                "info" => (Cow::Owned(format!("{name}_info")), "gauge"),
                _ => (Cow::Borrowed(name), kind),
            };
            if let Some((_, said)) = help.take().and_then(|said| said.split_once(' ')) {
                out.push_str(&format!("# HELP {name} {said}\n"));
            }
            out.push_str(&format!("# TYPE {name} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask() {
        let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;\
                       q=0.3,*/*;q=0.1";
        assert_eq!(
            ExpositionFormat::accepted([scraper].into_iter()),
            ExpositionFormat::OpenMetrics
        );
        assert_eq!(ExpositionFormat::accepted(["*/*"].into_iter()), ExpositionFormat::Prometheus);
        assert_eq!(ExpositionFormat::accepted(std::iter::empty()), ExpositionFormat::Prometheus);
    }

    #[test]
    fn families_are_named_as_their_samples_are() {
        let open_metrics = "# HELP i_build This program\n# TYPE i_build \
                            info\ni_build_info{version=\"1\"} 1\n# HELP i_up_seconds Since the \
                            start\n# TYPE i_up_seconds gauge\n# UNIT i_up_seconds \
                            seconds\ni_up_seconds 2.5\n# HELP i_lost Lost ones\n# TYPE i_lost \
                            counter\ni_lost_total 0\n# EOF\n";
        assert_eq!(ExpositionFormat::OpenMetrics.text(open_metrics.to_owned()), open_metrics);
        assert_eq!(
            ExpositionFormat::Prometheus.text(open_metrics.to_owned()),
            "# HELP i_build_info This program\n# TYPE i_build_info \
             gauge\ni_build_info{version=\"1\"} 1\n# HELP i_up_seconds Since the start\n# TYPE \
             i_up_seconds gauge\ni_up_seconds 2.5\n# HELP i_lost_total Lost ones\n# TYPE \
             i_lost_total counter\ni_lost_total 0\n"
        );
    }
}
