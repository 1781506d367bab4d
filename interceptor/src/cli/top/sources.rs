//! The daemon and the user's runs, as they come and go: a connection to each, which begins anew
//! when it breaks, as when another daemon takes over.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::heard::{Heard, Source};
use super::text::Plain;
use crate::cli::daemon::client::{Address, ApiError};
use crate::cli::daemon::events::{Events, begin};
use crate::cli::live::place::{self, RunSocket};
use crate::cli::person::Person;
use crate::cli::whom::Whom;

/// How often runs are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait before a source is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a stream may say nothing. It says something every ten seconds.
const SILENCE: Duration = Duration::from_secs(25);
/// Everything that there is to follow.
const EVENTS: &str = "/v1/events";

/// A message to the screen.
#[derive(Debug)]
pub(super) enum Message {
    /// There is a source: its name, where it is, and whether it is missed if it does not answer.
    Found { source: Source, name: Plain, whom: Whom, is_expected: bool },
    /// A source tells something.
    Heard(Source, Heard),
}

/// Follows the daemon at a socket that was named, else the daemon and the user's runs. Ends when
/// nobody listens any more.
pub(super) async fn follow(control: Option<PathBuf>, person: Person, to: Sender<Message>) {
    let is_named = control.is_some();
    let daemon = Whom::daemon(control);
    let name = Plain::of("the daemon");
    let address = daemon.socket.clone();
    let found = Message::Found { source: 0, name, whom: daemon, is_expected: is_named };
    if to.send(found).await.is_err() {
        return;
    }
    tokio::spawn(one(0, address, to.clone()));
    if is_named {
        return;
    }
    runs(person, to).await;
}

/// A run that is followed.
struct Followed {
    source: Source,
    task: AbortHandle,
}

async fn runs(person: Person, to: Sender<Message>) {
    let mut known: HashMap<PathBuf, Followed> = HashMap::new();
    let mut next: Source = 1;
    loop {
        let asking = person.clone();
        let listed = tokio::task::spawn_blocking(move || place::runs(&asking)).await;
        // A directory that cannot be read now is looked at again.
        if let Ok(Ok(listed)) = listed {
            let gone: Vec<PathBuf> = known
                .keys()
                .filter(|path| listed.iter().all(|run| run.path != **path))
                .cloned()
                .collect();
            for path in gone {
                let Some(followed) = known.remove(&path) else { continue };
                followed.task.abort();
                let ended = Message::Heard(followed.source, Heard::Ended);
                if to.send(ended).await.is_err() {
                    return;
                }
            }
            for run in listed {
                if known.contains_key(&run.path) {
                    continue;
                }
                let (path, source) = (run.path.clone(), next);
                next = next.wrapping_add(1).max(1);
                match add(source, run, &to).await {
                    Some(task) => known.insert(path, Followed { source, task }),
                    None => return,
                };
            }
        }
        sleep(LOOK).await;
    }
}

async fn add(source: Source, run: RunSocket, to: &Sender<Message>) -> Option<AbortHandle> {
    let name = Plain::of(&format!("the run {}", run.id));
    let address = run.address();
    let found = Message::Found { source, name, whom: Whom::of_run(run), is_expected: true };
    to.send(found).await.ok()?;
    Some(tokio::spawn(one(source, address, to.clone())).abort_handle())
}

/// Follows a source, again and again.
async fn one(source: Source, address: Address, to: Sender<Message>) {
    loop {
        let Err(why) = stream(source, &address, &to).await else { return };
        let why = Plain::of(&why);
        if to.send(Message::Heard(source, Heard::Broken(why))).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// Follows one stream; `Ok` when nobody listens to it any more.
///
/// # Errors
/// Why it ended, in words.
async fn stream(source: Source, address: &Address, to: &Sender<Message>) -> Result<(), String> {
    let mut events: Events = begin(address, EVENTS).await.map_err(why)?;
    loop {
        let next = timeout(SILENCE, events.next()).await;
        let next = next.map_err(|_| "it has said nothing for a while; it may be stopped")?;
        let Some(event) = next.map_err(why)? else {
            return Err("it has ended, or another takes over".to_owned());
        };
        let Some(heard) = event.and_then(|event| Heard::read(&event.name, &event.data)) else {
            continue;
        };
        if to.send(Message::Heard(source, heard)).await.is_err() {
            return Ok(());
        }
    }
}

fn why(error: ApiError) -> String {
    match error {
        ApiError::Unreachable { cause, .. } => cause.to_string(),
        ApiError::Refused(problem) if problem.is_missing() => {
            "it is older than this program: restart it".to_owned()
        }
        other => other.to_string(),
    }
}
