//! A real OpenBao server on loopback, in memory, from its wheel (`tests/clients/openbao`); and a
//! double of what one of its engines manages, so that it has secrets with a lease.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Lab;
use crate::clients;

/// The token that may do anything.
const ROOT: &str = "root-of-the-lab";

/// A server that ends with the test.
#[derive(Debug)]
pub struct OpenBao {
    process: Child,
    address: SocketAddr,
    ca: Option<PathBuf>,
    directory: PathBuf,
}

/// An answer: its status and its JSON, null where it has none.
pub type Told = (u16, Value);

impl OpenBao {
    /// A server without TLS.
    pub fn start(lab: &Lab) -> OpenBao {
        OpenBao::start_with(lab, false)
    }

    /// A server over TLS, with a CA of its own.
    pub fn start_tls(lab: &Lab) -> OpenBao {
        OpenBao::start_with(lab, true)
    }

    fn start_with(lab: &Lab, tls: bool) -> OpenBao {
        let directory = lab.directory().join("openbao");
        fs::create_dir_all(&directory).expect("own directory");
        let mut command = Command::new(clients::openbao());
        command.args(["server", "-dev", "-dev-no-store-token"]);
        command.arg(format!("-dev-root-token-id={ROOT}"));
        // It takes a free port, and the next one for other servers of its cluster.
        command.arg("-dev-listen-address=127.0.0.1:0");
        if tls {
            command.arg("-dev-tls").arg("-dev-tls-cert-dir").arg(&directory);
        }
        command.env_clear().env("HOME", &directory).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("an OpenBao server");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let mut port = None;
        let started = lines.by_ref().map_while(Result::ok).any(|line| {
            let cluster = line.split("cluster address: \"127.0.0.1:").nth(1);
            if let Some(next) = cluster.and_then(|rest| rest.split('"').next()) {
                port = next.parse::<u16>().ok().map(|next| next - 1);
            }
            line.contains("server started!")
        });
        // What it says later is taken until it ends.
        std::thread::spawn(move || lines.for_each(drop));
        let ca = tls.then(|| directory.join("vault-ca.pem"));
        let mut server =
            OpenBao { process, address: (Ipv4Addr::LOCALHOST, 0).into(), ca, directory };
        assert!(started, "OpenBao did not start");
        server.address.set_port(port.expect("a bound port"));
        server
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The file with the CA of its certificate.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Asks as the one who may do anything.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Told {
        self.call_as(ROOT, method, path, body)
    }

    /// Asks with a token.
    pub fn call_as(&self, token: &str, method: &str, path: &str, body: &Value) -> Told {
        self.call_with(&[("X-Vault-Token", token)], method, path, body)
    }

    /// Asks with these header fields.
    pub fn call_with(
        &self,
        fields: &[(&str, &str)],
        method: &str,
        path: &str,
        body: &Value,
    ) -> Told {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-w", "\n%{http_code}", "-X", method]);
        curl.args(["--data", &body.to_string()]);
        fields.iter().for_each(|(name, value)| {
            curl.args(["-H", &format!("{name}: {value}")]);
        });
        if let Some(ca) = &self.ca {
            curl.arg("--cacert").arg(ca);
        }
        let output = curl.arg(format!("{}/v1/{path}", self.url())).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or_default())
    }

    /// As [`OpenBao::call`], and must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn set(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, told) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {told}");
        told
    }

    /// Keeps a secret in KV version 2.
    #[track_caller]
    pub fn keep(&self, path: &str, secret: &Value) {
        self.set("POST", &format!("secret/data/{path}"), &json!({ "data": secret }));
    }

    /// Makes a policy of the server that permits these paths to be read.
    #[track_caller]
    pub fn permit(&self, name: &str, paths: &[&str]) {
        let rule = |path: &&str| format!("path \"{path}\" {{ capabilities = [\"read\"] }}\n");
        let rules: String = paths.iter().map(rule).collect();
        self.set("POST", &format!("sys/policies/acl/{name}"), &json!({ "policy": rules }));
    }

    /// A token with these policies, and other fields of its creation.
    #[track_caller]
    pub fn token(&self, policies: &[&str], fields: &Value) -> String {
        let mut body = fields.clone();
        body["policies"] = json!(policies);
        let told = self.set("POST", "auth/token/create", &body);
        told["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    /// An application with these policies; returns its role id.
    #[track_caller]
    pub fn application(&self, name: &str, policies: &[&str], fields: &Value) -> String {
        // It is refused where it is there already.
        self.call("POST", "sys/auth/approle", &json!({ "type": "approle" }));
        let mut body = fields.clone();
        body["token_policies"] = json!(policies);
        self.set("POST", &format!("auth/approle/role/{name}"), &body);
        let told = self.set("GET", &format!("auth/approle/role/{name}/role-id"), &json!({}));
        told["data"]["role_id"].as_str().expect("a role id").to_owned()
    }

    /// A secret id of an application.
    #[track_caller]
    pub fn secret_id(&self, name: &str) -> String {
        let told = self.set("POST", &format!("auth/approle/role/{name}/secret-id"), &json!({}));
        told["data"]["secret_id"].as_str().expect("a secret id").to_owned()
    }

    /// The token of a response that holds a secret id.
    pub fn wrapped_secret_id(&self, name: &str) -> String {
        let fields = [("X-Vault-Token", ROOT), ("X-Vault-Wrap-TTL", "300s")];
        let path = format!("auth/approle/role/{name}/secret-id");
        let (_, told) = self.call_with(&fields, "POST", &path, &json!({}));
        told["wrap_info"]["token"].as_str().expect("a wrapped response").to_owned()
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What the engine `rabbitmq` manages: an API that makes users, and takes anything.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    users: Arc<AtomicUsize>,
    ended: Arc<Mutex<bool>>,
}

impl Broker {
    /// Listens on a port of loopback.
    pub fn start() -> Broker {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = listener.local_addr().expect("a bound address");
        let (users, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(false)));
        let (counted, is_over) = (users.clone(), ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if *is_over.lock().expect("no test thread panicked") {
                    return;
                }
                let counted = counted.clone();
                std::thread::spawn(move || answer(stream, &counted));
            }
        });
        Broker { address, users, ended }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many users were made.
    pub fn users(&self) -> usize {
        self.users.load(Ordering::SeqCst)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        *self.ended.lock().expect("no test thread panicked") = true;
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

/// Takes one request, and says that it was done.
fn answer(mut stream: TcpStream, users: &AtomicUsize) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let end = b"\r\n\r\n";
    let mut whole = None;
    while whole.is_none_or(|length| request.len() < length) {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
        let head = request.windows(4).position(|four| four == end);
        whole = whole.or_else(|| {
            let head = head?;
            let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            Some(head + 4 + length.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
        });
    }
    if request.starts_with(b"PUT /api/users/") {
        users.fetch_add(1, Ordering::SeqCst);
    }
    let _ =
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}
