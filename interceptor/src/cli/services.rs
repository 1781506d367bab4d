//! `interceptor services`: lists the service catalogue, or shows one service.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use interceptor_policy::{Catalogue, Service, did_you_mean};
use serde_json::Value;

use crate::control::catalogue::{form_text, placeholder, service_json};

/// The arguments of `interceptor services`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor services
  interceptor services github --json")]
pub struct Services {
    /// The service to show.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Services) -> anyhow::Result<ExitCode> {
    let catalogue = Catalogue::builtin();
    let shown: Vec<&Service> = match &arguments.name {
        None => catalogue.services().collect(),
        Some(name) => match catalogue.service(name) {
            Some(service) => vec![service],
            None => {
                let names: Vec<&str> =
                    catalogue.services().map(|service| service.name.as_str()).collect();
                let hint = did_you_mean(name, names.iter().copied());
                bail!("unknown service {name:?}{hint} (the catalogue has: {})", names.join(", "))
            }
        },
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(
            out,
            "{:#}",
            Value::from(shown.into_iter().map(service_json).collect::<Vec<_>>())
        )?;
    } else if arguments.name.is_some() {
        for service in shown {
            show(&mut out, service)?;
        }
    } else {
        let width = shown.iter().map(|service| service.name.len()).max().unwrap_or(0);
        for service in shown {
            writeln!(
                out,
                "{:width$}  {}  ({})",
                service.name,
                service.host_texts.join(", "),
                service.env.join(", ")
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(out: &mut impl Write, service: &Service) -> io::Result<()> {
    writeln!(out, "{}: {}", service.name, service.title)?;
    for host in &service.host_texts {
        writeln!(out, "  host         {host}")?;
    }
    for form in &service.forms {
        writeln!(out, "  form         {}", form_text(form))?;
    }
    for variable in &service.env {
        writeln!(out, "  variable     {variable}")?;
    }
    for (variable, path) in &service.base_url_env {
        writeln!(
            out,
            "  base URL     {variable}=http://169.254.169.254/proxy/{}{path}",
            service.name
        )?;
    }
    writeln!(out, "  placeholder  {}", placeholder(service))?;
    for name in &service.keeps.headers {
        writeln!(out, "  keeps        header {name}")?;
    }
    for name in &service.keeps.query {
        writeln!(out, "  keeps        ?{name}=")?;
    }
    for request in &service.mints {
        writeln!(out, "  mints keys   {request}")?;
    }
    for (field, source) in &service.sources {
        writeln!(out, "  source       {field}: {source}")?;
    }
    Ok(())
}
