//! The parsers of bytes that a sandbox or an origin controls, as the fuzz targets see them. Each
//! target has a module that defines what must hold for any input.

pub mod clienthello;
pub mod decoding;
pub mod dns;
pub mod first;
pub mod http1;
pub mod oci;
pub mod record;
pub mod redact;
pub mod websocket;

#[allow(dead_code, reason = "no target follows keys")]
mod credential;
mod pieces;

#[allow(dead_code, reason = "the targets use a part")]
#[path = "../src/files.rs"]
mod files;
#[allow(dead_code, unused_imports, reason = "the targets use a part")]
#[path = "../src/http/redact/mod.rs"]
mod redaction;
mod sandbox;
#[allow(dead_code, reason = "the targets use a part")]
#[path = "../src/words.rs"]
mod words;
#[allow(dead_code, unused_macros, unused_imports, reason = "the targets use a part")]
#[path = "../src/wrapped.rs"]
mod wrapped;
