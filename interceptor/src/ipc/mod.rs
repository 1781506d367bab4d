//! Communication between interceptor's own processes: the control socket, and the encoding of
//! strings, paths and secrets in messages. The protocols themselves are `sandbox::handover`,
//! `privilege::attendant` and `takeover`.

mod secret;
mod socket;
mod text;

pub(crate) use secret::Secret;
pub(crate) use socket::ControlSocket;
pub(crate) use text::{SentPath, Strings};
