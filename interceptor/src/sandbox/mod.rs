//! The cgroup, the namespaces, the trust bundle and the launch of the command.
