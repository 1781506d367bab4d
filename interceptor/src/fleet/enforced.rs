//! One cgroup under enforcement: the kernel programs redirect its traffic to the proxy, which
//! serves it.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use interceptor_policy::Policy;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::IoContext;
use super::{FleetError, Netns, Pins, Visit};
use crate::accept;
use crate::audit::Record;
use crate::credential::Keyring;
use crate::kernel::{Attachment, Enforcement, Enforcer};
use crate::notice;
use crate::proxy::{Runtime, Sandbox, Serving};
use crate::sandbox::launch::{self, Sockets};
use crate::seam::{Listeners, SELF_TEST};

/// A sandbox's cgroup and the kind of its network namespace.
#[derive(Debug)]
pub(crate) struct CgroupTarget<'a> {
    /// The cgroup's directory.
    pub(crate) cgroup: &'a Path,
    /// Its id in the kernel.
    pub(crate) cgroup_id: u64,
    /// Whether the network namespace is the sandbox's alone.
    pub(crate) netns: Netns,
}

/// A sandbox under enforcement.
#[derive(Debug)]
pub(crate) struct Enforced {
    /// Dropped first, so that enforcement ends last: without the proxy, connections are refused.
    serving: Serving,
    attachment: Attachment,
    /// Dropped after the attachment, which removes what it pinned there.
    pins: Option<Pins>,
    /// Set while another process takes the sandbox over: it must stay as described to that process.
    pub(crate) is_frozen: bool,
    /// A dead interceptor had left the cgroup closed.
    was_closed: bool,
    /// The proxy's answer at [`SELF_TEST`].
    pub(crate) token: String,
    /// The addresses of the interceptor's sockets in the sandbox's network namespace.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Whether that namespace has a device besides `lo`, through which packets could leave.
    pub(crate) has_devices: bool,
    /// Whether a dead interceptor had left the cgroup closed.
    pub(crate) took_over: bool,
    /// The sandbox's CA certificate, PEM.
    pub(crate) ca_pem: String,
}

impl Enforced {
    /// Enforces on a cgroup that somebody else made, with pinned programs, and tests it from
    /// inside. Takes over from a dead interceptor. Call it within a tokio runtime, from a thread
    /// that may block.
    ///
    /// # Errors
    /// If anything is missing or refused. On failure everything is undone, except that a cgroup a
    /// dead interceptor left closed stays closed.
    pub(crate) fn enter(
        runtime: &Arc<Runtime>,
        enforcer: &Enforcer,
        id: &str,
        visit: &Visit,
        rules: (Policy, Keyring),
    ) -> Result<Self, FleetError> {
        let pins = Pins::of(visit.cgroup_id)?;
        let takes_over = !pins.stale.is_empty();
        if takes_over {
            tracing::warn!(sandbox = %id, "taking over from a crashed interceptor");
        }
        let (mut visitor, sockets) = launch::Visitor::start(
            &visit.cgroup,
            visit.network.as_ref().map(|namespace| namespace.as_fd()),
        )?;
        let place =
            CgroupTarget { cgroup: &visit.cgroup, cgroup_id: visit.cgroup_id, netns: visit.netns };
        let sandbox = Sandbox::new(runtime, id, rules.0, rules.1)?;
        let mut enforced =
            Enforced::begin(runtime, enforcer, sandbox, &place, sockets, Some(pins))?;
        enforced.was_closed = takes_over;
        if let Err(failed) = visitor.self_test(SELF_TEST, &enforced.token) {
            if takes_over {
                // It was closed before, so keep it closed.
                enforced.keep_programs();
            }
            return Err(failed.into());
        }
        enforced.record_refusals()?;
        if takes_over {
            runtime.audit.emit(Record::lifecycle(&id.into(), "sandbox_adopted"));
        }
        // Dropped here: the visitor is a process of the cgroup and must leave it early.
        Ok(enforced)
    }

