//! A sandbox's open connections, so that a new policy can close those it forbids (attack R9).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interceptor_policy::Policy;
use tokio_util::sync::CancellationToken;

/// Whether a policy permits what the connection is used for.
type Permitted = Box<dyn Fn(&Policy) -> bool + Send + Sync>;

/// The open connections of one sandbox.
#[derive(Default)]
pub(crate) struct Live(Mutex<OpenConnections>);

#[derive(Default)]
struct OpenConnections {
    next: u64,
    open: HashMap<u64, (CancellationToken, Permitted)>,
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
#[derive(Debug)]
pub(crate) struct Alive {
    live: Arc<Live>,
    number: u64,
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
        let mut table = self.table();
        let strict = table.strict.as_ref();
        if strict.is_some_and(|policy| !Arc::ptr_eq(policy, judged) && !permitted(policy)) {
            close.cancel();
        }
        table.next += 1;
        let number = table.next;
        table.open.insert(number, (close, Box::new(permitted)));
        Alive { live: self.clone(), number }
    }

    /// Notes that the rules changed and that open connections continue under their old ones.
    pub(crate) fn relax(&self) {
        self.table().strict = None;
    }

    /// Closes connections that the new `policy` forbids; returns their number.
    pub(crate) fn close_forbidden(&self, policy: &Arc<Policy>) -> usize {
        let mut table = self.table();
        table.strict = Some(policy.clone());
        let forbidden = table.open.values().filter(|(_, permitted)| !permitted(policy));
        forbidden.map(|(close, _)| close.cancel()).count()
    }

    /// Every step leaves the table consistent.
    fn table(&self) -> MutexGuard<'_, OpenConnections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.live.table().open.remove(&self.number);
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
        assert_eq!(tokens.each_ref().map(CancellationToken::is_cancelled), [false, true, false, true]);
        let refused = CancellationToken::new();
        let _refused = live.enter(&only, refused.clone(), to("closed.example"));
        assert!(!refused.is_cancelled(), "its refusal must still be explained");
        live.relax();
        let after = CancellationToken::new();
        let _after = live.enter(&before, after.clone(), to("closed.example"));
        assert!(!after.is_cancelled());
    }
}
