//! How long it takes to attach a thousand sandboxes to one program set, what each costs this
//! process, and what `connect` costs under it. Runs as root, in its own network namespace and
//! cgroups, which it removes.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use interceptor::accept::accept;
use interceptor::audit::Audit;
use interceptor::credential::Keyring;
use interceptor::kernel::{Attachment, Enforcement, Enforcer, LoadOptions};
use interceptor::proxy::{Runtime, RuntimeOptions, Sandbox};
use interceptor::seam::{Listeners, Refusal, Refusals};
use interceptor::upstream::{Upstream, UpstreamOptions};
use interceptor_policy::{Document, Policy};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;

/// How many sandboxes.
const SANDBOXES: usize = 1000;
/// The number of networks denied in the sandbox where `connect` is measured.
const NETWORKS: u32 = 10_000;
/// The number of connections per measurement.
const CONNECTIONS: usize = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A sandbox has about twenty: programs, links, maps, listeners. Root may go beyond the hard
    // limit.
    let most = getrlimit(Resource::RLIMIT_NOFILE)?.1.max(64 * SANDBOXES as u64);
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    let cgroups = Cgroups::make(SANDBOXES)?;

    // The listener is created in the first sandbox, like the clients.
    cgroups.enter(0)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let target = listener.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    let server = thread::spawn({
        let stop = Arc::clone(&stop);
        move || while !stop.load(Ordering::Relaxed) && listener.accept().is_ok() {}
    });
    let direct = connect(target)?;

    let start = Instant::now();
    let enforcer = Enforcer::load_with(LoadOptions { sandboxes: SANDBOXES as u32, debug: false })?;
    println!("load                  {:?}", start.elapsed());

    let before = resident_bytes()?;
    let start = Instant::now();
    let mut attachments = Vec::with_capacity(SANDBOXES);
    for cgroup in &cgroups.paths {
        attachments.push(attach(&enforcer, cgroup, target)?);
    }
    let took = start.elapsed();
    println!("attach {SANDBOXES} sandboxes  {took:?}, {:?} each", took / SANDBOXES as u32);
    println!(
        "memory                {} bytes each",
        (resident_bytes()?.saturating_sub(before)) / SANDBOXES
    );

    let redirected = connect(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 443)))?;
    let denied: Vec<_> = (0..NETWORKS)
        .map(|number| ipnet::IpNet::new(Ipv4Addr::from(0x0a00_0000 + (number << 8)).into(), 24))
        .collect::<Result<_, _>>()?;
    let start = Instant::now();
    attachments[0].set_networks(&denied, &[])?;
    println!("deny {NETWORKS} networks  {:?}", start.elapsed());
    let with_networks = connect(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 443)))?;
    let refused = refuse()?;
    attachments[0].report_to(Arc::new(Unheard))?;
    let reported = refuse()?;
    println!("connect, direct       {direct:?}");
    println!("connect, redirected   {redirected:?}");
    println!("  with the networks   {with_networks:?}");
    println!("connect, refused      {refused:?}, and {reported:?} if it is reported");
    idle(&enforcer)?;

    stop.store(true, Ordering::Relaxed);
    drop(TcpStream::connect(target)?);
    let _ = server.join();
    let start = Instant::now();
    drop(attachments);
    println!("detach all            {:?}", start.elapsed());
    Ok(())
}

/// Attaches a sandbox to the programs. All share one listener, because only one is used.
fn attach(
    enforcer: &Enforcer,
    cgroup: &Path,
    target: SocketAddr,
) -> Result<Attachment, Box<dyn std::error::Error>> {
    let tcp4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, target.port());
    let enforcement = Enforcement {
        cgroup_id: fs::metadata(cgroup)?.ino(),
        shared_netns: false,
        tcp4,
        tcp6: None,
        dns4: tcp4,
        dns6: None,
        denied: Vec::new(),
        allowed_loopback: Vec::new(),
    };
    Ok(enforcer.attach(File::open(cgroup)?, &enforcement)?)
}

