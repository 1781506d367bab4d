//! Options, exit statuses and colours that several commands share.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use interceptor_policy::{Proxy, ProxyUrlError};

use crate::logging::Format;

/// The options that `run`, `attach` and `serve` share.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The policy: a file, `-` for standard input, or the name of one in
    /// ~/.config/interceptor/policies or /etc/interceptor/policies.
    #[arg(long, value_name = "FILE|NAME")]
    pub policy: Option<PathBuf>,
    /// Write audit records to this file, one JSON object per line; `-` is standard error.
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Make the audit log a hash chain, keyed with this file (32 bytes or more), for `interceptor
    /// audit verify`.
    #[arg(long, value_name = "KEYFILE", requires = "audit")]
    pub audit_chain: Option<PathBuf>,
    /// Certificates (PEM) to trust for upstream connections, in addition to the system's roots;
    /// repeatable.
    #[arg(long, value_name = "FILE")]
    pub upstream_ca: Vec<PathBuf>,
    /// Dial this address instead of resolving the name: `NAME[:PORT]:ADDR[:PORT]`; NAME may be
    /// `*.example.com`; repeatable.
    #[arg(long, value_name = "NAME[:PORT]:ADDR[:PORT]")]
    pub resolve: Vec<String>,
    /// Reach origins by this proxy, `http://HOST:PORT` or `https://HOST:PORT`, or by those of
    /// HTTPS_PROXY and HTTP_PROXY (`environment`), in place of the policy's `upstream.proxy`.
    #[arg(long, value_name = "URL")]
    pub upstream_proxy: Option<ProxyOption>,
    /// The format of the log on standard error [default: text]; `RUST_LOG` selects what it
    /// contains.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<Format>,
    /// For clients that cannot trust the sandbox's CA: set services' base URL variables
    /// (OPENAI_BASE_URL, ANTHROPIC_BASE_URL, …) to http://169.254.169.254/proxy/SERVICE/….
    #[arg(long)]
    pub base_urls: bool,
    /// Print machine-readable output.
    #[arg(long)]
    pub json: bool,
    /// Log more to standard error; repeatable.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log only errors.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// The proxy of `--upstream-proxy`. An invalid one is refused later, and not by the parser of
/// options, which would repeat it: it may hold a password.
#[derive(Clone, Debug)]
pub struct ProxyOption(Result<Proxy, ProxyUrlError>);

impl FromStr for ProxyOption {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<ProxyOption, Infallible> {
        Ok(ProxyOption(Proxy::parse(text)))
    }
}

impl Common {
    /// The proxy that takes the place of the policies' own.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn proxy(&self) -> anyhow::Result<Option<Proxy>> {
        let proxy = self.upstream_proxy.clone().map(|option| option.0);
        proxy.transpose().context("--upstream-proxy")
    }
}

/// The sandbox's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// Its own network namespace, with only `lo`.
    Isolated,
    /// The host's network.
    Host,
}

/// Whether to colour what is written to a stream: at a terminal, unless NO_COLOR is set and not
/// empty (no-color.org).
pub(super) fn colours(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether a write failed because the reader is gone, as with `| head`; not an error.
pub(super) fn reader_is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// The exit status of a command that reports a verdict. It holds even if nobody reads the output,
/// so that a refusal never looks like success.
pub(super) fn verdict(printed: io::Result<()>, status: u8) -> anyhow::Result<ExitCode> {
    match printed {
        Err(error) if !reader_is_gone(&error) => Err(error.into()),
        _ => Ok(ExitCode::from(status)),
    }
}
