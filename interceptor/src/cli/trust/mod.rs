//! `interceptor trust`: records that the user wants what a policy file says, by its SHA-256.
//!
//! A policy that `run` finds by itself may have come with somebody else's project, or may have been
//! changed by what ran there. It is used only if the user has trusted its content. So is one that
//! names programs, unless the operator keeps it.

mod command;
mod known;

pub use self::command::{Trust, run};
pub(super) use self::known::{
    command, directory, is_trusted, is_trusted_since, quoted, record, require, shown, typed,
};
