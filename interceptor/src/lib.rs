//! `interceptor` owns the egress of a sandbox: eBPF programs on its cgroup hand every connection to this proxy, which
//! terminates TLS, judges the request, swaps the placeholder for the real key and forwards.
//!
//! The modules follow the way of a connection:
//!
//! - [`kernel`]: loads and attaches the eBPF programs; the only module that knows aya.
//! - [`sandbox`]: the cgroup, the namespaces, the trust bundle, and the launch of the command.
//! - [`dns`]: names ↔ synthetic addresses.
//! - [`accept`]: the listener, the original destination, and what protocol the first bytes speak.
//! - [`tls`]: the sandbox's certificate authority and the TLS configurations of both sides.
//! - [`http`]: serve → judge → inject → forward → respond (→ upgrade); refuse.
//! - [`tunnel`]: raw and passthrough connections.
//! - [`upstream`]: resolve, guard, dial, pool.
//! - [`audit`]: one record per decision.
//! - [`metrics`]: what is counted, for Prometheus; [`logging`]: the log.
//! - [`proxy`]: one sandbox's user-space half: everything above, owned together and dropped together.
//! - [`interceptor_policy`]: pure: document → compiled policy → decision, and the search for keys.
//!   Everyone may use it; it uses no one.
//! - [`credential`]: real keys, placeholders, and where they stand in a request.
//! - [`oci`]: the hook that puts containers under enforcement before they start.
//! - [`fleet`]: sandboxes under enforcement, one or many.
//! - [`control`]: the daemon's HTTP API on a unix socket.
//! - [`takeover`]: one daemon takes over from another.
//! - [`privilege`]: what the daemon gives up when it has started.
//! - [`cli`]: one file a command.

// Two modules wrap system calls that have no safe wrapper: `sandbox::sys` and `kernel::sys`.
#![deny(unsafe_code)]
// Tests may be as long as what they tell; clippy.toml says how long everything else may be.
#![cfg_attr(not(test), warn(clippy::too_many_lines))]

pub mod accept;
pub mod audit;
pub mod cli;
pub(crate) mod control;
pub mod credential;
pub mod dns;
mod files;
pub(crate) mod fleet;
pub mod http;
pub(crate) mod ipc;
pub mod kernel;
pub(crate) mod logging;
pub mod metrics;
mod notice;
pub(crate) mod oci;
pub(crate) mod privilege;
pub mod proxy;
pub(crate) mod sandbox;
pub mod seam;
pub(crate) mod takeover;
pub mod tls;
pub(crate) mod tunnel;
pub mod upstream;
mod words;
