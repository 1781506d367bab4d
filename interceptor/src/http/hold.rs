//! A request that is refused for want of a rule, and may yet pass: by a lease, or when a person
//! approves it. It waits with its body unread and without a connection to its origin, so flow
//! control holds the sender.

use std::sync::Arc;

use http::Response;
use http::request::Parts;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use interceptor_policy::Reason;
use jiff::Timestamp;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::admitted::{crowded, note, until_cut};
use super::body::Download;
use super::context::Context;
use super::exchange::Exchange;
use super::flight::{Flight, Judged, Lent};
use super::judge::{asked, judge};
use super::refuse::{Denied, refuse};
use crate::proxy::Rules;
use crate::proxy::asking::{AskError, Asked, Lease, MOST_WAITING, Seat, Verdict, Waiting};

/// Whether a refused request may yet pass.
pub(super) fn may_pass(context: &Context, denied: &Denied) -> bool {
    let has_leases = || context.sandbox.asking.has_leases();
    match denied.deny().reason {
        Reason::HostDenied | Reason::EndpointDenied => has_leases() || may_ask(context),
        // A lease may permit it; nobody is asked about it.
        Reason::PlaintextDenied => has_leases(),
        _ => false,
    }
}

/// Whether the policy asks a person, and one can answer.
fn may_ask(context: &Context) -> bool {
    context.sandbox.asking.can_answer() && context.sandbox.rules().policy.may_ask()
}

/// Why a wait ended.
enum Woken {
    /// By an answer.
    Told(Verdict),
    /// The policy or the leases have changed.
    Changed,
    /// Its question is gone.
    Anew,
    /// Its time is over.
    Late,
    /// Its time is over, and it could not even ask.
    Unheard,
    /// The client is gone.
    Gone,
    /// The connection is as old as it may be, or another process serves the sandbox now.
    Ends,
}

/// How a request waits: in which place, and on which question.
#[derive(Default)]
struct Wait {
    seat: Option<Seat>,
    question: Option<Waiting>,
}

/// A refused request that may yet pass.
pub(super) struct Held<'a> {
    pub(super) context: &'a Context,
    pub(super) parts: Parts,
    pub(super) exchange: Exchange,
}

impl<'a> Held<'a> {
    /// Serves it once it is known whether it passes.
    pub(super) async fn served(
        mut self,
        denied: Box<Denied>,
        body: Incoming,
        upgrade: Option<OnUpgrade>,
    ) -> Response<Download> {
        let context = self.context;
        denied.pending(&mut self.exchange);
        let settled = match context.sandbox.requests.try_take() {
            Some(place) => self.settle().await.map(|judged| (judged, place)),
            None => Err(denied.instead(crowded(&context.sandbox.rules())).passing(true)),
        };
        let Held { parts, mut exchange, .. } = self;
        match settled {
            Ok((judged, place)) => {
                note(&judged, &parts, &mut exchange);
                exchange.hold(place);
                let flight = Box::new(Flight { context, parts, judged, exchange });
                until_cut(flight, body, upgrade).await
            }
            Err(denied) => {
                let response = refuse(context, parts, body, denied, exchange).await;
                context.activity.beat();
                response
            }
        }
    }

    /// Judges it until it passes or is refused for good.
    async fn settle(&mut self) -> Result<Judged, Box<Denied>> {
        let sandbox = &self.context.sandbox;
        // A request that waits for a person is not idle.
        let _waits = self.exchange.activity().wait();
        let mut wait = Wait::default();
        loop {
            let mut changed = std::pin::pin!(sandbox.asking.changed().notified());
            // Before judging, so that no change is missed.
            changed.as_mut().enable();
            let rules = sandbox.rules();
            let denied = match judge(rules.clone(), &self.context.identity, &self.parts) {
                Ok(judged) => return Ok(judged),
                Err(denied) => denied,
            };
            if !may_pass(self.context, &denied) {
                return Err(denied);
            }
            if let Some(judged) = self.by_lease(&rules) {
                return Ok(judged);
            }
            // Leases are no longer laid over rules that were replaced meanwhile.
            if sandbox.generation() != rules.generation {
                continue;
            }
            self.exchange.pause();
            let woken = self.woken(&rules, &denied, &mut wait, changed).await;
            self.exchange.resume();
            match woken {
                Ok(Woken::Told(Verdict::Approved(lease))) => {
                    let judged = lease.and_then(|lease| self.by_share(&lease));
                    if let Some(judged) = judged {
                        return Ok(judged);
                    }
                    wait.question = None;
                }
                Ok(Woken::Changed) => {}
                Ok(Woken::Anew) => wait.question = None,
                Ok(Woken::Told(Verdict::Refused)) => {
                    return Err(
                        denied.because(Reason::ApprovalRefused, "a person was asked, and refused")
                    );
                }
                Ok(Woken::Late | Woken::Ends | Woken::Told(Verdict::Expired)) => {
                    return Err(late(denied));
                }
                Ok(Woken::Unheard) => return Err(unheard(denied)),
                Ok(Woken::Gone) | Err(AskError::Nothing) => return Err(denied),
                Err(AskError::Full) => return Err(full(denied)),
            }
        }
    }

