//! One cgroup under enforcement: the kernel's programs send everything to the proxy, and the proxy serves it.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use interceptor_policy::Policy;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::Context;
use super::{FleetError, Netns, Pins, Visit};
use crate::accept;
use crate::audit::Record;
use crate::credential::Keyring;
use crate::kernel::{Attachment, Enforcement, Enforcer};
use crate::notice;
use crate::proxy::{Runtime, Sandbox, Serving};
use crate::sandbox::launch::{self, Sockets};
use crate::seam::{Listeners, SELF_TEST};

/// A sandbox's cgroup, and how its network namespace stands to others.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The cgroup's directory.
    pub(crate) cgroup: &'a Path,
    /// Its id in the kernel.
    pub(crate) cgroup_id: u64,
    /// Whose the network namespace is.
    pub(crate) netns: Netns,
}

/// A sandbox under enforcement.
#[derive(Debug)]
pub(crate) struct Enforced {
    /// First, so that the wall falls last: a proxy that is gone is a refusal.
    serving: Serving,
    attachment: Attachment,
    /// After the attachment, which removes what it has pinned there.
    pins: Option<Pins>,
    /// Another process is taking it over: it must stay as it was when it was described to that one.
    pub(crate) is_frozen: bool,
    /// It stands on a cgroup that was closed before.
    was_closed: bool,
    /// What the proxy answers at [`SELF_TEST`].
    pub(crate) token: String,
    /// The addresses of its own sockets in the sandbox's network namespace.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Whether that namespace has a device but `lo`, by which packets could leave.
    pub(crate) has_devices: bool,
    /// Whether an interceptor that had died left the cgroup closed.
    pub(crate) took_over: bool,
    /// The public certificate of the sandbox's authority, PEM.
    pub(crate) ca_pem: String,
}

