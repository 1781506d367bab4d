//! What a member's `run` asks the daemon for.

use std::os::fd::BorrowedFd;

use anyhow::bail;
use interceptor_policy::Limits;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::{Connection, certificates};
use super::wire::{Log, OwnPolicy, Request, VERSION, Wanted};
use crate::audit::Audit;
use crate::cli::plan::Plan;
use crate::cli::setup::LoadedPolicy;
use crate::cli::told::Before;
use crate::cli::{Common, registries, setup, shown_policy};
use crate::credential::SECRET;
use crate::ipc::{Secret, SentPath};
use crate::logging::Format;
use crate::sandbox::launch;
use crate::sandbox::resources::Bounded;
use crate::sandbox::signals::Signals;

/// By which policy a run is judged.
pub(in crate::cli) enum Judged {
    /// One that this process has read.
    By(Box<LoadedPolicy>),
    /// The operator's of this name, which this user cannot read.
    ByOperators {
        name: String,
        /// What stable placeholders are derived from.
        secret: Option<Zeroizing<[u8; SECRET]>>,
    },
}

impl Judged {
    /// Its limits, where they are known.
    pub(in crate::cli) fn limits(&self) -> Limits {
        match self {
            Judged::By(rules) => *rules.policy.limits(),
            Judged::ByOperators { .. } => Limits::default(),
        }
    }

    /// What the history keeps of it.
    pub(in crate::cli) fn kept(&self) -> Value {
        match self {
            Judged::By(rules) => rules.kept.clone(),
            Judged::ByOperators { name, .. } => json!({ "name": name, "document": null }),
        }
    }

    fn wanted(self) -> Wanted {
        match self {
            Judged::ByOperators { name, secret } => {
                let digits = |secret: Zeroizing<[u8; SECRET]>| {
                    let text = secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                    Secret::new(&Zeroizing::new(text))
                };
                Wanted::Named { name, secret: secret.map(digits) }
            }
            Judged::By(rules) => {
                let file = rules.file.clone().map(SentPath);
                let shown = file.zip(shown_policy::masked(&rules));
                let is_shown =
                    |path: &SentPath| shown.as_ref().is_some_and(|(file, _)| file == path);
                let secret = rules.secret_files.iter().cloned().map(SentPath);
                let hidden = secret.filter(|path| !is_shown(path)).collect();
                Wanted::Own(Box::new(OwnPolicy {
                    name: rules.kept["name"].as_str().unwrap_or_default().to_owned(),
                    text: Secret::new(&rules.document),
                    registries: registries::hosts(),
                    keys: rules.keyring.hand_over(),
                    key_variables: rules.key_variables.clone(),
                    hidden,
                    shown,
                }))
            }
        }
    }
}

/// A run that a member asks for.
pub(in crate::cli) struct Asking<'a> {
    pub(in crate::cli) plan: Plan,
    pub(in crate::cli) judged: Judged,
    pub(in crate::cli) common: &'a Common,
    /// Files that the sandbox must not read, besides the policy's.
    pub(in crate::cli) hidden: Vec<SentPath>,
    pub(in crate::cli) standard: [BorrowedFd<'a>; 3],
    pub(in crate::cli) signals: &'a Signals,
    pub(in crate::cli) audit: &'a Audit,
}

impl Asking<'_> {
    /// Has the daemon run the command to its end. Returns its exit status, and the limits that it
    /// reached. `before` is called before it starts, with the variables that stay outside.
    ///
    /// # Errors
    /// If it was not started, or the sandbox was ended.
    pub(in crate::cli) fn run(
        self,
        daemon: Connection,
        before: impl FnOnce(&Before<'_>),
    ) -> anyhow::Result<(i32, Vec<Bounded>)> {
        let Asking { plan, judged, common, hidden, standard, signals, audit } = self;
        if let (Judged::ByOperators { name, .. }, Some(_)) = (&judged, &common.upstream_proxy) {
            bail!("--upstream-proxy cannot be used with the operator's policy {name}");
        }
        let upstream_ca = certificates(&common.upstream_ca)?;
        // It holds keys; only now, since /proc/self, as in `/dev/fd/3`, is root's from here on.
        launch::forbid_inspection()?;
        let filter = std::env::var("RUST_LOG");
        let log = Log {
            filter: filter.unwrap_or_else(|_| setup::level(common).to_owned()),
            json: common.log_format == Some(Format::Json),
        };
        let request = |foreground| Request {
            version: VERSION.to_owned(),
            plan,
            policy: judged.wanted(),
            hidden,
            resolve: common.resolve.clone(),
            upstream_ca,
            log,
            foreground,
        };
        daemon.run(request, standard, signals, audit, before)
    }
}
