//! The path of a request, one file per step: serve, judge, inject, forward, respond, upgrade. Every
//! "no" along the way is in refuse.
//!
//! - `connection`: one connection, HTTP/1.1 or HTTP/2, until it ends. `strict` lets only
//!   well-formed HTTP/1.1 messages reach hyper, and `rest` takes the stream back from hyper while
//!   the connection is idle. `context` holds what its requests share. `activity` and `stall` tell
//!   whether it is idle. `frames` and `unserved` record input that never becomes a request.
//! - `serve`: its requests, each judged on its own. `metadata`: those for AWS's metadata addresses.
//! - `judge`: which host a request is for (`authority`, `base_url`) and whether it is permitted.
//! - `flight`: a judged request with everything its forwarding needs.
//! - `forward`: sends the judged request to its origin. It is rebuilt with the real key
//!   (`inject`), without headers that would hide the response from redaction (`offers`), and for
//!   the protocol of its connection (`address`). `upload`, `trailers`, `sending`: its body, counted
//!   and limited, never buffered whole.
//!   `signing`: requests that are signed for AWS.
//! - `respond`: brings the response back, with real keys removed ([`redact`]). `body`: its body, as
//!   it streams.
//! - `upgrade`: WebSockets and other protocols after their handshake.
//! - `refuse`: refusals and failures, as JSON or in the client's own protocol (`dialect`). `drain`
//!   reads what the client still sends.
//! - `exchange`: the audit record of a request.

pub(crate) mod activity;
mod address;
mod admitted;
mod aside;
pub(crate) mod authority;
pub(crate) mod base_url;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod context;
mod dialect;
mod drain;
pub(crate) mod exchange;
mod flight;
mod forward;
mod frames;
pub(crate) mod hold;
mod inject;
mod judge;
mod linger;
mod metadata;
mod offers;
pub mod redact;
pub(crate) mod refuse;
mod respond;
mod rest;
mod sending;
mod serve;
mod signing;
mod stall;
pub(crate) mod strict;
mod trailers;
mod unserved;
mod upgrade;
pub(crate) mod upload;
