//! `interceptor` owns the egress of a sandbox: eBPF programs on its cgroup hand every connection to
//! this proxy, which terminates TLS, judges the request, swaps the placeholder for the real key and
//! forwards.
//!
//! The modules, in the order of a connection's path:
//!
//! - [`kernel`]: loads and attaches the eBPF programs; the only module that knows aya.
//! - `sandbox`: cgroup, namespaces, trust bundle, and launching the command.
//! - `dns`: names ↔ synthetic addresses.
//! - [`accept`]: the listener, the original destination, and protocol detection.
//! - `tls`: the sandbox's certificate authority and the TLS configurations of both sides.
//! - [`http`]: serve → judge → inject → forward → respond (→ upgrade); refuse.
//! - `tunnel`: raw and passthrough connections.
//! - [`upstream`]: resolve, guard, dial, pool.
//! - [`audit`]: one record per decision.
//! - [`metrics`]: Prometheus metrics; `logging`: the log.
//! - [`proxy`]: one sandbox's user-space half, which owns everything above.
//! - [`interceptor_policy`]: pure: document → compiled policy → decision, and redaction.
//!   Any module may use it; it uses none.
//! - [`credential`]: real keys, their placeholders, and finding those in requests.
//! - `fetch`: requests of our own, to services that give keys.
//! - `oci`: the hook that enforces policies on containers before they start.
//! - `fleet`: sandboxes under enforcement, one or many.
//! - `control`: the daemon's HTTP API on a unix socket.
//! - `page`: what sandboxes do, in a browser; `entrance`: who may see it.
//! - `takeover`: hands sandboxes over from one daemon to the next.
//! - `privilege`: drops the daemon's privileges after start-up.
//! - [`cli`]: one file per command.

// Two modules wrap system calls that have no safe wrapper: `sandbox::sys` and `kernel::sys`.
#![deny(unsafe_code)]
// What only this crate can reach is `pub(crate)`, so that the compiler finds what nobody uses.
#![warn(unreachable_pub)]
// Tests may be long; clippy.toml limits everything else.
#![cfg_attr(not(test), warn(clippy::too_many_lines))]

pub mod accept;
pub mod audit;
pub mod cli;
pub(crate) mod control;
pub mod credential;
pub(crate) mod dns;
pub(crate) mod entrance;
pub(crate) mod fetch;
mod files;
pub(crate) mod fleet;
pub mod http;
pub(crate) mod ipc;
pub mod kernel;
pub(crate) mod logging;
pub mod metrics;
mod notice;
pub(crate) mod oci;
pub(crate) mod page;
pub(crate) mod privilege;
pub mod proxy;
pub(crate) mod sandbox;
pub mod seam;
pub(crate) mod sigv4;
pub(crate) mod takeover;
pub(crate) mod tls;
pub(crate) mod tunnel;
pub mod upstream;
pub(crate) mod webhook;
mod words;
mod wrapped;
