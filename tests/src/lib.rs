//! The lab: what an integration test of `interceptor` needs, built and torn down by itself.
//!
//! - [`lab`]: one test's world, and the three oracles that judge it at its end;
//! - [`sandbox`]: the real binary, run with a policy and a command; [`running`]: while it runs; [`outcome`]: what came of it;
//! - [`daemon`]: the real daemon, its control API; [`guest`]: what it puts under enforcement;
//! - [`origin`]: the "internet": a TLS and a plain HTTP origin that record what they parsed, and listeners that must
//!   receive nothing;
//! - [`authority`]: the certificate authority the origins' certificates come from, and certificates nobody should accept;
//! - [`container`]: containers of podman with the hook installed;
//! - [`bpf`]: what may be tried at the programs of a cgroup;
//! - [`audit`], [`canary`]: how the oracles read the audit file and look for a key;
//! - [`clients`]: stock clients, installed once, and the conversation that each has with the origin;
//! - [`inprocess`]: the proxy within the test's own process, without a kernel's part, for what only a library can be asked;
//! - [`measure`]: what the benchmarks measure with;
//! - [`wire`]: what a Python program inside needs to say what no client says;
//! - [`client`]: the client that runs inside a sandbox where a stock client cannot say what a test must say.
//!
//! Everything listens on loopback addresses with ports of its own, so tests run side by side.

pub mod audit;
pub mod authority;
pub mod bpf;
pub mod cage;
pub mod canary;
pub mod client;
pub mod clients;
pub mod container;
pub mod daemon;
pub mod guest;
pub mod host;
pub mod inprocess;
pub mod lab;
pub mod measure;
pub mod origin;
pub mod outcome;
pub mod running;
pub mod sandbox;
pub mod wire;

pub use lab::Lab;
pub use outcome::Outcome;
