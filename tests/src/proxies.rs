//! Proxies between the interceptor and the origins: Debian's Squid and Tinyproxy, started by a test
//! on ports of loopback, with their files in the test's directory.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Lab;

/// How long a proxy may take to listen.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// Where the C library keeps shared memory: shm_overview(7).
const SHARED_MEMORY: &str = "/dev/shm";
/// Attempts to start one before its last error is reported: another process may have taken its
/// port.
const TRIES: usize = 5;
/// How long it may take to log a tunnel that was closed.
const LOGS_WITHIN: Duration = Duration::from_secs(20);
/// The user that every proxy here knows; its password is the test's.
pub const USER: &str = "lab-user";

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    process: Child,
    log: PathBuf,
    /// What its shared memory is named after, if it has any.
    service: Option<String>,
    /// Where it speaks HTTP in the clear.
    pub plain: SocketAddr,
    /// Where it speaks HTTP over TLS, as `localhost`.
    pub tls: Option<SocketAddr>,
}

/// A port of loopback that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    listener.local_addr().expect("a bound address").port()
}

/// A directory of the lab that any user may write to: these servers give up root.
fn directory(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.directory().join(format!("{name}-{}", port()));
    fs::create_dir(&path).expect("own directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("own directory");
    path
}

fn write(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).expect("own directory");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own file");
}

impl Proxy {
    /// Squid. With a password it asks for it; it resolves names by `hosts`.
    ///
    /// # Panics
    /// If it is missing or does not start.
    #[must_use]
    pub fn squid(lab: &Lab, password: Option<&str>, hosts: &str) -> Proxy {
        Proxy::started(|| Proxy::try_squid(lab, password, hosts))
    }

    fn try_squid(lab: &Lab, password: Option<&str>, hosts: &str) -> Result<Proxy, String> {
        let own = directory(lab, "squid");
        let (plain, tls) = (port(), port());
        let (certificate, key) = lab.ca().certificate_pem("localhost");
        write(&own.join("certificate.pem"), &certificate, 0o644);
        write(&own.join("key.pem"), &key, 0o644);
        write(&own.join("hosts"), hosts, 0o644);
        let mut rules = String::from("http_access allow all\n");
        if let Some(password) = password {
            let helper = "#!/bin/sh\nwhile read -r user password; do\n\
                          if [ \"$user $password\" = \"USER PASSWORD\" ]; then echo OK; \
                          else echo ERR; fi; done\n";
            let helper = helper.replace("USER", USER).replace("PASSWORD", password);
            write(&own.join("helper"), &helper, 0o755);
            rules = format!(
                "auth_param basic program {}\nauth_param basic children 2 startup=1\n\
                 auth_param basic realm lab\nacl known proxy_auth REQUIRED\n\
                 http_access allow known\nhttp_access deny all\n",
                own.join("helper").display()
            );
        }
        let place = own.display();
        let configuration = format!(
            "http_port 127.0.0.1:{plain}\n\
             https_port 127.0.0.1:{tls} tls-cert={place}/certificate.pem \
             tls-key={place}/key.pem\n\
             {rules}cache deny all\ncache_mem 4 MB\ncoredump_dir {place}\n\
             pid_filename {place}/pid\ncache_log {place}/cache.log\n\
             access_log stdio:{place}/access.log logformat=lab\nlogfile_rotate 0\n\
             buffered_logs off\nhosts_file {place}/hosts\ndns_nameservers 127.0.0.1\n\
             shutdown_lifetime 0 seconds\nvisible_hostname lab\npinger_enable off\n\
             netdb_filename none\nmax_filedescriptors 1024\n"
        );
        // A format must be defined before it is used.
        let configuration = format!("logformat lab %rm %ru %>Hs\n{configuration}");
        write(&own.join("squid.conf"), &configuration, 0o644);
        // By a name of its own: Squids of one name take each other's shared memory away.
        let service = format!("lab{plain}");
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 1024; exec squid -N -n \"$1\" -f \"$0\""]);
        command.arg(own.join("squid.conf")).arg(&service);
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut proxy = Proxy::start(command, &own, address(plain))?;
        proxy.tls = Some(address(tls));
        proxy.service = Some(service);
        Ok(proxy)
    }

    /// Tinyproxy, which asks for a password.
    ///
    /// # Panics
    /// If it is missing or does not start.
    #[must_use]
    pub fn tinyproxy(lab: &Lab, password: &str) -> Proxy {
        Proxy::started(|| Proxy::try_tinyproxy(lab, password))
    }

    fn try_tinyproxy(lab: &Lab, password: &str) -> Result<Proxy, String> {
        let own = directory(lab, "tinyproxy");
        let plain = port();
        let configuration = format!(
            "Port {plain}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nLogLevel Connect\n\
             LogFile \"{place}/access.log\"\nPidFile \"{place}/pid\"\n\
             BasicAuth {USER} {password}\n",
            place = own.display()
        );
        write(&own.join("tinyproxy.conf"), &configuration, 0o644);
        let mut command = Command::new("tinyproxy");
        command.arg("-d").arg("-c").arg(own.join("tinyproxy.conf"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, plain));
        Proxy::start(command, &own, address)
    }

    fn started(start: impl Fn() -> Result<Proxy, String>) -> Proxy {
        let mut said = Vec::new();
        for _ in 0..TRIES {
            match start() {
                Ok(proxy) => return proxy,
                Err(error) => said.push(error),
            }
        }
        panic!("no proxy starts: {said:#?}");
    }

    /// Starts it and waits until it listens. What it said if it ended instead.
    fn start(mut command: Command, own: &Path, plain: SocketAddr) -> Result<Proxy, String> {
        let output = File::create(own.join("output")).expect("own directory");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let process = command.spawn().expect("a proxy: `cargo xtask test --prerequisites`");
        let log = own.join("access.log");
        let mut proxy = Proxy { process, log, service: None, plain, tls: None };
        let deadline = Instant::now() + BEGINS_WITHIN;
        while TcpStream::connect(plain).is_err() {
            if let Some(ended) = proxy.process.try_wait().expect("own child") {
                let said = ["output", "cache.log"].map(|name| fs::read_to_string(own.join(name)));
                return Err(format!("{ended}: {said:?}"));
            }
            assert!(Instant::now() < deadline, "the proxy does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

    /// Its URL for a policy.
    pub fn url(&self) -> String {
        format!("http://{}", self.plain)
    }

    /// Its URL over TLS.
    ///
    /// # Panics
    /// If it has none.
    pub fn secure_url(&self) -> String {
        format!("https://localhost:{}", self.tls.expect("Squid has both").port())
    }

    /// Its log of requests, one a line.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // A connection without a request, as the one that found it listening.
        let asked = text.lines().filter(|line| !line.contains("error:transaction-end"));
        asked.map(str::to_owned).collect()
    }

    /// The ends of the tunnels that Squid was asked for, in the order in which they ended. It logs
    /// a tunnel when it is closed, so this waits until there are `expected`.
    pub fn tunnels(&self, expected: usize) -> Vec<String> {
        let end = |line: &String| {
            let mut words = line.split(' ');
            (words.next() == Some("CONNECT")).then(|| words.next().map(str::to_owned)).flatten()
        };
        let deadline = Instant::now() + LOGS_WITHIN;
        loop {
            let found: Vec<String> = self.log().iter().filter_map(end).collect();
            if found.len() >= expected || Instant::now() > deadline {
                return found;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let Some(service) = &self.service else { return };
        for entry in fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("{service}-")) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}
