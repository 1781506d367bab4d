//! The HTTP pipeline: serve, decide, inject, forward, redact, refuse.
//!
//! - `strict`: lets only well-formed HTTP/1.1 messages reach hyper.
//! - `connection`: one connection, HTTP/1.1 or HTTP/2, until it ends.
//! - `frames`, `unserved`: what of a connection never becomes a request, for its record.
//! - `serve`: its requests, each judged by itself.
//! - `authority`: which host a request is for.
//! - `base_url`: requests under `http://169.254.169.254/proxy/…`, rewritten before they are judged.
//! - [`inject`]: client authentication stripped, the real key set.
//! - [`redact`]: real keys taken out of what an origin sends.
//! - `offers`: what a request may ask for so that its answer can be searched.
//! - `address`: the judged request fitted to the connection that it goes out on.
//! - `forward`: the judged request, sent to its origin.
//! - `answer`: the answer, brought back.
//! - `upload`, `trailers`: the body of a request on its way: counted, limited, never collected.
//! - `body`: the same of its answer.
//! - `upgrade`: WebSockets and other protocols after their handshake.
//! - `refuse`: the answer to a refused request.
//! - `dialect`: the same for clients that look only where their own protocol has a place for it.
//! - `exchange`: the audit record of a request.
//! - `activity`: what happens on a connection, and whether it is idle.

pub(crate) mod activity;
mod address;
mod answer;
pub(crate) mod authority;
pub(crate) mod base_url;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod context;
mod dialect;
pub(crate) mod exchange;
pub(crate) mod forward;
mod frames;
pub mod inject;
mod offers;
pub mod redact;
pub(crate) mod refuse;
pub(crate) mod serve;
mod stall;
pub(crate) mod strict;
mod trailers;
mod unserved;
pub(crate) mod upgrade;
pub(crate) mod upload;