    /// Attaches the programs, pinned if `pins` is given, then serves `sandbox`, which must not be
    /// served yet. Call it within a tokio runtime.
    ///
    /// # Errors
    /// If the kernel refuses, or the proxy cannot serve.
    pub(crate) fn begin(
        runtime: &Arc<Runtime>,
        enforcer: &Enforcer,
        sandbox: Arc<Sandbox>,
        place: &CgroupTarget<'_>,
        sockets: Sockets,
        pins: Option<Pins>,
    ) -> Result<Self, FleetError> {
        let enforcement = enforcement(place, &sockets, &sandbox.rules().policy)?;
        let cgroup = File::open(place.cgroup)
            .context(|| format!("cannot open the cgroup {}", place.cgroup.display()))?;
        let attachment = match &pins {
            None => enforcer.attach(&cgroup, &enforcement)?,
            Some(pins) => enforcer.attach_pinned(
                &cgroup,
                &enforcement,
                &pins.fresh(sandbox.id()),
                &pins.stale,
            )?,
        };
        let (own, has_devices) = (sockets.addresses(), !sockets.closed);
        let took_over = pins.as_ref().is_some_and(|pins| !pins.stale.is_empty());
        let (tcp6, dns6) = sockets.v6.unzip();
        let token = launch::random_id()?;
        let ca_pem = sandbox.ca_pem().to_owned();
        let listeners = Listeners {
            tcp4: sockets.tcp4,
            tcp6,
            dns4: sockets.dns4,
            dns6,
            self_test_token: token.clone(),
        };
        attachment.mark_listeners(&listeners)?;
        runtime.metrics().watch_maps(Arc::new(enforcer.gauge()));
        sandbox.watch_half_open(Box::new(attachment.half_open_gauge()));
        let serving = sandbox
            .serve(listeners, enforcer.destinations(), accept::accept)
            .context(|| "cannot serve the sandbox".into())?;
        Ok(Enforced {
            serving,
            attachment,
            pins,
            is_frozen: false,
            was_closed: false,
            token,
            listeners: own,
            has_devices,
            took_over,
            ca_pem,
        })
    }

    /// The user-space half.
    pub(crate) fn sandbox(&self) -> &Arc<Sandbox> {
        self.serving.sandbox()
    }

    /// Replaces policy and keys, first in the kernel, so that a failure changes nothing, then
    /// atomically in the proxy. With `close`, closes connections that the new rules forbid;
    /// otherwise they finish under the rules they began with.
    ///
    /// # Errors
    /// If the kernel refuses the new networks, or the policy's roots cannot be used; the old rules
    /// stay in force.
    pub(crate) fn replace(
        &mut self,
        policy: Policy,
        keyring: Keyring,
        close: bool,
    ) -> Result<(), FleetError> {
        let sandbox = self.serving.sandbox();
        let rules = sandbox.prepare(policy, keyring)?;
        let policy = &rules.policy;
        self.attachment.set_networks(&policy.denied_networks(), &policy.allowed_loopback())?;
        sandbox.put(rules);
        if close {
            sandbox.close_forbidden();
        }
        Ok(())
    }

    /// Shuts the proxy down and revokes the keys, then detaches the programs. The sandbox's
    /// processes must be gone, or no longer this process's responsibility. Call it from a thread
    /// that may block.
    pub(crate) fn end(self, tokio: &Handle) {
        self.attachment.flush_refusals();
        tokio.block_on(self.serving.shutdown());
    }

    /// Starts recording the kernel programs' refusals. Call it after the self-test, before a
    /// command starts.
    ///
    /// # Errors
    /// If the kernel's reports cannot be read.
    pub(crate) fn record_refusals(&mut self) -> Result<(), FleetError> {
        Ok(self.attachment.report_to(self.serving.sandbox().refusals())?)
    }

    /// Whether the programs of this turn are certainly on the cgroup: [`Attachment::holds`].
    pub(crate) fn holds(&self, turn: usize) -> bool {
        self.attachment.holds(turn)
    }

