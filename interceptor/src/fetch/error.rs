//! Why a service gave no answer.

use std::io;
use std::time::Duration;

use http::StatusCode;
use rustls::Error;

use crate::tls::refusal;
use crate::upstream::UpstreamError;

/// The longest body of an answer in bytes.
pub(super) const LARGEST: usize = 64 * 1024;

/// Why a service gave no answer. Each message completes a sentence that starts with the service,
/// and holds nothing that it said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No thread or runtime could be made for it.
    #[error("was not asked: {0}")]
    Unstarted(#[source] io::Error),
    /// It failed here.
    #[error("was not asked: it failed here")]
    Failed,
    /// The request cannot be made of what its source has.
    #[error("was not asked: {0}")]
    Request(&'static str),
    /// It could not be connected to.
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] UpstreamError),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(&'static str),
    /// It does not speak HTTP, or ended the connection.
    #[error("broke off its answer, or did not answer in HTTP")]
    Http,
    /// It redirects.
    #[error("answered {} with a redirect, which is not followed", .0.as_u16())]
    Redirect(StatusCode),
    /// It used a coding that was not offered.
    #[error("answered in a content coding that it was not offered")]
    Coding,
    /// It said too much.
    #[error("answered with more than {} KiB", LARGEST / 1024)]
    TooLarge,
    /// It did not answer in time.
    #[error("did not answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

impl FetchError {
    /// What went wrong in a handshake.
    pub(super) fn of_tls(error: &io::Error) -> FetchError {
        FetchError::Tls(match refusal::of_io(error) {
            Some(Error::InvalidCertificate(_)) => {
                "has a certificate that is not trusted for its name (see --upstream-ca)"
            }
            Some(_) => "did not complete the TLS handshake",
            None => "ended the connection during the TLS handshake",
        })
    }
}
