//! The certificate authority of a sandbox and the TLS configurations of both sides.