/// The median time of a connect and a close by reset, one after the other.
fn connect(address: SocketAddr) -> io::Result<Duration> {
    let mut times = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let start = Instant::now();
        let stream = TcpStream::connect(address)?;
        times.push(start.elapsed());
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    times.sort_unstable();
    Ok(times[CONNECTIONS / 2])
}

/// The median time of a connect that a denied network refuses.
fn refuse() -> Result<Duration, Box<dyn std::error::Error>> {
    let address = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 443));
    let mut times = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let start = Instant::now();
        if TcpStream::connect(address).is_ok() {
            return Err("a denied address was connected".into());
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[CONNECTIONS / 2])
}

/// Receives refusals and discards them.
struct Unheard;

impl Refusals for Unheard {
    fn refused(&self, _: &Refusal) {}
    fn dropped(&self, _: u64) {}
}

/// The cost of an idle sandbox in user space: its CA, tables, pool, listeners and tasks.
fn idle(enforcer: &Enforcer) -> Result<(), Box<dyn std::error::Error>> {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _entered = tokio.enter();
    let upstream = Upstream::new(UpstreamOptions::default());
    let runtime = Runtime::new(RuntimeOptions {
        roots: Vec::new(),
        upstream,
        upstream_ca: Vec::new(),
        audit: Audit::discard()?,
    })?;
    let catalogue = interceptor::cli::registries::catalogue(None)?;
    let parsed = Document::parse(r#"{ "network": { "allow": ["api.example.com"] } }"#)
        .map_err(|problems| format!("{problems:?}"))?;
    let mut serving = Vec::with_capacity(SANDBOXES);
    let before = resident_bytes()?;
    let start = Instant::now();
    for number in 0..SANDBOXES {
        let policy = Policy::compile(&parsed.document, &catalogue)
            .map_err(|problems| format!("{problems:?}"))?;
        let keyring = Keyring::load(&policy, None).map_err(|errors| format!("{errors:?}"))?;
        let sandbox = Sandbox::new(&runtime, &format!("sb-{number:016x}"), policy, keyring)?;
        let listeners = Listeners {
            tcp4: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
            tcp6: Some(TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?),
            dns4: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
            dns6: Some(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?),
            self_test_token: String::new(),
        };
        serving.push(sandbox.serve(listeners, enforcer.destinations(), accept)?);
    }
    let took = start.elapsed();
    // Let every task run once.
    thread::sleep(Duration::from_millis(500));
    println!("proxy of {SANDBOXES} sandboxes {took:?}, {:?} each", took / SANDBOXES as u32);
    println!(
        "memory, idle          {} bytes each",
        resident_bytes()?.saturating_sub(before) / SANDBOXES
    );
    Ok(())
}

/// This process's resident memory.
fn resident_bytes() -> io::Result<usize> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = pages.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    Ok(pages * 4096)
}

/// The cgroups of the sandboxes, removed when dropped.
struct Cgroups {
    root: PathBuf,
    home: PathBuf,
    paths: Vec<PathBuf>,
}

impl Cgroups {
    fn make(number: usize) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&"cgroup2"));
        let mount =
            PathBuf::from(mount.ok_or_else(|| io::Error::other("cgroup v2 is not mounted"))?[1]);
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let root = mount.join(format!("interceptor-bench-{}", std::process::id()));
        fs::create_dir(&root)?;
        let mut made = Self { home: mount.join(own), paths: Vec::new(), root };
        for sandbox in 0..number {
            let path = made.root.join(sandbox.to_string());
            fs::create_dir(&path)?;
            made.paths.push(path);
        }
        Ok(made)
    }

    fn enter(&self, sandbox: usize) -> io::Result<()> {
        fs::write(self.paths[sandbox].join("cgroup.procs"), "0")
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        for path in self.paths.iter().chain([&self.root]) {
            if let Err(error) = fs::remove_dir(path) {
                eprintln!("{} is left behind: {error}", path.display());
            }
        }
    }
}
