//! Loads, attaches and configures the eBPF programs; the only module that knows aya.
