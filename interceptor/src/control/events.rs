//! One stream of events for everything that a person follows: `GET /v1/events`, and the same for
//! the page.
//!
//! `hello`, then `sandboxes`, `leases`, `questions` and the kept records; then each change. A
//! reader that falls behind is told how much it missed (`dropped`), and gets the state anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::approvals::question_text;
use super::leases::lease_text;
use super::peer::Peer;
use super::sandboxes::summary;
use super::shared::{Control, Reader};
use super::sse::{EventSender, ReaderGone};
use crate::audit::Published;
use crate::fleet::{FeedEvent, Fleet, Member};

/// How often sandboxes and leases are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the reader is judged again, and told that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// For how long records gather into one event.
const GATHER: Duration = Duration::from_millis(50);
/// The most records of one event, and the most bytes.
const AT_ONCE: usize = 512;
const AT_ONCE_BYTES: usize = 256 * 1024;
/// The most kept records that a stream begins with.
const MOST_KEPT: usize = 2_000;
/// The most sandboxes that are told of.
const MOST_SANDBOXES: usize = 1_000;
/// How long a record may be before its texts are cut, and how long each is then, in bytes.
const LONG_RECORD: usize = 4 * 1024;
const LONG_TEXT: usize = 1024;

/// Follows everything: sandboxes, what they are allowed and refused, what they ask, leases, and
/// records as they come, several in an event. Events: `hello`, `sandboxes`, `counts`, `leases`,
/// `questions` (all that wait), `question` (what happens to one), `records`, and `dropped` (so many
/// records were lost). The stream ends when another daemon takes over.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "sandboxes",
    responses((
        status = 200,
        description = "Server-sent events",
        body = String,
        content_type = "text/event-stream",
    ))
)]
pub(super) async fn follow(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Response {
    answer(control.fleet, control.stop, peer)
}

/// The answer whose body is the stream, until `stop` is cancelled.
pub(crate) fn answer(fleet: Arc<Fleet>, stop: CancellationToken, reader: impl Reader) -> Response {
    let (events, answer) = EventSender::answer();
    let stream = Stream { fleet, stop, reader, events, told: Told::default() };
    tokio::spawn(async move {
        // Fails only if the reader is gone.
        let _ = stream.run().await;
    });
    answer
}

/// Records that were told of as kept and may come once more, by their addresses.
type Seen = HashMap<usize, Arc<Published>>;

struct Stream<R> {
    fleet: Arc<Fleet>,
    stop: CancellationToken,
    reader: R,
    events: EventSender,
    told: Told,
}

/// What the reader knows.
#[derive(Default)]
struct Told {
    sandboxes: Option<Vec<(Arc<str>, Timestamp)>>,
    leases: Option<String>,
    counts: HashMap<Arc<str>, (u64, u64)>,
}

impl<R: Reader> Stream<R> {
    async fn run(mut self) -> Result<(), ReaderGone> {
        // Before anything is read, so that nothing is missed.
        let (mut records, mut questions) = (self.fleet.records(), self.fleet.approvals());
        let hello = json!({
            "version": env!("CARGO_PKG_VERSION"), "now": format!("{:.3}", Timestamp::now()),
        });
        self.events.event("hello", None, &hello.to_string()).await?;
        self.state().await?;
        let mut seen = self.kept().await?;
        let stop = self.stop.clone();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.events.gone() => return Err(ReaderGone),
                _ = beat.tick() => {
                    seen.clear();
                    if !self.reader.lasts(&self.fleet).await {
                        return Ok(());
                    }
                    self.events.heartbeat().await?;
                }
                _ = look.tick() => self.look().await?,
                heard = questions.recv() => match heard {
                    Ok(event) => {
                        self.question(event.name, &question_text(&event.question)).await?;
                        if event.name == "approved" {
                            self.look().await?;
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.questions().await?,
                    Err(RecvError::Closed) => return Ok(()),
                },
                heard = records.recv() => match heard {
                    Ok(first) => self.records(first, &mut records, &mut seen).await?,
                    Err(RecvError::Lagged(count)) => self.dropped(count).await?,
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
    }

    /// Everything but records.
    async fn state(&mut self) -> Result<(), ReaderGone> {
        self.told = Told::default();
        self.look().await?;
        self.questions().await
    }

    /// Tells of sandboxes and leases, where they have changed.
    async fn look(&mut self) -> Result<(), ReaderGone> {
        let members = self.fleet.list();
        let known = members.iter().map(|member| (member.id.clone(), member.changed())).collect();
        if self.told.sandboxes.as_ref() != Some(&known) {
            let shown: Vec<_> =
                members.iter().take(MOST_SANDBOXES).map(|member| summary(member)).collect();
            let more = members.len().saturating_sub(MOST_SANDBOXES);
            let data = json!({ "sandboxes": shown, "more": more }).to_string();
            self.events.event("sandboxes", None, &data).await?;
            self.told.sandboxes = Some(known);
        }
        self.count(&members).await?;
        let mut leases: Vec<Value> = Vec::new();
        for member in &members {
            for lease in member.leases() {
                let mut lease = lease_text(lease);
                lease["sandbox"] = (*member.id).into();
                leases.push(lease);
            }
        }
        let leases = Value::from(leases).to_string();
        if self.told.leases.as_ref() != Some(&leases) {
            self.events.event("leases", None, &leases).await?;
            self.told.leases = Some(leases);
        }
        Ok(())
    }

    /// Tells what was allowed and refused, where that has changed.
    async fn count(&mut self, members: &[Arc<Member>]) -> Result<(), ReaderGone> {
        let mut counts: Vec<Value> = Vec::new();
        let mut known = HashMap::new();
        for member in members.iter().take(MOST_SANDBOXES) {
            let now = member.feed.counts();
            if self.told.counts.get(&member.id) != Some(&now) {
                counts.push(json!([&*member.id, now.0, now.1]));
            }
            known.insert(member.id.clone(), now);
        }
        self.told.counts = known;
        if counts.is_empty() {
            return Ok(());
        }
        self.events.event("counts", None, &Value::from(counts).to_string()).await
    }

    /// Tells of every question: of so many at once, and of each further one by itself, so that no
    /// event is longer than a reader takes.
    async fn questions(&self) -> Result<(), ReaderGone> {
        let all: Vec<String> = self.fleet.questions().iter().map(question_text).collect();
        let mut bytes = 0;
        let fits = |text: &&String| {
            bytes += text.len();
            bytes <= AT_ONCE_BYTES
        };
        let at_once = all.iter().take_while(fits).count();
        let (first, rest) = all.split_at(at_once);
        self.events.event("questions", None, &format!("[{}]", first.join(","))).await?;
        for question in rest {
            self.question("asked", question).await?;
        }
        Ok(())
    }

    /// Tells what happened to a question.
    async fn question(&self, name: &str, question: &str) -> Result<(), ReaderGone> {
        let data = format!(r#"{{"event":"{name}","question":{question}}}"#);
        self.events.event("question", None, &data).await
    }

    /// Tells of the kept records; returns which they are.
    async fn kept(&self) -> Result<Seen, ReaderGone> {
        let members = self.fleet.list();
        let mut kept: Vec<Arc<Published>> =
            members.iter().flat_map(|member| member.feed.recent()).collect();
        kept.sort_by_key(|record| record.time);
        let kept = kept.split_off(kept.len().saturating_sub(MOST_KEPT));
        for part in kept.chunks(AT_ONCE) {
            self.told_of(part).await?;
        }
        Ok(kept.into_iter().map(|record| (address(&record), record)).collect())
    }

    /// Tells of a record, and of those that come soon after it.
    async fn records(
        &mut self,
        first: FeedEvent,
        coming: &mut Receiver<FeedEvent>,
        seen: &mut Seen,
    ) -> Result<(), ReaderGone> {
        let until = Instant::now() + GATHER;
        let (mut gathered, mut bytes, mut lost) = (Vec::new(), 0, 0);
        let mut next = Some(first);
        while let Some(event) = next.take() {
            match event {
                FeedEvent::Lost(count) => lost += count,
                FeedEvent::Record(record) => {
                    bytes += record.json.len().min(LONG_RECORD);
                    if seen.remove(&address(&record)).is_none() {
                        gathered.push(record);
                    }
                }
            }
            if gathered.len() >= AT_ONCE || bytes >= AT_ONCE_BYTES {
                break;
            }
            next = match coming.try_recv() {
                Ok(event) => Some(event),
                Err(TryRecvError::Lagged(count)) => Some(FeedEvent::Lost(count)),
                Err(TryRecvError::Closed) => None,
                Err(TryRecvError::Empty) => {
                    match tokio::time::timeout_at(until, coming.recv()).await {
                        Ok(Ok(event)) => Some(event),
                        Ok(Err(RecvError::Lagged(count))) => Some(FeedEvent::Lost(count)),
                        Ok(Err(RecvError::Closed)) | Err(_) => None,
                    }
                }
            };
        }
        if !gathered.is_empty() {
            self.told_of(&gathered).await?;
        }
        if lost > 0 { self.dropped(lost).await } else { Ok(()) }
    }

    async fn told_of(&self, records: &[Arc<Published>]) -> Result<(), ReaderGone> {
        let all: Vec<String> = records.iter().map(|record| brief(&record.json)).collect();
        self.events.event("records", None, &format!("[{}]", all.join(","))).await
    }

    /// So many records did not come through.
    async fn dropped(&mut self, count: u64) -> Result<(), ReaderGone> {
        let data = json!({ "dropped": count }).to_string();
        self.events.event("dropped", None, &data).await?;
        self.state().await
    }
}

/// The address of a record, which is its own while it is held.
fn address(record: &Arc<Published>) -> usize {
    Arc::as_ptr(record).addr()
}

/// A record with its texts cut where it is long: a page keeps thousands of them.
fn brief(record: &str) -> String {
    if record.len() <= LONG_RECORD {
        return record.to_owned();
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_str(record) else {
        return "{}".to_owned();
    };
    for text in fields.values_mut() {
        if let Value::String(long) = text
            && long.len() > LONG_TEXT
        {
            let end = (0..=LONG_TEXT).rev().find(|end| long.is_char_boundary(*end));
            long.truncate(end.unwrap_or_default());
            long.push('…');
        }
    }
    Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_record_is_cut_and_stays_one() {
        let short = r#"{"path":"/a"}"#;
        assert_eq!(brief(short), short);
        let long = json!({ "id": "x", "path": format!("/{}", "é".repeat(40_000)), "port": 443 });
        let cut: Value = serde_json::from_str(&brief(&long.to_string())).unwrap();
        assert_eq!((&cut["id"], &cut["port"]), (&json!("x"), &json!(443)));
        let path = cut["path"].as_str().unwrap();
        assert!(path.len() < LONG_TEXT + 8 && path.ends_with('…'), "{path}");
    }
}