    /// The hooks whose programs somebody else detached from the cgroup.
    pub(crate) fn lost(&self) -> Vec<&'static str> {
        self.attachment.lost()
    }

    /// Reports lost enforcement on standard error (even with `--quiet`) and in the audit log.
    pub(crate) fn alarm(&self, lost: &[&str]) {
        let sandbox = self.serving.sandbox();
        sandbox.enforcement_lost();
        notice::alarm(format_args!(
            "sandbox {}: somebody removed the eBPF programs of {} from its cgroup; its traffic \
             may no longer be intercepted. Stop its processes, then start the enforcement again",
            sandbox.id(),
            lost.join(", ")
        ));
    }

    /// Adopts a sandbox another process set up, reusing its programs and listeners. That process
    /// keeps ownership of the programs until [`Self::take_ownership`].
    pub(crate) fn inherit(serving: Serving, attachment: Attachment, pins: Pins) -> Self {
        let ca_pem = serving.sandbox().ca_pem().to_owned();
        let token = serving.listeners().self_test_token.clone();
        serving.sandbox().watch_half_open(Box::new(attachment.half_open_gauge()));
        Enforced {
            serving,
            attachment,
            pins: Some(pins),
            is_frozen: false,
            was_closed: false,
            token,
            listeners: Vec::new(),
            has_devices: false,
            took_over: false,
            ca_pem,
        }
    }

    /// Takes ownership of the programs: this process detaches them from now on.
    pub(crate) fn take_ownership(&mut self) {
        self.attachment.take_ownership();
        if let Err(error) = self.record_refusals() {
            tracing::warn!(%error, "cannot record the kernel's refusals");
        }
    }

    /// The proxy half, being served.
    pub(crate) fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Accepts again after [`Serving::pause`].
    pub(crate) fn resume(&mut self) -> std::io::Result<()> {
        self.is_frozen = false;
        self.serving.resume()
    }

    /// The kernel half, and its pins.
    pub(crate) fn kernel(&self) -> (&Attachment, Option<&Pins>) {
        (&self.attachment, self.pins.as_ref())
    }

    /// After another process has taken over: lets open connections finish, for at most `patience`,
    /// and keeps the programs.
    pub(crate) async fn drain(self, patience: std::time::Duration, hurry: CancellationToken) {
        self.attachment.stop_reporting();
        self.serving.drain(patience, hurry).await;
        self.attachment.keep_programs();
    }

    /// Whether a dead interceptor had left this cgroup closed.
    pub(super) fn was_closed(&self) -> bool {
        self.was_closed
    }

    /// Ends the proxy but keeps the pinned programs, which then refuse everything.
    pub(crate) fn keep_programs(self) {
        self.attachment.keep_programs();
    }
}

fn enforcement(
    place: &CgroupTarget<'_>,
    sockets: &Sockets,
    policy: &Policy,
) -> Result<Enforcement, FleetError> {
    let family = || FleetError::System {
        what: "a listener has an address of the wrong family".into(),
        cause: std::io::ErrorKind::InvalidData.into(),
    };
    let address = |found: std::io::Result<SocketAddr>| {
        found.context(|| "cannot tell a listener's address".into())
    };
    let v4 = |found| match address(found)? {
        SocketAddr::V4(v4) => Ok(v4),
        SocketAddr::V6(_) => Err(family()),
    };
    let v6 = |found| match address(found)? {
        SocketAddr::V6(v6) => Ok(v6),
        SocketAddr::V4(_) => Err(family()),
    };
    let (tcp6, dns6) = match &sockets.v6 {
        Some((tcp6, dns6)) => (Some(v6(tcp6.local_addr())?), Some(v6(dns6.local_addr())?)),
        None => (None, None),
    };
    Ok(Enforcement {
        cgroup_id: place.cgroup_id,
        shared_netns: place.netns == Netns::Shared,
        tcp4: v4(sockets.tcp4.local_addr())?,
        tcp6,
        dns4: v4(sockets.dns4.local_addr())?,
        dns6,
        denied: policy.denied_networks(),
        allowed_loopback: policy.allowed_loopback(),
    })
}