    /// Asks a person, if the policy says so.
    async fn ask(
        &self,
        rules: &Arc<Rules>,
        denied: &Denied,
        seat: &mut Option<Seat>,
    ) -> Result<Waiting, AskError> {
        let deny = denied.deny();
        let subject = asked(rules, &self.context.identity, &self.parts, deny);
        let question = Asked {
            subject: subject.ok_or(AskError::Nothing)?,
            reason: deny.reason.as_str(),
            message: deny.message.clone(),
            timeout: rules.policy.ask_timeout(),
        };
        self.context.sandbox.ask(rules, question, seat).await
    }

    /// Waits on its question for whatever ends the wait. Asks it first where there is none, which
    /// takes its time where many ask.
    async fn woken(
        &self,
        rules: &Arc<Rules>,
        denied: &Denied,
        wait: &mut Wait,
        changed: impl Future<Output = ()>,
    ) -> Result<Woken, AskError> {
        let mut ended = std::pin::pin!(self.ended(changed));
        let waits = match wait.question.take().filter(|one| one.generation == rules.generation) {
            Some(waits) => waits,
            None => {
                let timeout = rules.policy.ask_timeout();
                let since = |seat: &Seat| seat.deadline(timeout);
                let deadline = wait.seat.as_ref().map_or_else(|| Instant::now() + timeout, since);
                tokio::select! {
                    biased;
                    asked = self.ask(rules, denied, &mut wait.seat) => asked?,
                    woken = &mut ended => return Ok(woken),
                    () = tokio::time::sleep_until(deadline) => return Ok(Woken::Unheard),
                }
            }
        };
        let waits = wait.question.insert(waits);
        let deadline = waits.deadline;
        Ok(tokio::select! {
            biased;
            told = &mut waits.verdict => told.map_or(Woken::Anew, Woken::Told),
            woken = &mut ended => woken,
            () = tokio::time::sleep_until(deadline) => {
                waits.expire();
                Woken::Late
            }
        })
    }

    /// Waits for whatever ends a wait besides its answer and its time.
    async fn ended(&self, changed: impl Future<Output = ()>) -> Woken {
        let context = self.context;
        let drain = context.sandbox.draining();
        tokio::select! {
            biased;
            () = changed => Woken::Changed,
            () = gone(context) => Woken::Gone,
            () = context.activity.aged() => Woken::Ends,
            () = drain.cancelled() => Woken::Ends,
        }
    }

    /// Judges it by the leases.
    fn by_lease(&self, base: &Arc<Rules>) -> Option<Judged> {
        let judge =
            |rules: &Arc<Rules>| judge(rules.clone(), &self.context.identity, &self.parts).ok();
        let (lease, judged) =
            self.context.sandbox.asking.permitting(base, Timestamp::now(), judge)?;
        Some(lent(judged, &lease, base))
    }

    /// Judges it by a lease of which one use is this request's.
    fn by_share(&self, lease: &Arc<Lease>) -> Option<Judged> {
        let base = self.context.sandbox.rules();
        let rules = lease.granted(&base, Timestamp::now())?;
        let judged = judge(rules, &self.context.identity, &self.parts).ok()?;
        Some(lent(judged, lease, &base))
    }
}

fn lent(judged: Judged, lease: &Lease, base: &Rules) -> Judged {
    Judged { lease: Some(Lent { id: lease.id.clone(), base: base.policy.clone() }), ..judged }
}

fn full(denied: Box<Denied>) -> Box<Denied> {
    let more = format!(
        "the policy would ask a person (`ask`), but {MOST_WAITING} requests of this sandbox \
         already wait for an answer, which is the limit"
    );
    denied.because(Reason::LimitExceeded, &more).passing(true)
}

fn late(denied: Box<Denied>) -> Box<Denied> {
    denied.because(
        Reason::ApprovalTimeout,
        "a person was asked, and nobody answered in time (`interceptor ctl approvals` lists what \
         waits)",
    )
}

fn unheard(denied: Box<Denied>) -> Box<Denied> {
    denied.because(
        Reason::ApprovalTimeout,
        "the policy would ask a person (`ask`), but this sandbox asks so much that it was not this \
         request's turn in time",
    )
}

/// Returns once the client has closed its side of an HTTP/1.1 connection. HTTP/2 connections are
/// read while a request waits, so their end is seen anyway.
async fn gone(context: &Context) {
    let peer = context.peer.as_ref().filter(|_| context.notes.is_some());
    let stream = peer.and_then(|peer| peer.try_clone().ok()).map(std::net::TcpStream::from);
    // Its file description is the connection's own, which does not block.
    let watched = stream.and_then(|stream| TcpStream::from_std(stream).ok());
    if let Some(watched) = watched {
        while let Ok(ready) = watched.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // What has arrived stays unread: forget that it could be read, and wait for more.
            let unread = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
            let _ = watched.try_io(Interest::READABLE, unread);
        }
    }
    std::future::pending().await
}
