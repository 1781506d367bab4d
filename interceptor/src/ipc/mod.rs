//! What processes of the interceptor say to each other with: the control socket, and how strings, paths
//! and secrets are written into messages. The conversations themselves are `sandbox::handover`,
//! `privilege::attendant` and `takeover`.

mod secret;
mod socket;
mod text;

pub use secret::Secret;
pub use socket::{ControlSocket, SocketError};
pub use text::{SentPath, Strings};
