//! Names and their synthetic addresses.

mod question;
