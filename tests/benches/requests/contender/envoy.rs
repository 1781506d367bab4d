//! Envoy with a fixed certificate for all names: it shows the cost of a proxy that need not mint
//! certificates.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Contender, outside};
use crate::load::Way;
use crate::options::Options;
use crate::process::{Peer, bound, free_port};
use crate::world::{World, secret};

const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.\
                       http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const PROTOCOL: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TO_CLIENTS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const TO_ORIGIN: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

pub(super) fn start(world: &World, options: &Options) -> Result<Contender> {
    let program =
        options.envoy.as_ref().context("it is not installed: `cargo xtask bench requests` does")?;
    let (place, h1, h2) = (world.place("envoy")?, free_port()?, free_port()?);
    let configuration = json!({ "static_resources": {
        "listeners": [listener(world, "h1", h1), listener(world, "h2", h2)],
        "clusters": [cluster(world, "h1"), cluster(world, "h2")],
    } });
    let file = secret(&place.join("envoy.json"), &configuration.to_string())?;
    let mut command = bound(program);
    command
        .args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "error", "-c"])
        .arg(file);
    let mut proxy = Peer::start(command)?;
    proxy.listens(h2).context("envoy")?;
    let at = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
    let way = Way { to: at(h1), to_h2: at(h2), trust: Some(world.roots()), ..Way::default() };
    Contender::new(outside()?, &way, Some(proxy))
}

fn address(to: SocketAddr) -> Value {
    json!({ "socket_address": { "address": to.ip().to_string(), "port_value": to.port() } })
}

fn listener(world: &World, name: &str, port: u16) -> Value {
    let (certificate, key) = &world.fixed;
    let injected = json!({
        "header": { "key": "authorization", "value": format!("Bearer {}", world.key) },
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    });
    json!({
        "name": name,
        "address": address(SocketAddr::from(([127, 0, 0, 1], port))),
        "filter_chains": [{
            "transport_socket": { "name": "tls", "typed_config": {
                "@type": TO_CLIENTS,
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [{
                        "certificate_chain": { "filename": certificate },
                        "private_key": { "filename": key },
                    }],
                },
            } },
            "filters": [{ "name": "http", "typed_config": {
                "@type": MANAGER,
                "stat_prefix": name,
                "request_timeout": "0s",
                "stream_idle_timeout": "0s",
                "route_config": { "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "request_headers_to_add": [injected],
                    "routes": [{
                        "match": { "prefix": "/" },
                        "route": { "cluster": name, "timeout": "0s" },
                    }],
                }] },
                "http_filters": [{ "name": "router", "typed_config": { "@type": ROUTER } }],
            } }],
        }],
    })
}

fn cluster(world: &World, name: &str) -> Value {
    let protocol = if name == "h2" { "http2_protocol_options" } else { "http_protocol_options" };
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": address(world.origin.address) },
            }] }],
        },
        "circuit_breakers": { "thresholds": [{
            "max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192,
        }] },
        "typed_extension_protocol_options": { PROTOCOL: {
            "@type": OPTIONS,
            "explicit_http_config": { protocol: {} },
            "upstream_http_protocol_options": { "auto_sni": true, "auto_san_validation": true },
        } },
        "transport_socket": { "name": "tls", "typed_config": {
            "@type": TO_ORIGIN,
            "common_tls_context": {
                "validation_context": { "trusted_ca": { "filename": world.roots() } },
            },
        } },
    })
}
