//! The options of `interceptor run`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::bounds::{self, Bound};
use crate::cli::history::History;
use crate::cli::learn::Learning;
use crate::cli::live::LiveOptions;
use crate::cli::plan::Asked;
use crate::cli::summary::Summary;
use crate::cli::which::Which;
use crate::cli::{Common, Net};

/// The arguments of `interceptor run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// The options that `attach` and `serve` have too.
    #[command(flatten)]
    pub(super) common: Common,
    /// The network of the sandbox.
    #[arg(long, value_enum, default_value_t = Net::Isolated)]
    pub(super) net: Net,
    /// The user to run the command as, by name or number, optionally with `:GROUP` [default: the
    /// user who called sudo; for root the owner of the working directory, else nobody].
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Pass in or set this variable; repeatable. By default, variables of services and those with
    /// secret-sounding names stay outside unless the policy names them.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<OsString>,
    /// Show a hidden place of the home inside (keys, logins, histories, …); repeatable.
    #[arg(long, value_name = "PATH")]
    pub(super) expose: Vec<PathBuf>,
    /// Use new placeholders, not those of earlier runs with this policy.
    #[arg(long)]
    pub(super) fresh_placeholders: bool,
    /// Also add the sandbox's CA to this bundle of roots (PEM), inside only; repeatable.
    #[arg(long, value_name = "FILE")]
    pub(super) ca_bundle: Vec<PathBuf>,
    /// Do not cover the root bundles that packages bring (certifi, botocore, Stripe, …). A covered
    /// bundle cannot be removed or upgraded inside.
    #[arg(long)]
    pub(super) no_bundle_search: bool,
    /// Allow user namespaces inside, for commands with a sandbox of their own (bubblewrap,
    /// browsers).
    #[arg(long)]
    pub(super) nesting: bool,
    /// Limit the number of processes and threads inside, or `none` [default: 4096].
    #[arg(long, value_name = "NUMBER", value_parser = bounds::processes)]
    pub(super) pids_limit: Option<Bound>,
    /// Limit the sandbox's memory: bytes, a number with k, m or g, or `none` [default: three
    /// quarters of the machine's].
    #[arg(long, value_name = "SIZE", value_parser = bounds::memory)]
    pub(super) memory: Option<Bound>,
    /// The daemon's socket, for users without root's rights [default: /run/interceptor/run.sock].
    #[arg(long, value_name = "PATH")]
    pub(super) daemon: Option<PathBuf>,
    /// Which policy applies.
    #[command(flatten)]
    pub(super) which: Which,
    /// Its name, and whether its records are kept.
    #[command(flatten)]
    pub(super) history: History,
    /// What is printed about it.
    #[command(flatten)]
    pub(super) summary: Summary,
    /// Whether to learn a policy from it.
    #[command(flatten)]
    pub(super) learning: Learning,
    /// Whether its policy follows its file.
    #[command(flatten)]
    pub(super) live: LiveOptions,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

impl Run {
    /// Whether the sandbox has a network namespace of its own.
    pub(super) fn is_isolated(&self) -> bool {
        self.net == Net::Isolated
    }

    /// The limits that were asked for: of processes, and of memory.
    pub(super) fn limits(&self) -> (Asked, Asked) {
        (Asked::of(self.pids_limit), Asked::of(self.memory))
    }
}

const EXAMPLES: &str = "\
Examples:
  interceptor run --policy p.json -- my-agent --task fix-the-tests
  interceptor \
     run --policy p.json --audit audit.jsonl -- \\
    curl https://api.example.com/v1/models
  interceptor run --agent claude-code -- claude
  interceptor run --allow api.example.com --key openai -- my-agent
  interceptor run --profile unrestricted -- bash  (any public host)
  interceptor run --nesting --policy p.json -- claude  (has a sandbox)
  interceptor run --pids-limit 512 --memory 2g --policy p.json -- make
  interceptor run --learn -- my-agent           (writes interceptor.jsonc)

Without the daemon (see interceptor install), type sudo interceptor run.

Without --nesting a command cannot create user namespaces. A program with a sandbox of its own \
     then reports that this is not permitted: turn that sandbox off (chromium --no-sandbox), or \
     give the flag.

The exit status is the command's own; 128 plus the signal's number if a signal killed it; 127 if \
     it was not found; 126 if it could not be executed; 125 if the interceptor itself failed.";
