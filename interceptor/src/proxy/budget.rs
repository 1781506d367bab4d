//! Limits on what a sandbox sends to one host: requests per second and total bytes (`limits` in the
//! document).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use interceptor_policy::{Host, Limits};

use crate::words;

/// Maximum hosts counted at once. Beyond that, counters idle for a second are reset, unless bytes
/// are limited: those counts last for the sandbox's life, so further hosts are refused.
const MOST_HOSTS: usize = 32 * 1024;

/// The limit that a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exceeded {
    /// `requests_per_second_per_host`.
    #[error(
        "more than {} a second for this host; slow down, or raise \
         limits.requests_per_second_per_host",
        words::count(*.0, "request")
    )]
    Rate(u64),
    /// `bytes_up_per_host`.
    #[error(
        "the limit of {} for this host is used up; raise limits.bytes_up_per_host to send more",
        words::count(*.0, "byte")
    )]
    Bytes(u64),
    /// Too many hosts to count.
    #[error("the limit of {MOST_HOSTS} hosts with byte counts is reached")]
    Hosts,
}

impl Exceeded {
    /// Whether the same request may succeed a second later.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Exceeded::Rate(_))
    }
}

/// The remaining byte allowance for one host, if limited. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    sent: Arc<AtomicU64>,
    most: u64,
}

impl Allowance {
    /// The remaining bytes.
    pub(crate) fn left(&self) -> u64 {
        self.most.saturating_sub(self.sent.load(Ordering::Relaxed))
    }

    /// Spends bytes about to be sent. A chunk that does not fit uses up the allowance anyway, so
    /// that smaller ones cannot follow.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Exceeded> {
        let before = self.sent.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.most {
            Err(Exceeded::Bytes(self.most))
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
struct Account {
    tokens: f64,
    refilled: Instant,
    up: Arc<AtomicU64>,
}

/// One sandbox's counters per host.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    accounts: Mutex<HashMap<Host, Account>>,
}

impl Budget {
    /// The bytes sent to each host so far, where limited; the argument of [`Budget::restore`].
    pub(crate) fn snapshot(&self) -> Vec<(String, u64)> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = accounts
            .iter()
            .map(|(host, account)| (host.to_string(), account.up.load(Ordering::Relaxed)));
        sent.filter(|(_, up)| *up > 0).collect()
    }

    /// Restores counters from a snapshot; skips invalid host names.
    pub(crate) fn restore(sent: Vec<(String, u64)>) -> Budget {
        let now = Instant::now();
        let account = |up| Account { tokens: 1.0, refilled: now, up: Arc::new(AtomicU64::new(up)) };
        let accounts = sent.into_iter().take(MOST_HOSTS);
        let accounts =
            accounts.filter_map(|(host, up)| Some((Host::parse(&host).ok()?, account(up))));
        Budget { accounts: Mutex::new(accounts.collect()) }
    }

    /// Counts one request or tunnel with a head of `head` bytes. Returns the host's remaining byte
    /// allowance, if it is limited.
    pub(crate) fn spend(
        &self,
        host: &Host,
        head: u64,
        limits: &Limits,
    ) -> Result<Option<Allowance>, Exceeded> {
        self.account(host, head, limits, true)
    }

    /// As [`Budget::spend`], for a request already counted when its connection began.
    pub(crate) fn spend_prepaid(
        &self,
        host: &Host,
        head: u64,
        limits: &Limits,
    ) -> Result<Option<Allowance>, Exceeded> {
        self.account(host, head, limits, false)
    }

    fn account(
        &self,
        host: &Host,
        head: u64,
        limits: &Limits,
        counts: bool,
    ) -> Result<Option<Allowance>, Exceeded> {
        if limits.requests_per_second_per_host.is_none() && limits.bytes_up_per_host.is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        let rate = limits.requests_per_second_per_host.map(|rate| rate as f64);
        // A panic here at worst counts a request twice.
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= MOST_HOSTS && !accounts.contains_key(host) {
            if limits.bytes_up_per_host.is_none() {
                accounts.retain(|_, account| now.duration_since(account.refilled).as_secs() < 1);
            }
            if accounts.len() >= MOST_HOSTS {
                return Err(Exceeded::Hosts);
            }
        }
        let account = accounts.entry(host.clone()).or_insert_with(|| Account {
            tokens: rate.unwrap_or_default(),
            refilled: now,
            up: Arc::default(),
        });
        if let Some(most) = limits.bytes_up_per_host
            && account.up.load(Ordering::Relaxed) >= most
        {
            return Err(Exceeded::Bytes(most));
        }
        if let Some(rate) = rate.filter(|_| counts) {
            let earned = now.duration_since(account.refilled).as_secs_f64() * rate;
            account.tokens = (account.tokens + earned).min(rate.max(1.0));
            account.refilled = now;
            if account.tokens < 1.0 {
                return Err(Exceeded::Rate(
                    limits.requests_per_second_per_host.unwrap_or_default(),
                ));
            }
            account.tokens -= 1.0;
        }
        let Some(most) = limits.bytes_up_per_host else { return Ok(None) };
        let allowance = Allowance { sent: account.up.clone(), most };
        allowance.take(head)?;
        Ok(Some(allowance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_at_its_rate_leaves_others_alone() {
        let (one, other) =
            (Host::parse("one.example").unwrap(), Host::parse("other.example").unwrap());
        let limits = Limits { requests_per_second_per_host: Some(5), ..Limits::default() };
        let budget = Budget::default();
        let passed = (0..100).filter(|_| budget.spend(&one, 1, &limits).is_ok()).count();
        assert!((5..10).contains(&passed), "{passed}");
        assert!(budget.spend(&other, 1, &limits).is_ok());
    }

    #[test]
    fn what_was_counted_before_takes_no_second_turn_but_its_bytes() {
        let host = Host::parse("one.example").unwrap();
        let rate = Some(1);
        let limits = Limits {
            requests_per_second_per_host: rate,
            bytes_up_per_host: Some(10),
            ..Limits::default()
        };
        let budget = Budget::default();
        budget.spend(&host, 0, &limits).unwrap();
        assert_eq!(budget.spend_prepaid(&host, 4, &limits).unwrap().unwrap().left(), 6);
        assert_eq!(budget.spend(&host, 0, &limits).unwrap_err(), Exceeded::Rate(1));
    }

    #[test]
    fn bytes_that_are_used_up_stay_used_up() {
        let host = Host::parse("one.example").unwrap();
        let limits = Limits { bytes_up_per_host: Some(10), ..Limits::default() };
        let budget = Budget::default();
        let allowance = budget.spend(&host, 4, &limits).unwrap().unwrap();
        allowance.take(6).unwrap();
        assert_eq!(allowance.take(1).unwrap_err(), Exceeded::Bytes(10));
        assert_eq!(budget.spend(&host, 0, &limits).unwrap_err(), Exceeded::Bytes(10));
        let restored = Budget::restore(budget.snapshot());
        assert_eq!(restored.spend(&host, 0, &limits).unwrap_err(), Exceeded::Bytes(10));
        restored.spend(&Host::parse("other.example").unwrap(), 0, &limits).unwrap();
    }
}
