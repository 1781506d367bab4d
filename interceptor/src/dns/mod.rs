//! Names and their synthetic addresses.
