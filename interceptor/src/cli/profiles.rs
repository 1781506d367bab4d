//! `interceptor profiles`: lists the network profiles, or shows one.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use interceptor_policy::{Catalogue, Profile, did_you_mean};
use serde_json::Value;

use super::registries;
use crate::control::catalogue::profile_json;

/// The arguments of `interceptor profiles`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor profiles
  interceptor profiles data-science

The group `registries` has the hosts of this machine's pip, npm and cargo configuration. To add \
                        to it, or to add profiles, put a file like this into profiles.d:

  { \"registries\": { \"description\": \"ours\",
                    \"allow\": [\"packages.example.com\"] } }")]
pub struct Profiles {
    /// The profile to show.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    /// The directory of the operator's own profiles [default: /etc/interceptor/profiles.d].
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: Profiles) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(arguments.profiles_dir.as_deref())?;
    let shown: Vec<(&str, &Profile)> = match &arguments.name {
        None => catalogue.profiles().collect(),
        Some(name) => match catalogue.profile(name) {
            Some(profile) => vec![(name, profile)],
            None => {
                let names: Vec<&str> = catalogue.profiles().map(|(name, _)| name).collect();
                let hint = did_you_mean(name, names.iter().copied());
                bail!("unknown profile {name:?}{hint} (the profiles are: {})", names.join(", "))
            }
        },
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        let list: Vec<Value> =
            shown.iter().map(|(name, profile)| profile_json(&catalogue, name, profile)).collect();
        writeln!(out, "{:#}", Value::from(list))?;
    } else if arguments.name.is_some() {
        for (name, profile) in shown {
            show(&mut out, &catalogue, name, profile)?;
        }
    } else {
        let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, profile) in shown {
            writeln!(out, "{name:width$}  {}", profile.description)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(
    out: &mut impl Write,
    catalogue: &Catalogue,
    name: &str,
    profile: &Profile,
) -> io::Result<()> {
    writeln!(out, "{name}: {}", profile.description)?;
    for rule in profile.allow.iter().flatten() {
        writeln!(out, "  allow  {rule}")?;
    }
    for group in &profile.groups {
        let rules = catalogue.group(group);
        for rule in &rules {
            writeln!(out, "  allow  {rule}  (group {group})")?;
        }
        if rules.is_empty() {
            writeln!(out, "  (group {group}: none configured on this machine)")?;
        }
    }
    for rule in &profile.deny {
        writeln!(out, "  deny   {rule}")?;
    }
    if !catalogue.allow_rules(profile).1 && profile.deny.is_empty() {
        writeln!(out, "  every public host")?;
    }
    Ok(())
}
