//! `/v1/sandboxes/{id}/audit`: streams the records of one sandbox as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use interceptor_policy::Host;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};

use super::params::{Id, Params, malformed};
use super::problem::ApiProblem;
use super::shared::Control;
use super::sse::{EventSender, ReaderGone};
use crate::audit::{Published, Verdict};
use crate::fleet::{FeedEvent, FeedView};

/// Interval of heartbeats on an idle stream.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Which records are sent.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Follow {
    /// Only records with this decision.
    #[param(inline)]
    decision: Option<Decision>,
    /// Only records for this host; `*.NAME` matches every name below NAME.
    host: Option<String>,
    /// Begin with kept records (at most the last 512, within 64 KiB) since this time (RFC 3339).
    since: Option<String>,
}

/// A decision.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Decision {
    Allow,
    Deny,
}

/// Follows the records of a sandbox. Events: `record` (data: the record; id: the request id),
/// `dropped` (the number of records lost before this point), `end` (the sandbox was removed; the
/// stream ends).
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/audit",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id"), Follow),
    responses(
        (
            status = 200,
            description = "Server-sent events",
            body = String,
            content_type = "text/event-stream",
        ),
        (status = 400, description = "A filter is not valid"),
        (status = 404, description = "There is no such sandbox"),
    )
)]
pub(super) async fn follow(
    State(control): State<Control>,
    Id(id): Id,
    Params(follow): Params<Follow>,
) -> Result<Response, ApiProblem> {
    let (filter, since) = StreamFilter::new(follow)?;
    let listener = control.fleet.get(&id)?.feed.listen(since);
    let (events, answer) = EventSender::answer();
    tokio::spawn(async move {
        // Fails only if the reader is gone.
        let _ = send(listener, filter, events).await;
    });
    Ok(answer)
}

async fn send(
    listener: FeedView,
    filter: StreamFilter,
    events: EventSender,
) -> Result<(), ReaderGone> {
    let FeedView { recent, coming } = listener;
    // Shows at once that the stream is open.
    events.heartbeat().await?;
    for published in recent.iter().filter(|published| filter.passes(published)) {
        record(&events, published).await?;
    }
    if let Some(mut coming) = coming {
        loop {
            let heard = tokio::select! {
                heard = tokio::time::timeout(HEARTBEAT, coming.recv()) => heard,
                () = events.gone() => return Err(ReaderGone),
            };
            match heard {
                Err(_) => events.heartbeat().await?,
                Ok(Ok(FeedEvent::Record(published))) => {
                    if filter.passes(&published) {
                        record(&events, &published).await?;
                    }
                }
                Ok(Ok(FeedEvent::Lost(count)) | Err(RecvError::Lagged(count))) => {
                    events.event("dropped", None, &json!({ "dropped": count }).to_string()).await?;
                }
                Ok(Err(RecvError::Closed)) => break,
            }
        }
    }
    events.event("end", None, &json!({ "reason": "the sandbox was removed" }).to_string()).await
}

async fn record(events: &EventSender, published: &Arc<Published>) -> Result<(), ReaderGone> {
    events.event("record", Some(&published.id.to_string()), &published.json).await
}

struct StreamFilter {
    decision: Option<Verdict>,
    host: Option<Hosts>,
}

/// A host, or every name below one.
enum Hosts {
    One(String),
    Below(String),
}

impl StreamFilter {
    fn new(follow: Follow) -> Result<(StreamFilter, Option<Timestamp>), ApiProblem> {
        let since = match follow.since.as_deref().map(str::parse) {
            None => None,
            Some(Ok(time)) => Some(time),
            Some(Err(_)) => {
                return Err(malformed(
                    "`since` must be a time such as 2030-01-31T12:00:00Z (RFC 3339)",
                ));
            }
        };
        let host = follow.host.map(|host| {
            let (below, name) = match host.strip_prefix("*.") {
                Some(name) => (true, name),
                None => (false, host.as_str()),
            };
            match Host::parse(name) {
                Ok(Host::Name(name)) if below => Ok(Hosts::Below(format!(".{}", name.as_str()))),
                Ok(host) if !below => Ok(Hosts::One(host.to_string())),
                _ => {
                    Err(malformed("`host` must be a name, an address, or `*.` followed by a name"))
                }
            }
        });
        let decision = follow.decision.map(|decision| match decision {
            Decision::Allow => Verdict::Allow,
            Decision::Deny => Verdict::Deny,
        });
        Ok((StreamFilter { decision, host: host.transpose()? }, since))
    }

    fn passes(&self, record: &Published) -> bool {
        let named = || match (&record.host, record.ip) {
            (Some(host), _) => Some(host.to_string()),
            (None, ip) => ip.map(|ip| ip.to_canonical().to_string()),
        };
        let host = match &self.host {
            None => true,
            Some(Hosts::One(host)) => named().is_some_and(|named| named == *host),
            Some(Hosts::Below(suffix)) => {
                named().is_some_and(|named| named.ends_with(suffix.as_str()))
            }
        };
        host && (self.decision.is_none() || self.decision == record.decision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Kind, Record, RequestId};

    fn filter(host: Option<&str>, decision: Option<Decision>) -> StreamFilter {
        StreamFilter::new(Follow { decision, host: host.map(str::to_owned), since: None })
            .unwrap()
            .0
    }

    #[test]
    fn filters_pass_what_they_name() {
        let record = Record::new(&"sb".into(), RequestId::new(), Kind::Request, Verdict::Deny)
            .host("api.lab.example");
        let record = Published::of(&record, "{}");
        assert!(filter(None, None).passes(&record));
        assert!(filter(Some("API.lab.example."), Some(Decision::Deny)).passes(&record));
        assert!(filter(Some("*.example"), None).passes(&record));
        for other in ["lab.example", "*.api.lab.example", "example"] {
            assert!(!filter(Some(other), None).passes(&record), "{other}");
        }
        assert!(!filter(None, Some(Decision::Allow)).passes(&record));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let follow = |host: Option<&str>, since: Option<&str>| Follow {
            decision: None,
            host: host.map(str::to_owned),
            since: since.map(str::to_owned),
        };
        for wrong in [
            follow(Some("a b"), None),
            follow(Some("*.1.2.3.4"), None),
            follow(None, Some("yesterday")),
        ] {
            assert!(StreamFilter::new(wrong).is_err());
        }
        assert!(
            StreamFilter::new(follow(None, Some("2030-01-31T12:00:00.5Z"))).unwrap().1.is_some()
        );
    }
}
