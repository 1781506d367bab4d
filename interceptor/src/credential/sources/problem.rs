//! Why a source has no key.

use std::time::Duration;

/// Why a source has no key. Never holds anything that the source said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceProblem {
    /// Programs are not run here.
    #[error("is not run: {0}")]
    Refused(&'static str),
    /// There is no such program.
    #[error("was not found in PATH")]
    NotFound,
    /// The sandbox could put another program in its place.
    #[error(
        "is not run, because the sandbox's user can change {0}: put it where only root can write, \
         or run the sandbox as another user (--user)"
    )]
    Changeable(String),
    /// It could not be started.
    #[error("could not be started: {0}")]
    Unstarted(String),
    /// It took too long.
    #[error("did not end within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It printed too much.
    #[error("printed more than 64 KiB")]
    TooLong,
    /// It ended with an error.
    #[error("ended with status {0}")]
    Status(i32),
    /// A signal killed it.
    #[error("was killed by signal {0}")]
    Killed(i32),
    /// It printed JSON of no known form.
    #[error("printed JSON in which no key is recognised")]
    Form,
    /// Its key had expired before it came.
    #[error("gave a key that has expired")]
    Expired,
    /// Too many of its keys live already.
    #[error("gave {0} other keys that have not expired yet")]
    TooMany(usize),
    /// Services are not asked here.
    #[error("is not asked: {0}")]
    Unasked(&'static str),
    /// It gave no answer.
    #[error("{0}")]
    Unfetched(String),
    /// It did not answer in time.
    #[error("did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It answered with an error, by its status and the name of the error.
    #[error("answered {status}{}", named(*.code))]
    Answered {
        /// The status.
        status: u16,
        /// The error, if it is one of those that the service's protocol names.
        code: Option<&'static str>,
    },
    /// Its answer holds no token.
    #[error("gave an answer in which no token is recognised")]
    NoToken,
    /// Its secret lacks the field that the policy names.
    #[error("gave a secret without a text in the field `{0}`")]
    NoField(String),
    /// Its token is of another kind.
    #[error("gave a token that is no bearer token")]
    TokenType,
    /// A secret that it is asked with is not there.
    #[error("was not asked: its {field} {problem}")]
    Input {
        /// The secret's field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A refresh token can be kept nowhere.
    #[error("gives refresh tokens, which cannot be kept: {0}")]
    Unkept(String),
    /// Another process uses the refresh token.
    #[error("was not asked: another used its refresh token for more than {} s", .0.as_secs())]
    Busy(Duration),
    /// It is no key.
    #[error("gave what is no key: it {0}")]
    Key(String),
}

fn named(code: Option<&str>) -> String {
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}
