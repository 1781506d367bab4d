//! The types shared by the eBPF programs and user space.
#![cfg_attr(target_arch = "bpf", no_std)]
