//! Sandboxes within the test process: a single thread can enter a threaded cgroup
//! (`Documentation/admin-guide/cgroup-v2.rst`, "Threads") and a network namespace, so a test runs
//! closures inside.

use std::fs::{self, File};
use std::io;
use std::net::{
    Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket,
};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};

use crate::kernel::{Attachment, Enforcement, Enforcer, KernelError, LoadOptions};

/// An enforcer for a few sandboxes.
pub(super) fn enforcer() -> Enforcer {
    Enforcer::load_with(LoadOptions { sandboxes: 8, debug: false })
        .expect("the tests of the kernel side need root and cgroup v2")
}

/// A cgroup and a network namespace with `lo`.
pub(super) struct Rig {
    pub(super) cgroup: PathBuf,
    netns: File,
}

impl Rig {
    /// A new cgroup and a new network namespace.
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let domain = Domain::enter();
        let cgroup = domain.join(format!("sandbox-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        make_threaded(&cgroup);
        Self { cgroup, netns: new_netns() }
    }

    /// A new cgroup in the network namespace of another.
    pub(super) fn beside(other: &Self) -> Self {
        let mut rig = Self::new();
        rig.netns = other.netns.try_clone().unwrap();
        rig
    }

    /// Creates a cgroup below this one.
    pub(super) fn nest(&self, name: &str) -> PathBuf {
        let nested = self.cgroup.join(name);
        make_threaded(&nested);
        nested
    }

    /// Runs a closure on a thread of the sandbox.
    pub(super) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.inside_of(&self.cgroup, body)
    }

    /// Runs a closure on a thread of a cgroup nested in the sandbox.
    pub(super) fn inside_of<T: Send>(&self, cgroup: &Path, body: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            // 0 means the writing thread.
            fs::write(cgroup.join("cgroup.threads"), "0").unwrap();
            setns(&self.netns, CloneFlags::CLONE_NEWNET).unwrap();
            body()
        };
        thread::scope(|scope| {
            scope.spawn(thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a closure on a thread in the namespace, but not in the cgroup.
    pub(super) fn beside_cgroup<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            setns(&self.netns, CloneFlags::CLONE_NEWNET).unwrap();
            body()
        };
        thread::scope(|scope| {
            scope.spawn(thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command in the namespace, but not in the cgroup.
    pub(super) fn command(&self, command: &str) {
        let status =
            self.beside_cgroup(|| Command::new("sh").args(["-ec", command]).status().unwrap());
        assert!(status.success(), "{command}: {status}");
    }

    /// The path `ip` finds the namespace by.
    pub(super) fn netns_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }

    /// Listeners and resolvers inside.
    pub(super) fn listen(&self) -> Ports {
        self.inside(|| Ports {
            tcp4: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            tcp6: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(),
            dns4: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            dns6: UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(),
        })
    }

    /// Attaches the programs to the cgroup.
    pub(super) fn attach(
        &self,
        enforcer: &Enforcer,
        enforcement: &Enforcement,
    ) -> Result<Attachment, KernelError> {
        enforcer.attach(File::open(&self.cgroup).unwrap(), enforcement)
    }

    /// The argument of [`Self::attach`] for a private namespace with nothing denied.
    pub(super) fn enforcement(&self, ports: &Ports) -> Enforcement {
        Enforcement {
            cgroup_id: fs::metadata(&self.cgroup).unwrap().ino(),
            shared_netns: false,
            tcp4: v4(ports.tcp4.local_addr()),
            tcp6: Some(v6(ports.tcp6.local_addr())),
            dns4: v4(ports.dns4.local_addr()),
            dns6: Some(v6(ports.dns6.local_addr())),
            denied: Vec::new(),
            allowed_loopback: Vec::new(),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        remove(&self.cgroup);
        Domain::leave();
    }
}

/// The interceptor's sockets in a sandbox.
pub(super) struct Ports {
    pub(super) tcp4: TcpListener,
    pub(super) tcp6: TcpListener,
    pub(super) dns4: UdpSocket,
    pub(super) dns6: UdpSocket,
}

impl Ports {
    /// Marks all of them.
    pub(super) fn mark(&self, attachment: &Attachment) {
        attachment.mark(&self.tcp4).unwrap();
        attachment.mark(&self.tcp6).unwrap();
        attachment.mark(&self.dns4).unwrap();
        attachment.mark(&self.dns6).unwrap();
    }
}

/// Parses a list of networks.
pub(super) fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Waits for an effect that follows the closing of a socket: a concurrent test may have forked, and
/// the child holds all sockets of this process until it executes its command.
pub(super) fn eventually(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "still not so after ten seconds");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The number of the error.
pub(super) fn errno<T: std::fmt::Debug>(outcome: io::Result<T>) -> i32 {
    outcome.expect_err("it succeeded").raw_os_error().expect("no system call failed")
}

/// The bytes of an address, as system calls take them.
pub(super) fn bytes(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(address) => {
            let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            bytes.extend(address.port().to_be_bytes());
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
            bytes
        }
        SocketAddr::V6(address) => {
            let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            bytes.extend(address.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
            bytes
        }
    }
}

fn v4(address: io::Result<SocketAddr>) -> SocketAddrV4 {
    match address.unwrap() {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address} is not IPv4"),
    }
}

fn v6(address: io::Result<SocketAddr>) -> SocketAddrV6 {
    match address.unwrap() {
        SocketAddr::V6(address) => address,
        SocketAddr::V4(address) => panic!("{address} is not IPv6"),
    }
}

/// A network namespace with `lo` up.
fn new_netns() -> File {
    let thread = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(status.success(), "`ip link set lo up`: {status}");
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    thread::scope(|scope| scope.spawn(thread).join().unwrap())
}

fn make_threaded(cgroup: &Path) {
    fs::create_dir(cgroup).unwrap();
    fs::write(cgroup.join("cgroup.type"), "threaded").unwrap();
}

/// Removes a cgroup and its descendants. A thread that has just ended may remain in it for a
/// moment.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    for _ in 0..200 {
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    eprintln!("{} is left behind", cgroup.display());
}

/// The cgroup of this process while a rig exists: threads may only enter cgroups below their
/// process's.
struct Domain {
    rigs: usize,
    home: PathBuf,
    path: PathBuf,
}

static DOMAIN: Mutex<Option<Domain>> = Mutex::new(None);

impl Domain {
    fn enter() -> PathBuf {
        let mut domain = DOMAIN.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = domain.get_or_insert_with(|| {
            let root = cgroup2_root();
            let own = fs::read_to_string("/proc/self/cgroup").unwrap();
            let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("no cgroup v2");
            let path = root.join(format!("interceptor-test-{}", std::process::id()));
            fs::create_dir(&path)
                .expect("the tests of the kernel side need root and a cgroup v2 mount");
            fs::write(path.join("cgroup.procs"), "0").unwrap();
            Self { rigs: 0, home: root.join(own), path }
        });
        domain.rigs += 1;
        domain.path.clone()
    }

    fn leave() {
        let mut domain = DOMAIN.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(inner) = domain.as_mut() else { return };
        inner.rigs -= 1;
        if inner.rigs == 0 {
            let _ = fs::write(inner.home.join("cgroup.procs"), "0");
            remove(&inner.path);
            *domain = None;
        }
    }
}

/// The mount point of cgroup v2.
fn cgroup2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    PathBuf::from(
        fields.find(|fields| fields[2] == "cgroup2").expect("cgroup v2 is not mounted")[1],
    )
}
