//! The lab: everything an integration test of `interceptor` needs. It sets itself up and cleans up.
//!
//! - [`lab`]: one test's world, and the three oracles that judge it at its end;
//! - [`sandbox`]: the real binary, run with a policy and a command; [`running`]: while it runs;
//!   [`outcome`]: its result;
//! - [`daemon`]: the real daemon, its control API; [`guest`]: the cgroups it puts under
//!   enforcement; [`fleet`]: many of them at once;
//! - [`origin`]: the "internet": a TLS and a plain HTTP origin that record the requests they
//!   parsed, and listeners that must receive nothing;
//! - [`ca`]: the CA that issues the origins' certificates, and certificates nobody should accept;
//! - [`container`]: podman containers with the hook installed; [`engines`]: a host for runtimes and
//!   other engines;
//! - [`bpf`]: attacks on a cgroup's programs;
//! - [`audit`], [`canary`]: reading the audit file, and searching for a key, for the oracles;
//! - [`clients`]: stock clients, installed once, and the conversation that each has with the
//!   origin;
//! - [`inprocess`]: the proxy within the test's own process, without the kernel half, for tests of
//!   the library;
//! - [`machine`]: one that systemd manages;
//! - [`people`]: users of this machine who call sudo; [`conversing`]: their runs;
//! - [`terminal`]: a program at a terminal of its own, as a terminal emulator shows it;
//! - [`proxies`]: real proxies between the interceptor and the origins;
//! - [`measure`]: measuring, for the benchmarks;
//! - [`wire`]: support for Python programs inside that send what no client sends;
//! - [`client`]: the client that runs inside a sandbox if a stock client cannot send what a test
//!   needs.
//!
//! Everything listens on loopback addresses and its own ports, so tests can run in parallel.

pub mod agents;
pub mod audit;
pub mod bpf;
pub mod browser;
pub mod ca;
pub mod cage;
pub mod canary;
pub mod client;
pub mod clients;
pub mod container;
pub mod conversing;
pub mod daemon;
pub mod engines;
pub mod fleet;
pub mod guest;
pub mod host;
pub mod inprocess;
pub mod lab;
pub mod machine;
pub mod measure;
pub mod openbao;
pub mod origin;
pub mod outcome;
pub mod people;
pub mod proxies;
pub mod running;
pub mod sandbox;
pub mod terminal;
pub mod visitor;
pub mod wire;

pub use lab::Lab;
pub use outcome::Outcome;
