//! The webhook of the configuration of `interceptor serve`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::control::model::{ApprovalsConfig, SecretSource, WebhookConfig};
use crate::files;
use crate::webhook::Webhook;

/// How long it may take to answer, unless the configuration says otherwise.
const TIMEOUT: u64 = 10;
/// The longest that it may take: an hour.
const LONGEST: u64 = 60 * 60;
/// The longest secret, in bytes.
const LARGEST_SECRET: usize = 64 * 1024;

/// Reads the webhook's secret and checks its URL, before privileges are dropped.
pub(super) fn of(config: Option<ApprovalsConfig>) -> anyhow::Result<Option<Arc<Webhook>>> {
    let Some(ApprovalsConfig { webhook }) = config else { return Ok(None) };
    let WebhookConfig { url, secret, timeout_seconds } = webhook;
    let secret: Zeroizing<Vec<u8>> = match secret {
        SecretSource::Literal(secret) => Zeroizing::new(secret.expose().as_bytes().to_vec()),
        SecretSource::Env(variable) => {
            let value = std::env::var(&variable.env);
            let value = value.with_context(|| {
                format!(
                    "the webhook's secret: the variable {} in the daemon's environment",
                    variable.env
                )
            })?;
            Zeroizing::new(value.into_bytes())
        }
        SecretSource::File(file) => {
            let read = files::read(&file.file, LARGEST_SECRET);
            let (mut bytes, _) = read.with_context(|| {
                format!("the webhook's secret: the file {}", file.file.display())
            })?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            bytes
        }
    };
    let seconds = timeout_seconds.unwrap_or(TIMEOUT).clamp(1, LONGEST);
    let webhook = Webhook::new(&url, &secret, Duration::from_secs(seconds));
    Ok(Some(Arc::new(webhook.context("approvals.webhook")?)))
}
