//! Connections that are tunnelled unopened, from the decision to the record.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use interceptor_policy::{Allow, Decision, Host, Policy, Reason};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::prefixed::Prefixed;
use super::reset::reset;
use super::way::{self, DialResult};
use crate::audit::{Protocol, Record, Verdict};
use crate::http::activity::Activity;
use crate::proxy::Sandbox;
use crate::tunnel::{Carried, carry, carry_wrapped};
use crate::upstream::Wire;

/// Tunnels a connection if the policy permits it, and refuses it otherwise.
pub(super) async fn unless_refused(
    arrival: Arrival,
    stream: TcpStream,
    first: BytesMut,
    host: Host,
    protocol: Protocol,
    way: Option<DialResult>,
) {
    match way::decide(&arrival.rules.policy, &host, arrival.asked.port(), protocol) {
        Decision::Allow(allow) => {
            tunnel(arrival, Prefixed { first, stream }, host, protocol, &allow, way).await;
        }
        Decision::Deny(refusal) => {
            arrival.refused(Some(protocol), &host, &refusal);
            arrival.explain(stream, &first, &host, &refusal.message).await;
        }
    }
}

/// Relays bytes both ways, unread; over `way` if the origin was already dialled.
pub(super) async fn tunnel(
    arrival: Arrival,
    Prefixed { first, mut stream }: Prefixed,
    host: Host,
    protocol: Protocol,
    allow: &Allow,
    way: Option<DialResult>,
) {
    let port = arrival.asked.port();
    let limits = *arrival.rules.policy.limits();
    let way = match way {
        Some(way) => way,
        None => way::find(&arrival, &host).await,
    };
    let (mut dialed, allowance) = match way {
        Ok(way) => way,
        Err(refusal) => {
            arrival.refused(Some(protocol), &host, &refusal);
            return arrival.explain(stream, &first, &host, &refusal.message).await;
        }
    };
    let carried = Carried::new(arrival.sandbox.metrics.clone(), allowance);
    let mut entry = TunnelRecord {
        record: Some(arrival.record(Verdict::Allow, Some(protocol), &host)),
        sandbox: arrival.sandbox.clone(),
        since: arrival.since,
        activity: arrival.activity().clone(),
        carried: &carried,
    };
    if let Some(record) = &mut entry.record {
        record.filter = Some(allow.filter);
        record.rule = allow.rule.clone();
        record.ip = dialed.address.map(|address| address.ip());
    }
    let close = CancellationToken::new();
    let named = host.clone();
    let permitted = move |policy: &Policy| way::permits(policy, &named, port, protocol);
    let _alive = arrival.sandbox.live.enter(&arrival.rules.policy, close.clone(), permitted);
    let activity = arrival.activity().clone();
    // A tunnel must not keep the keys of old rules in memory.
    drop(arrival);
    let ended = async {
        carried.take_up(first.len() as u64)?;
        dialed.stream.write_all(&first).await?;
        dialed.stream.flush().await?;
        let idle = limits.tunnel_idle_timeout;
        match &mut dialed.stream {
            Wire::Tcp(origin) => carry(&stream, origin, &carried, idle).await,
            wrapped => carry_wrapped(&mut stream, wrapped, &carried, idle).await,
        }
    };
    tokio::select! {
        ended = ended => if let Err(error) = ended {
            tracing::debug!(%host, %error, "a tunnel ended");
        },
        () = close.cancelled() => {
            activity.end(Reason::HostDenied);
            tracing::debug!(%host, "a tunnel was closed: a new policy does not permit it");
            reset(stream);
        }
    }
}

/// The record of a tunnel, written when it ends, even if its task is cancelled.
struct TunnelRecord<'a> {
    record: Option<Record>,
    sandbox: Arc<Sandbox>,
    since: Instant,
    activity: Arc<Activity>,
    carried: &'a Carried,
}

impl Drop for TunnelRecord<'_> {
    fn drop(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        if let Some(record) = self.record.take() {
            let record = record
                .bytes(self.carried.up.load(Relaxed), self.carried.down.load(Relaxed))
                .duration(self.since.elapsed());
            let mut record = record;
            record.reason = self.carried.limit().or_else(|| self.activity.limit());
            self.sandbox.metrics.connection(&record);
            self.sandbox.audit.emit(record);
        }
    }
}
