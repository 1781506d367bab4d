//! The origin: nginx with two files, an upload directory, and a stream of events.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::events::Source;
use crate::process::{Peer, bound, free_port};
use crate::world::Parts;

const SMALL_BYTES: u64 = 1 << 10;

pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    _parts: Parts,
}

impl Origin {
    /// With a certificate and its key; `large`: the length of the large file.
    pub(crate) fn start(
        directory: &Path,
        certificate: &(PathBuf, PathBuf),
        large: u64,
    ) -> Result<Origin> {
        let (port, events) = (free_port()?, Source::start()?);
        let place = directory.join("origin");
        for name in ["files", "up", "temporary"] {
            fs::create_dir_all(place.join(name))?;
        }
        file(&place.join("files/small"), SMALL_BYTES)?;
        file(&place.join("files/large"), large)?;
        let text = configuration(&place, port, events.address, certificate);
        fs::write(place.join("nginx.conf"), text)?;
        let mut command = bound("nginx");
        command
            .arg("-p")
            .arg(&place)
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(place.join("nginx.conf"));
        command.stdout(Stdio::null());
        let mut nginx = Peer::start(command)?;
        nginx.listens(port).context("nginx")?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Origin { address, _parts: Parts { _nginx: nginx, _events: events } })
    }
}

fn configuration(
    place: &Path,
    port: u16,
    events: SocketAddr,
    (certificate, key): &(PathBuf, PathBuf),
) -> String {
    let (place, certificate, key) = (place.display(), certificate.display(), key.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {place}/temporary;\n"))
        .collect();
    format!(
        "user root;
daemon off;
pid {place}/nginx.pid;
worker_processes 2;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
  access_log off;
{temporary}  default_type application/octet-stream;
  tcp_nodelay on;
  client_max_body_size 0;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  open_file_cache max=16;
  server {{
    listen 127.0.0.1:{port} ssl http2 backlog=4096;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    root {place};
    location /up/ {{ dav_methods PUT; open_file_cache off; }}
    location /events {{
      proxy_pass http://{events};
      proxy_http_version 1.1;
      proxy_buffering off;
    }}
  }}
}}
"
    )
}

/// Pseudo-random bytes, the same each time.
fn file(path: &Path, length: u64) -> Result<()> {
    let mut out = std::io::BufWriter::new(fs::File::create(path)?);
    let (mut state, mut left) = (0x9e37_79b9_7f4a_7c15_u64, length);
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let piece = state.to_le_bytes();
        let now = left.min(piece.len() as u64);
        out.write_all(&piece[..now as usize])?;
        left -= now;
    }
    out.flush().context("writing a file of the origin")
}
