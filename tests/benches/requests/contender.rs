//! Who stands between the load and the origin: nobody, the interceptor, or a peer that is installed here.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interceptor_tests::Lab;
use interceptor_tests::sandbox::binary;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use super::load::{Done, Load};
use super::{HOST, LOAD};

/// How long a peer may take to listen.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// Loads before the first that counts that may fail.
const WARM_UPS: usize = 4;

/// One of them, and its load.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    to: Option<SocketAddr>,
    trust: Option<PathBuf>,
    /// The process whose CPU is counted.
    proxy: Option<u32>,
    asks: ChildStdin,
    hears: BufReader<ChildStdout>,
    load: Running,
    _proxy: Option<Running>,
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Contender {
    /// Nobody.
    pub(crate) fn direct(lab: &Lab) -> Result<Self> {
        let trust = lab.directory().join("upstream-ca.pem");
        Self::outside("direct", lab.origin(), trust, None)
    }

    /// The interceptor: as its users run it, with a key to put in, answers searched for it, and records.
    pub(crate) fn interceptor(lab: &Lab) -> Result<Self> {
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/bytes/*"] }]));
        let file = lab.secret_file("policy.json", &policy.to_string());
        let mut command = Command::new(binary("interceptor"));
        command.arg("run").arg("--policy").arg(file).arg("--user").arg("root");
        command.arg("--audit").arg(lab.directory().join("audit.jsonl"));
        command.arg("--upstream-ca").arg(lab.directory().join("upstream-ca.pem"));
        command.arg("--resolve").arg(format!("{HOST}:443:{}", lab.origin()));
        command.arg("--").arg(std::env::current_exe()?);
        let mut contender = Self::with("interceptor", command, None, None, None)?;
        contender.proxy = Some(contender.load.0.id());
        Ok(contender)
    }

    /// HAProxy, which mints certificates by the name a client asks for; its HTTP/2 becomes HTTP/1.1 on the way to the origin.
    pub(crate) fn haproxy(lab: &Lab) -> Result<Self> {
        let (directory, port) = (lab.directory().join("haproxy"), free_port()?);
        fs::create_dir(&directory)?;
        let (certificate, key) = authority()?;
        fs::write(directory.join("trust.pem"), &certificate)?;
        lab.secret_file("haproxy/ca.pem", &format!("{certificate}{key}"));
        let configuration = format!(
            "global\n  nbthread 2\n  tune.ssl.default-dh-param 2048\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
             frontend in\n  bind 127.0.0.1:{port} ssl crt {ca} ca-sign-file {ca} generate-certificates alpn h2,http/1.1\n  \
             http-request set-header authorization \"Bearer {key}\"\n  default_backend out\n\
             backend out\n  server out {origin} ssl verify required ca-file {upstream} sni str({HOST}) alpn http/1.1\n",
            ca = directory.join("ca.pem").display(),
            key = lab.key(),
            origin = lab.origin(),
            upstream = lab.directory().join("upstream-ca.pem").display(),
        );
        lab.secret_file("haproxy/haproxy.cfg", &configuration);
        let mut command = Command::new("haproxy");
        command.arg("-q").arg("-db").arg("-f").arg(directory.join("haproxy.cfg"));
        Self::peer("haproxy", command, port, directory.join("trust.pem"))
    }

    /// mitmproxy's `mitmdump`.
    pub(crate) fn mitmdump(lab: &Lab) -> Result<Self> {
        let (directory, port) = (lab.directory().join("mitmproxy"), free_port()?);
        fs::create_dir(&directory)?;
        let value = lab.secret_file("mitmproxy/value", &format!("Bearer {}", lab.key()));
        let configuration = json!({
            "modify_headers": [format!("|~q|authorization|@{}", value.display())],
            "mode": [format!("reverse:https://localhost:{}", lab.origin().port())],
            "keep_host_header": true,
            "listen_host": "127.0.0.1",
            "listen_port": port,
            "ssl_verify_upstream_trusted_ca": lab.directory().join("upstream-ca.pem"),
            "stream_large_bodies": "1m",
        });
        // JSON is YAML.
        fs::write(directory.join("config.yaml"), configuration.to_string())?;
        let mut command = Command::new("mitmdump");
        command.arg("--quiet").arg("--set").arg(format!("confdir={}", directory.display()));
        Self::peer("mitmdump", command, port, directory.join("mitmproxy-ca-cert.pem"))
    }

    fn peer(name: &'static str, mut command: Command, port: u16, trust: PathBuf) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = Running(child.with_context(|| format!("{name} is not installed"))?);
        let (address, deadline) = (SocketAddr::from(([127, 0, 0, 1], port)), Instant::now() + UP_WITHIN);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "{name} does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        Self::outside(name, address, trust, Some(child))
    }

    fn outside(name: &'static str, to: SocketAddr, trust: PathBuf, proxy: Option<Running>) -> Result<Self> {
        Self::with(name, Command::new(std::env::current_exe()?), Some(to), Some(trust), proxy)
    }

    fn with(
        name: &'static str,
        mut command: Command,
        to: Option<SocketAddr>,
        trust: Option<PathBuf>,
        proxy: Option<Running>,
    ) -> Result<Self> {
        let mut load = command.env(LOAD, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (asks, hears) = (load.stdin.take().context("it is piped")?, load.stdout.take());
        let hears = BufReader::new(hears.context("it is piped")?);
        let counted = proxy.as_ref().map(|proxy| proxy.0.id());
        Ok(Self { name, to, trust, proxy: counted, asks, hears, load: Running(load), _proxy: proxy })
    }

    /// Asks a little, unmeasured: pools fill, and HAProxy, which fails the first connections to a new name, has made its certificate.
    pub(crate) fn warm_up(&mut self, load: &Load) -> Result<()> {
        let load = Load { seconds: 0.2, ..load.clone() };
        for _ in 0..WARM_UPS {
            if self.run(&load).is_ok() {
                return Ok(());
            }
        }
        self.run(&load).map(|_| ())
    }

    /// Runs a load; what came of it, and the CPU seconds of the proxy.
    pub(crate) fn run(&mut self, load: &Load) -> Result<(Done, f64)> {
        let load = Load { to: self.to, trust: self.trust.clone(), ..load.clone() };
        let before = self.cpu()?;
        writeln!(self.asks, "{}", serde_json::to_string(&load)?)?;
        let mut line = String::new();
        self.hears.read_line(&mut line)?;
        let done: Done = serde_json::from_str(&line).with_context(|| format!("{}: {line:?}", self.name))?;
        if let Some(error) = &done.error {
            anyhow::bail!("{}: {error}", self.name);
        }
        Ok((done, self.cpu()? - before))
    }

    /// CPU seconds of the proxy so far, in user mode and in the kernel (proc_pid_stat(5)).
    fn cpu(&self) -> Result<f64> {
        let Some(pid) = self.proxy else { return Ok(0.0) };
        let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
        // The fields are counted from the state, which is the third: utime is the 14th, stime the 15th.
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("_SC_CLK_TCK")?;
        Ok(ticks / hertz as f64)
    }
}

/// A port that nobody had a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A certificate authority for a peer: certificate and key, PEM.
fn authority() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "a peer in a benchmark");
    let certificate = params.self_signed(&key)?;
    let pem = key.serialize_pem();
    drop(Issuer::new(params, key));
    Ok((certificate.pem(), pem))
}
