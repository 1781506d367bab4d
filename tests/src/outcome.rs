//! The outcome of one run of the product: its exit status, its output and the command's, and the
//! audit records.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde_json::Value;

use crate::audit::Record;

/// The outcome of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How the interceptor ended.
    pub status: ExitStatus,
    /// The command's standard output.
    pub stdout: Vec<u8>,
    /// Standard error of the command and the interceptor.
    pub stderr: Vec<u8>,
    /// The audit file.
    pub audit: Vec<Record>,
}

/// A refusal as a client received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `error.type` of the body.
    pub reason: String,
    /// The whole `error` object.
    pub error: Value,
}

impl Outcome {
    /// The exit status; `None` when a signal ended the interceptor.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended the interceptor.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The last lines of standard error without trace output, for messages of failed tests.
    pub fn tail(&self) -> String {
        let noisy = |line: &&str| {
            line.contains(" TRACE ")
                || line.contains(" DEBUG ")
                || line.starts_with([' ', '}', ']'])
        };
        let text = self.err();
        let lines: Vec<&str> = text.lines().filter(|line| !noisy(line)).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Asserts that the command ended with status 0, and returns this.
    ///
    /// # Panics
    /// With its output, if it did not.
    #[track_caller]
    pub fn success(&self) -> &Outcome {
        assert!(
            self.status.success(),
            "{}\nstdout: {}\nstderr: {}",
            self.status,
            self.out(),
            self.tail()
        );
        self
    }

    /// Standard output as one JSON value.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {}\n{}\n{}", self.status, self.out(), self.tail()),
        }
    }

    /// The records of requests with this decision, in order.
    pub fn requests(&self, decision: &str) -> Vec<&Record> {
        self.audit.iter().filter(|record| record.is_request(decision)).collect()
    }

    /// Asserts that exactly one request was refused, for `reason`, and returns its record.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn one_denied(&self, reason: &str) -> &Record {
        let records = self.requests("deny");
        let reasons: Vec<_> =
            records.iter().filter_map(|record| record.reason.as_deref()).collect();
        assert_eq!(reasons, [reason], "requests in the audit file: {records:#?}");
        records[0]
    }

    /// Asserts that exactly one request has a reason in its record, and that it is this one.
    /// Returns the record. A request that the origin received before it failed was allowed,
    /// whatever the client saw.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn one_with(&self, reason: &str) -> &Record {
        let records: Vec<_> =
            self.audit.iter().filter(|r| r.kind == "request" && r.reason.is_some()).collect();
        let reasons: Vec<_> =
            records.iter().filter_map(|record| record.reason.as_deref()).collect();
        assert_eq!(reasons, [reason], "requests in the audit file: {records:#?}");
        records[0]
    }
}

impl Refusal {
    /// Reads a refusal and checks what holds for every one: the body's fields, and that header and
    /// body agree.
    ///
    /// # Panics
    /// With the answer, if it is not a refusal.
    #[track_caller]
    pub fn read(status: u16, decision_header: Option<&str>, body: &str) -> Refusal {
        let value: Value = match serde_json::from_str(body) {
            Ok(value) => value,
            Err(error) => {
                panic!(
                    "a refusal whose body is no JSON ({error}): {status} {decision_header:?} \
                     {body:?}"
                )
            }
        };
        let error = &value["error"];
        let reason =
            error["type"].as_str().unwrap_or_else(|| panic!("no error.type in {body}")).to_owned();
        assert_eq!(
            decision_header,
            Some(format!("deny; reason={reason}").as_str()),
            "x-interceptor-decision"
        );
        assert!(
            error["message"].as_str().is_some_and(|message| message.len() > 10),
            "no message in {body}"
        );
        assert!(
            error["request_id"].as_str().is_some_and(|id| id.len() > 10),
            "no request_id in {body}"
        );
        Refusal { status, reason, error: error.clone() }
    }
}
