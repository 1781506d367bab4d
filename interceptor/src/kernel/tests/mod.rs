//! The programs in the kernel, as root: what a socket born in a sandbox's cgroup can reach.

mod dns;
mod flood;
mod isolation;
mod lifecycle;
mod older;
mod refusals;
mod rig;
mod sockets;
mod tcp;
