//! The programs in the kernel, as root: what a socket born in a sandbox's cgroup can reach.

mod rig;

mod tcp;
