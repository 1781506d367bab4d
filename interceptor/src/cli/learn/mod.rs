//! `interceptor learn`: writes the smallest policy that permits what was recorded as permitted.

mod live;
mod output;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use interceptor_policy::{Catalogue, Learnt, Observations, Problem};
use serde_json::Value;

pub(super) use self::live::Learning;
use self::output::Output;
use super::history::PastRun;
use super::person::Person;
use super::policy_file::{describe, printable};
use super::{audit_file, given, registries, trust};
use crate::notice;
use crate::words;

/// How many differences are shown.
const MOST_SHOWN: usize = 10;

/// The arguments of `interceptor learn`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor learn last
  interceptor learn last -o interceptor.jsonc
  interceptor learn audit.jsonl --policy old.json --json

Hosts come from all records, endpoint rules from the requests that a credential authenticated. \
                        Segments of paths that look like identifiers, or that vary, become `*`. \
                        `replay` of the learnt policy over the same records changes nothing.

Exit status: 0 learnt, 1 learnt except for the requests named, 2 nothing learnt.")]
pub struct Learn {
    /// The audit file, or `last` for your last `run`.
    #[arg(value_name = "AUDIT")]
    audit: PathBuf,
    /// The policy to take credentials, limits and the like from [default: with `last`, the policy
    /// of that run; otherwise the service catalogue].
    #[arg(long, value_name = "FILE|NAME")]
    policy: Option<PathBuf>,
    /// Where to write the policy [default: standard output].
    #[command(flatten)]
    output: Output,
    /// Also permit what was refused because no rule allowed it.
    #[arg(long)]
    include_refused: bool,
    /// Write JSON, without comments.
    #[arg(long)]
    json: bool,
    /// The directory of the operator's own profiles.
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: Learn) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(arguments.profiles_dir.as_deref())?;
    let mut observed = Observations::default();
    let given = arguments.policy.as_deref().map(document).transpose()?;
    let base = if arguments.audit == Path::new("last") {
        let run = PastRun::last()?;
        let kept = run.policy().map(|(_, document)| document.clone());
        observe(&mut observed, |each| audit_file::each_of(run.records, &run.path, each))?;
        given.or(kept)
    } else {
        observe(&mut observed, |each| audit_file::each(&arguments.audit, each))?;
        given
    };
    let learnt = learnt(&observed, base.as_ref(), &catalogue, arguments.include_refused)?;
    let text = if arguments.json { learnt.to_json() } else { learnt.to_jsonc() };
    match &arguments.output.file {
        Some(file) => {
            let person = Person::invoking()?;
            let place = arguments.output.place(&person, file)?;
            place.write(&person, &text)?;
            trust::record(&person, &std::path::absolute(file)?, &text)?;
            notice::info(format_args!("wrote {}", printable(&file.display().to_string())));
        }
        None => io::stdout().lock().write_all(text.as_bytes())?,
    }
    Ok(ExitCode::from(u8::from(tell_unkept(&learnt) > 0)))
}

/// The document of a policy.
fn document(path: &Path) -> anyhow::Result<Value> {
    let text = given::read_strict(path)?;
    serde_json::from_str(&text).map_err(|_| {
        anyhow::anyhow!("the policy {} is not JSON; `interceptor check` says where", path.display())
    })
}

/// Adds the records that `read` yields.
fn observe(
    observed: &mut Observations,
    read: impl FnOnce(&mut dyn FnMut(interceptor_policy::Recorded) -> bool) -> anyhow::Result<u64>,
) -> anyhow::Result<()> {
    let unreadable = read(&mut |record| {
        observed.add(&record);
        true
    })?;
    if unreadable > 0 {
        let lines = words::count(unreadable, "line");
        notice::warning(format_args!("{lines} skipped: not an audit record"));
    }
    if observed.left_out > 0 {
        notice::warning(format_args!(
            "too many different requests: {} left out, which the policy may refuse",
            words::count(observed.left_out, "record")
        ));
    }
    Ok(())
}

/// Learns from what was observed.
///
/// # Errors
/// Every reason why there is no policy, one per line.
pub(super) fn learnt(
    observed: &Observations,
    base: Option<&Value>,
    catalogue: &Catalogue,
    include_refused: bool,
) -> anyhow::Result<Learnt> {
    let list = |problems: Vec<Problem>| {
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("  {}", describe(problem))).collect();
        anyhow::anyhow!("{}", lines.join("\n"))
    };
    interceptor_policy::learn(observed, base, catalogue, include_refused)
        .map_err(list)
        .context("the learnt policy is not valid:")
}

/// Warns of requests that the policy decides differently from the records; returns their number.
pub(super) fn tell_unkept(learnt: &Learnt) -> usize {
    for (subject, permitted) in learnt.unkept.iter().take(MOST_SHOWN) {
        let was = if *permitted { "permitted" } else { "refused" };
        let now = if *permitted { "refuses" } else { "permits" };
        let what = format!("{} {}:{}{}", subject.method, subject.host, subject.port, subject.path);
        notice::warning(format_args!(
            "{} was {was}, but the policy {now} it: no rules fit all of the records (see --policy)",
            printable(what.trim())
        ));
    }
    let unkept = learnt.unkept.len();
    if unkept > MOST_SHOWN {
        notice::warning(format_args!("and {} more", unkept - MOST_SHOWN));
    }
    unkept
}
