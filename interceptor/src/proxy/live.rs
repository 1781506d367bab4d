//! A sandbox's open connections, so that a new policy can close those it forbids (attack R9).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interceptor_policy::Policy;
use slab::Slab;
use tokio_util::sync::CancellationToken;

/// What is open: what closes it, and what says whether a policy permits what it is used for.
struct Open<F: ?Sized> {
    close: CancellationToken,
    permitted: F,
}

type AnyOpen = Open<dyn Fn(&Policy) -> bool + Send + Sync>;

/// The open connections of one sandbox.
#[derive(Default)]
pub(crate) struct Live(Mutex<OpenConnections>);

#[derive(Default)]
struct OpenConnections {
    open: Slab<Arc<AnyOpen>>,
    /// The current policy, if it closed forbidden connections: a connection judged by an older one
    /// and entered only now is then closed too.
    strict: Option<Arc<Policy>>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("open", &self.table().open.len()).finish_non_exhaustive()
    }
}

/// Registration of an open connection; dropping it unregisters.
pub(crate) struct Alive {
    live: Arc<Live>,
    place: usize,
    open: Arc<AnyOpen>,
}

/// What closes a connection, if a new policy does not permit it. To clone it takes no lock.
#[derive(Clone)]
pub(crate) struct Revocation(Arc<AnyOpen>);

impl Revocation {
    /// What is cancelled then.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.0.close
    }
}

impl Alive {
    /// What closes it.
    pub(crate) fn cut(&self) -> Revocation {
        Revocation(self.open.clone())
    }

    /// What is cancelled when it is to be closed.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.open.close
    }
}

impl fmt::Debug for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alive").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Live {
    /// Registers a connection judged by the policy `judged`. `close` closes it, and `permitted`
    /// tells whether a policy permits it. A connection that `judged` refused stays open here, so
    /// that the refusal can be explained.
    pub(crate) fn enter(
        self: &Arc<Self>,
        judged: &Arc<Policy>,
        close: CancellationToken,
        permitted: impl Fn(&Policy) -> bool + Send + Sync + 'static,
    ) -> Alive {
        let open: Arc<AnyOpen> = Arc::new(Open { close, permitted });
        let mut table = self.table();
        let strict = table.strict.as_ref();
        if strict.is_some_and(|policy| !Arc::ptr_eq(policy, judged) && !(open.permitted)(policy)) {
            open.close.cancel();
        }
        let place = table.open.insert(open.clone());
        Alive { live: self.clone(), place, open }
    }

    /// Notes that the rules changed and that open connections continue under their old ones.
    pub(crate) fn relax(&self) {
        self.table().strict = None;
    }

    /// Closes connections that the new `policy` forbids; returns their number.
    pub(crate) fn close_forbidden(&self, policy: &Arc<Policy>) -> usize {
        let mut table = self.table();
        table.strict = Some(policy.clone());
        let forbidden = table.open.iter().filter(|(_, open)| !(open.permitted)(policy));
        forbidden.map(|(_, open)| open.close.cancel()).count()
    }

    /// Every step leaves the table consistent.
    fn table(&self) -> MutexGuard<'_, OpenConnections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Entered when it was made, and taken out by nobody else.
        let _ = self.live.table().open.try_remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interceptor_policy::{Catalogue, Decision, Document, Host};

    fn policy(text: &str) -> Arc<Policy> {
        let document = Document::parse(text).unwrap().document;
        Arc::new(Policy::compile(&document, &Catalogue::builtin()).unwrap())
    }

    fn to(host: &str) -> impl Fn(&Policy) -> bool + Send + Sync + 'static {
        let host = Host::parse(host).unwrap();
        move |policy| matches!(policy.decide_host(&host, 443), Decision::Allow(_))
    }

    #[test]
    fn r9_only_what_the_new_policy_forbids_is_closed_also_when_it_is_entered_late() {
        let live = Arc::new(Live::default());
        let tokens = [(); 4].map(|()| CancellationToken::new());
        let [kept, closed, gone, late] = &tokens;
        let before = policy("{}");
        let _kept = live.enter(&before, kept.clone(), to("kept.example"));
        let _closed = live.enter(&before, closed.clone(), to("closed.example"));
        drop(live.enter(&before, gone.clone(), to("closed.example")));
        let only = policy(r#"{"network":{"allow":["kept.example"]}}"#);
        assert_eq!(live.close_forbidden(&only), 1);
        let _late = live.enter(&before, late.clone(), to("closed.example"));
        assert_eq!(
            tokens.each_ref().map(CancellationToken::is_cancelled),
            [false, true, false, true]
        );
        let refused = CancellationToken::new();
        let _refused = live.enter(&only, refused.clone(), to("closed.example"));
        assert!(!refused.is_cancelled(), "its refusal must still be explained");
        live.relax();
        let after = CancellationToken::new();
        let _after = live.enter(&before, after.clone(), to("closed.example"));
        assert!(!after.is_cancelled());
    }
}
