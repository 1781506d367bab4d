//! What daemons and runs tell, and what is asked of them: the messages between the screen and the
//! connections.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{self, Plain};

/// A control socket: a daemon's or a run's.
pub(super) type Source = u32;

/// What is heard of a source.
#[derive(Debug)]
pub(super) enum Heard {
    /// Its stream of events begins; everything but records is told anew.
    Begun,
    /// Its sandboxes, and how many more there are.
    Sandboxes(Vec<Sandbox>, u64),
    /// What its sandboxes were allowed and refused by now.
    Counts(Vec<(String, u64, u64)>),
    /// All leases.
    Leases(Vec<Lease>),
    /// All questions.
    Questions(Vec<Question>),
    /// What happened to a question: its event.
    Question(String, Question),
    /// Records, as JSON.
    Records(Vec<Value>),
    /// So many records were lost.
    Dropped(u64),
    /// It does not answer; why.
    Broken(Plain),
    /// It has ended: a run whose command has.
    Ended,
}

/// A sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Its id.
    pub(super) id: String,
    /// What it is: its command, image or cgroup.
    pub(super) about: Plain,
    /// Who runs it, if that is known.
    pub(super) user: Plain,
    /// Where its policy comes from.
    pub(super) policy: Plain,
    /// Whether that is a file.
    pub(super) has_file: bool,
    /// How many requests it was allowed.
    pub(super) allowed: u64,
    /// And refused.
    pub(super) denied: u64,
}

/// What is permitted beside a policy.
#[derive(Debug)]
pub(super) struct Lease {
    /// Its sandbox.
    pub(super) sandbox: String,
    /// Its id.
    pub(super) id: String,
    /// When it ends.
    pub(super) until: Option<Timestamp>,
    /// How many requests it may still permit.
    pub(super) uses: Option<u64>,
    /// Who gave it.
    pub(super) by: Plain,
    /// What it permits.
    pub(super) edit: Plain,
}

/// A question that waits for an answer.
#[derive(Debug)]
pub(super) struct Question {
    /// Its id.
    pub(super) id: String,
    /// Its sandbox.
    pub(super) sandbox: String,
    /// When it was asked, to sort by.
    pub(super) asked_at: String,
    /// When its requests are refused without an answer.
    pub(super) expires: Option<Timestamp>,
    /// The method.
    pub(super) method: Plain,
    /// Host, port and path.
    pub(super) target: Plain,
    /// What is asked, in words.
    pub(super) message: Plain,
    /// How many requests wait.
    pub(super) waiting: u64,
    /// The edits that permit it, smallest first.
    pub(super) patches: Vec<Proposed>,
}

/// An edit that permits.
#[derive(Debug)]
pub(super) struct Proposed {
    /// Its operations.
    pub(super) patch: Value,
    /// Whether it permits similar paths too.
    pub(super) wider: bool,
    /// The same in words.
    pub(super) text: Plain,
}

impl Heard {
    /// An event of the stream; `None` for what is of no interest.
    pub(super) fn read(name: &str, data: &str) -> Option<Heard> {
        let value: Value = serde_json::from_str(data).ok()?;
        Some(match name {
            "hello" => Heard::Begun,
            "sandboxes" => {
                let all = list(&value["sandboxes"], Sandbox::read);
                Heard::Sandboxes(all, value["more"].as_u64().unwrap_or(0))
            }
            "counts" => Heard::Counts(list(&value, |one| {
                Some((one[0].as_str()?.to_owned(), one[1].as_u64()?, one[2].as_u64()?))
            })),
            "leases" => Heard::Leases(list(&value, Lease::read)),
            "questions" => Heard::Questions(list(&value, Question::read)),
            "question" => Heard::Question(
                value["event"].as_str()?.to_owned(),
                Question::read(&value["question"])?,
            ),
            "records" => match value {
                Value::Array(records) => Heard::Records(records),
                _ => return None,
            },
            "dropped" => Heard::Dropped(value["dropped"].as_u64().unwrap_or(0)),
            _ => return None,
        })
    }
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().into_iter().flatten().filter_map(read).collect()
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

impl Sandbox {
    fn read(value: &Value) -> Option<Sandbox> {
        let about = ["command", "image", "cgroup"].map(|field| &value[field]);
        let about = about.into_iter().find(|value| value.is_string()).unwrap_or(&Value::Null);
        let policy = [&value["policy_name"], &value["policy_file"]];
        let policy = policy.into_iter().find(|value| value.is_string()).unwrap_or(&Value::Null);
        Some(Sandbox {
            id: value["id"].as_str()?.to_owned(),
            about: Plain::of_value(about),
            user: Plain::of_value(&value["user"]),
            policy: Plain::of_value(policy),
            has_file: value["policy_file"].is_string(),
            allowed: value["allowed"].as_u64().unwrap_or(0),
            denied: value["denied"].as_u64().unwrap_or(0),
        })
    }
}

impl Lease {
    fn read(value: &Value) -> Option<Lease> {
        Some(Lease {
            sandbox: value["sandbox"].as_str()?.to_owned(),
            id: value["id"].as_str()?.to_owned(),
            until: time(&value["until"]),
            uses: value["uses"].as_u64(),
            by: Plain::of_value(&value["by"]),
            edit: text::edit(&value["patch"]),
        })
    }
}

impl Question {
    fn read(value: &Value) -> Option<Question> {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let port = value["port"].as_u64().filter(|port| ![80, 443].contains(port));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        Some(Question {
            id: value["id"].as_str()?.to_owned(),
            sandbox: value["sandbox"].as_str()?.to_owned(),
            asked_at: text("asked_at").to_owned(),
            expires: time(&value["expires_at"]),
            method: Plain::of(text("method")),
            target: Plain::of(&format!("{}{port}{}", text("host"), text("path"))),
            message: Plain::of(text("message")),
            waiting: value["waiting"].as_u64().unwrap_or(1),
            patches: list(&value["patches"], |one| {
                Some(Proposed {
                    patch: one.get("patch").filter(|patch| patch.is_array())?.clone(),
                    wider: one["wider"] == true,
                    text: text::edit(&one["patch"]),
                })
            }),
        })
    }
}

/// What is asked of a source.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// Answers a question with this body.
    Decide { question: String, body: Value },
    /// Approves a question, and writes the edit into the policy's file.
    Always { sandbox: String, question: String, body: Value },
    /// Permits an edit.
    Lease { sandbox: String, body: Value },
    /// Ends a lease.
    Revoke { sandbox: String, lease: String },
    /// What the policy says of this record.
    Story { record: u64, json: Value },
    /// The policy of a sandbox, to show the line of this pointer.
    Policy { sandbox: String, marked: Option<String> },
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Told {
    /// It is done: what to say.
    Done(Plain),
    /// It is not: why.
    Failed(Plain),
    /// What the policy says of the record of this number.
    Story { record: u64, story: Value },
    /// A sandbox's details.
    Policy { sandbox: String, marked: Option<String>, details: Value },
}
