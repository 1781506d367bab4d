//! The daemon or run to ask, and how to print its responses.

use std::io::{self, Write};

use serde_json::Value;

use super::super::daemon::block_on;
use super::super::daemon::client::{self, ApiError, ApiRequest, ApiResponse};
use super::print;
use crate::cli::whom::Whom;

/// The daemon or run, and how to print its responses.
pub(super) struct DaemonClient {
    pub(super) whom: Whom,
    pub(super) json: bool,
}

impl DaemonClient {
    /// Sends a request; an error status is an error.
    pub(super) fn ask(&self, question: ApiRequest) -> anyhow::Result<ApiResponse> {
        Ok(block_on(client::ask(&self.whom.socket, question))?)
    }

    /// Sends a request and parses the JSON response.
    pub(super) fn value(&self, question: ApiRequest) -> anyhow::Result<Value> {
        self.parsed(&self.ask(question)?)
    }

    fn parsed(&self, answer: &ApiResponse) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&answer.body).map_err(|error| ApiError::Malformed {
            path: self.whom.socket.path.clone(),
            what: format!("the response is not JSON: {error}"),
        })?)
    }

    /// GETs a path, and the user who answered.
    pub(super) fn get_with_user(&self, path: &str) -> anyhow::Result<(Value, u32)> {
        let answer = self.ask(ApiRequest::get(path))?;
        Ok((self.parsed(&answer)?, answer.by))
    }

    /// GETs a path.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
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
