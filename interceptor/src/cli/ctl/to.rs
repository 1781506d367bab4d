//! The daemon or run to ask, and how to print its responses.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

use super::super::daemon::block_on;
use super::super::daemon::client::{self, ApiError, ApiRequest, ApiResponse};
use super::print;
use crate::cli::policy_file::printable;
use crate::cli::whom::Whom;
use crate::notice;

/// How long to wait for each of several.
const PATIENCE: Duration = Duration::from_secs(5);

/// The daemon or run, and how to print its responses.
pub(in crate::cli) struct DaemonClient {
    pub(super) whom: Whom,
    pub(super) json: bool,
}

impl DaemonClient {
    /// One that prints nothing.
    pub(in crate::cli) fn quiet(whom: Whom) -> DaemonClient {
        DaemonClient { whom, json: true }
    }

    /// Sends a request; an error status is an error.
    pub(in crate::cli) fn ask(&self, question: ApiRequest) -> anyhow::Result<ApiResponse> {
        Ok(block_on(client::ask(&self.whom.socket, question))?)
    }

    /// Sends a request and parses the JSON response.
    pub(in crate::cli) fn value(&self, question: ApiRequest) -> anyhow::Result<Value> {
        self.parsed(&self.ask(question)?)
    }

    fn parsed(&self, answer: &ApiResponse) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&answer.body).map_err(|error| ApiError::Malformed {
            path: self.whom.socket.path.clone(),
            what: format!("the response is not JSON: {error}"),
        })?)
    }

    /// GETs a path of each at once, within seconds where there are several: one may be stopped.
    pub(super) fn get_of_all(all: &[DaemonClient], path: &str) -> Vec<anyhow::Result<Value>> {
        let [_, _, ..] = all else { return all.iter().map(|to| to.get(path)).collect() };
        let get = |to: &DaemonClient| {
            let asked = block_on(async {
                let asking = client::ask(&to.whom.socket, ApiRequest::get(path));
                tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| {
                    let what = format!("no answer within {} seconds", PATIENCE.as_secs());
                    Err(ApiError::Malformed { path: to.whom.socket.path.clone(), what })
                })
            });
            if let (Err(ApiError::Malformed { .. }), Some(run)) = (&asked, &to.whom.run) {
                notice::warning(format_args!("the run {} does not answer", printable(&run.id)));
            }
            to.parsed(&asked?)
        };
        thread::scope(|scope| {
            let asking: Vec<_> = all.iter().map(|to| scope.spawn(|| get(to))).collect();
            let ended = |one: thread::ScopedJoinHandle<'_, _>| {
                one.join().unwrap_or_else(|_| bail!("a thread ended early"))
            };
            asking.into_iter().map(ended).collect()
        })
    }

    /// GETs a path, and the user who answered.
    pub(super) fn get_with_user(&self, path: &str) -> anyhow::Result<(Value, u32)> {
        let answer = self.ask(ApiRequest::get(path))?;
        Ok((self.parsed(&answer)?, answer.by))
    }

    /// GETs a path.
    pub(in crate::cli) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.value(ApiRequest::get(path))
    }

    /// Prints a value, as JSON or with `human`.
    pub(super) fn print(
        &self,
        value: &Value,
        human: impl FnOnce(&mut dyn Write, &Value) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { print::json(&mut out, value) } else { human(&mut out, value) }?;
        Ok(out.flush()?)
    }
}
