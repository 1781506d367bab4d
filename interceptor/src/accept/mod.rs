//! The listener, the original destination of a connection, and what protocol its first bytes speak.
