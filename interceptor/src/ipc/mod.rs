//! Communication between interceptor's own processes: the control socket, and the encoding of
//! strings, paths and secrets in messages. The protocols themselves are `sandbox::handover`,
//! `privilege::attendant` and `takeover`.

mod secret;
mod socket;
mod text;

pub use secret::Secret;
pub use socket::{ControlSocket, SocketError};
pub use text::{SentPath, Strings};
