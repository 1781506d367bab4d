//! The way of a request, one file a step: serve, judge, inject, forward, respond, upgrade; and
//! refuse, for every "no" on it.
//!
//! - `connection`: one connection, HTTP/1.1 or HTTP/2, until it ends. `strict` lets only
//!   well-formed HTTP/1.1 messages reach hyper, and `rest` takes the stream back from it while
//!   nothing moves; `context` is what its requests have in common; `activity` and `stall` say
//!   whether it is idle; `frames` and `unserved` see what never becomes a request, for its record.
//! - `serve`: its requests, each by itself.
//! - `judge`: which host a request is for (`authority`, `base_url`) and whether it is permitted.
//! - `flight`: a judged request and all that it carries.
//! - `forward`: the judged request, sent to its origin: built anew, with the real key ([`inject`]),
//!   without what would hide an answer from the search (`offers`), fitted to its connection
//!   (`address`). `upload`, `trailers`, `sending`: its body, counted, limited, never collected.
//! - `respond`: the answer, brought back, with real keys taken out ([`redact`]). `body`: what of it
//!   is on its way.
//! - `upgrade`: WebSockets and other protocols after their handshake.
//! - `refuse`: refusals and failures, in JSON, or where a client's own protocol has a place for
//!   them (`dialect`). `drain` takes what the client still sends.
//! - `exchange`: the audit record of a request.

pub(crate) mod activity;
mod address;
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
pub mod inject;
mod judge;
mod offers;
pub mod redact;
pub(crate) mod refuse;
mod respond;
mod rest;
mod sending;
mod serve;
mod stall;
pub(crate) mod strict;
mod trailers;
mod unserved;
mod upgrade;
pub(crate) mod upload;