impl Enforced {
    /// Puts a cgroup of somebody else's making under enforcement, with pinned programs, and proves from inside that it holds. Takes
    /// over from an interceptor that has died there. Call it within a tokio runtime, from a thread that may be blocked.
    ///
    /// # Errors
    /// Whatever is missing or refused. Nothing stays then, but for the closed wall of a dead interceptor that was to be taken over.
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
        let (mut visitor, sockets) =
            launch::Visitor::start(&visit.cgroup, visit.network.as_ref().map(|namespace| namespace.as_fd()))?;
        let place = Place { cgroup: &visit.cgroup, cgroup_id: visit.cgroup_id, netns: visit.netns };
        let sandbox = Sandbox::new(runtime, id, rules.0, rules.1)?;
        let mut enforced = Enforced::begin(runtime, enforcer, sandbox, &place, sockets, Some(pins))?;
        enforced.was_closed = takes_over;
        if let Err(failed) = visitor.self_test(SELF_TEST, &enforced.token) {
            if takes_over {
                // The cgroup was closed before: it stays closed.
                enforced.leave();
            }
            return Err(failed.into());
        }
        enforced.record_refusals()?;
        if takes_over {
            runtime.audit.emit(Record::lifecycle(&id.into(), "sandbox_adopted"));
        }
        // Dropped here: the visitor is a process of the cgroup only as long as it must be.
        Ok(enforced)
    }

    /// Attaches the programs first, pinned if there is a place for it, and serves then. `sandbox` is the proxy's half, which
    /// serves nothing yet. Call it within a tokio runtime.
    ///
    /// # Errors
    /// What the kernel refuses, or what the proxy's half could not be made for.
    pub(crate) fn begin(
        runtime: &Arc<Runtime>,
        enforcer: &Enforcer,
        sandbox: Arc<Sandbox>,
        place: &Place<'_>,
        sockets: Sockets,
        pins: Option<Pins>,
    ) -> Result<Self, FleetError> {
        let enforcement = enforcement(place, &sockets, &sandbox.rules().policy)?;
        let cgroup = File::open(place.cgroup)
            .context(|| format!("cannot open the cgroup {}", place.cgroup.display()))?;
        let attachment = match &pins {
            None => enforcer.attach(&cgroup, &enforcement)?,
            Some(pins) => {
                enforcer.attach_pinned(&cgroup, &enforcement, &pins.fresh(sandbox.id()), &pins.stale)?
            }
        };
        let (own, has_devices) = (sockets.addresses(), !sockets.closed);
        let took_over = pins.as_ref().is_some_and(|pins| !pins.stale.is_empty());
        let (tcp6, dns6) = sockets.v6.unzip();
        let token = launch::random_id()?;
        let ca_pem = sandbox.ca_pem().to_owned();
        let listeners =
            Listeners { tcp4: sockets.tcp4, tcp6, dns4: sockets.dns4, dns6, self_test_token: token.clone() };
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

    /// The proxy's half.
    pub(crate) fn sandbox(&self) -> &Arc<Sandbox> {
        self.serving.sandbox()
    }

    /// Replaces policy and keys: in the kernel first, so that when that fails nothing has changed; in the proxy then, at once. With
    /// `close`, connections that the new rules would not permit are closed; otherwise they end under those they began with.
    ///
    /// # Errors
    /// When the kernel refuses the new networks; the old rules hold then.
    pub(crate) fn replace(
        &mut self,
        policy: Policy,
        keyring: Keyring,
        close: bool,
    ) -> Result<(), FleetError> {
        self.attachment.set_networks(&policy.denied_networks(), &policy.allowed_loopback())?;
        let sandbox = self.serving.sandbox();
        sandbox.replace(policy, keyring);
        if close {
            sandbox.close_forbidden();
        }
        Ok(())
    }

    /// Ends the proxy's part in good order, keys and all, then takes the programs away. The sandbox's processes must be gone, or
    /// their traffic no longer this process's business. Call it from a thread that may be blocked.
    pub(crate) fn end(self, tokio: &Handle) {
        self.attachment.flush_refusals();
        tokio.block_on(self.serving.shutdown());
    }

    /// Records what the kernel's programs refuse from now on. To be called when the self-test has passed, before a command starts.
    ///
    /// # Errors
    /// When the kernel's reports cannot be read.
    pub(crate) fn record_refusals(&mut self) -> Result<(), FleetError> {
        Ok(self.attachment.report_to(self.serving.sandbox().refusals())?)
    }

    /// The hooks whose programs somebody else has taken off the cgroup.
    pub(crate) fn lost(&self) -> Vec<&'static str> {
        self.attachment.lost()
    }

    /// Says on standard error and in the audit that the wall has a hole, however quiet the rest shall be.
    pub(crate) fn alarm(&self, lost: &[&str]) {
        let sandbox = self.serving.sandbox();
        sandbox.enforcement_lost();
        notice::alarm(format_args!(
            "sandbox {}: somebody removed the eBPF programs of {} from its cgroup; its traffic may \
             no longer be intercepted. Stop its processes, then start the enforcement again",
            sandbox.id(),
            lost.join(", ")
        ));
    }

    /// One that another process has begun, with its programs and at its listeners. The programs stay that one's until
    /// [`Self::own`].
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

    /// The programs are this process's from now on, and so is their removal.
    pub(crate) fn own(&mut self) {
        self.attachment.own();
        if let Err(error) = self.record_refusals() {
            tracing::warn!(%error, "cannot record the kernel's refusals");
        }
    }

    /// The proxy's part, being served.
    pub(crate) fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Accepts again, after [`Serving::pause`].
    pub(crate) fn resume(&mut self) -> std::io::Result<()> {
        self.is_frozen = false;
        self.serving.resume()
    }

    /// The kernel's part, and where it is pinned.
    pub(crate) fn kernel(&self) -> (&Attachment, Option<&Pins>) {
        (&self.attachment, self.pins.as_ref())
    }

    /// When another process has taken over: lets what is under way end, at most for `patience`, and leaves the programs.
    pub(crate) async fn drain(self, patience: std::time::Duration, hurry: CancellationToken) {
        self.attachment.hush();
        self.serving.drain(patience, hurry).await;
        self.attachment.leave();
    }

    /// Whether it took the place of what a dead interceptor had left closed.
    pub(super) fn was_closed(&self) -> bool {
        self.was_closed
    }

    /// Leaves the pinned programs where they are, which then refuse everything.
    pub(crate) fn leave(self) {
        self.attachment.leave();
    }
}

fn enforcement(place: &Place<'_>, sockets: &Sockets, policy: &Policy) -> Result<Enforcement, FleetError> {
    let family = || FleetError::System {
        what: "a listener has an address of the wrong family".into(),
        cause: std::io::ErrorKind::InvalidData.into(),
    };
    let address =
        |found: std::io::Result<SocketAddr>| found.context(|| "cannot tell a listener's address".into());
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
