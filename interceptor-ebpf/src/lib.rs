//! What the eBPF programs and user space share: the layout of every map's keys and values, and the
//! verdict on a destination, which is plain code that the host can test.
//!
//! Everything is built of `u32` words in native order, so that user space can hand it to the kernel
//! as an array of words without any `unsafe`; addresses keep their network byte order inside the
//! words, exactly as the kernel's `bpf_sock_addr` shows them (`include/uapi/linux/bpf.h`), and an
//! IPv4 address is always its IPv4-mapped IPv6 form (RFC 4291, 2.5.5.2).
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod endpoint;
pub mod layout;
pub mod verdict;

pub use endpoint::Endpoint;
pub use layout::{Flow, Redirection, Refusal, Reported, Sandbox};
pub use verdict::Verdict;
