//! HAProxy, which mints certificates by SNI.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::{Contender, outside};
use crate::load::Way;
use crate::options::Options;
use crate::process::{Peer, bound, free_port};
use crate::world::World;

pub(super) fn start(world: &World, _: &Options) -> Result<Contender> {
    let (place, h1, h2) = (world.place("haproxy")?, free_port()?, free_port()?);
    let (certificate, key) = ca()?;
    fs::write(place.join("trust.pem"), &certificate)?;
    let ca = crate::world::secret(&place.join("ca.pem"), &format!("{certificate}{key}"))?;
    let (ca, key, origin, roots) = (ca.display(), &world.key, world.origin.address, world.roots());
    let roots = roots.display();
    let mut text = String::from(
        "global
  nbthread 2
  ssl-server-verify required
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
",
    );
    for (name, port, protocol) in [("h1", h1, "http/1.1"), ("h2", h2, "h2")] {
        text += &format!(
            "frontend {name}
  bind 127.0.0.1:{port} ssl crt {ca} ca-sign-file {ca} generate-certificates alpn h2,http/1.1
  http-request set-header authorization \"Bearer {key}\"
  default_backend to-{name}
backend to-{name}
  server origin {origin} ssl verify required ca-file {roots} sni ssl_fc_sni alpn {protocol}
"
        );
    }
    let file = crate::world::secret(&place.join("haproxy.cfg"), &text)?;
    let mut command = bound("haproxy");
    command.arg("-q").arg("-db").arg("-f").arg(file);
    let mut proxy = Peer::start(command)?;
    proxy.listens(h2).context("haproxy")?;
    let at = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
    let way =
        Way { to: at(h1), to_h2: at(h2), trust: Some(place.join("trust.pem")), ..Way::default() };
    Contender::new(outside()?, &way, Some(proxy))
}

/// A CA for a peer: certificate and key, PEM.
pub(super) fn ca() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "a peer in a benchmark");
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
