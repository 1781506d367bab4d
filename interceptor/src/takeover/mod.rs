//! One daemon takes over from another without a connection refused: see `ARCHITECTURE.md`, "Hand-over".

mod secret;

pub use secret::Secret;
