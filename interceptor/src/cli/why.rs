//! `interceptor why`: explains the last refusal of the last run, or any record that is kept.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use interceptor_policy::{Catalogue, Decision, Deny, Edit, Policy, Reason, Recorded};
use serde_json::{Value, json};

use super::history::PastRun;
use super::policy_file::{printable, printable_json};
use super::summary::{edit_for, subject_of, with_host, wrapped};
use super::{audit_file, registries};
use crate::words;

/// The arguments of `interceptor why`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor why
  interceptor why 7x2m4k0qv5s9

Each `run` keeps its records for the user who started it, unless it is given --no-history.

Exit status: 0 explained or nothing was refused, 2 no answer (no such record, no run).")]
pub struct Why {
    /// The id of a record, as shown in the refusal [default: the last refusal of the last run].
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A record, and its run.
struct Found {
    run: PastRun,
    record: Recorded,
}

/// A run in which nothing was refused.
struct Clean {
    permitted: u64,
    records: u64,
}

/// Runs the command.
pub fn run(arguments: Why) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(None)?;
    let mut out = io::stdout().lock();
    let found = match &arguments.id {
        Some(id) => with_id(id)?,
        None => match last_refusal()? {
            Ok(found) => found,
            Err(clean) => {
                let printed = if arguments.json {
                    writeln!(out, "{}", json!({ "refused": 0, "permitted": clean.permitted }))
                } else {
                    out.write_all(clean.text().as_bytes())
                };
                return super::verdict(printed, 0);
            }
        },
    };
    let explained = Explained::of(&found, &catalogue);
    let printed = if arguments.json {
        let object = format!("{:#}", explained.as_json(&found));
        writeln!(out, "{}", printable_json(&object))
    } else {
        out.write_all(explained.text(&found).as_bytes())
    };
    super::verdict(printed, 0)
}

/// The last refusal of the last run. A refused look-up counts only if nothing else was refused:
/// most are followed by a refused request.
fn last_refusal() -> anyhow::Result<Result<Found, Clean>> {
    let mut run = PastRun::last()?;
    let mut last: Option<Recorded> = None;
    let mut clean = Clean { permitted: 0, records: 0 };
    audit_file::each_of(&mut run.records, &run.path, |record| {
        clean.records += 1;
        match record.decision.as_str() {
            "allow" if record.kind != "dns" => clean.permitted += 1,
            "deny" => {
                let outranks =
                    record.kind != "dns" || last.as_ref().is_none_or(|known| known.kind == "dns");
                if outranks {
                    last = Some(record);
                }
            }
            _ => {}
        }
        true
    })?;
    Ok(match last {
        Some(record) => Ok(Found { run, record }),
        None => Err(clean),
    })
}

/// The record with this id, from the newest run that has it.
fn with_id(id: &str) -> anyhow::Result<Found> {
    let mut runs = 0_u64;
    for run in PastRun::newest_first()? {
        let mut run = run?;
        runs += 1;
        let mut found: Option<Recorded> = None;
        audit_file::each_of(&mut run.records, &run.path, |record| {
            // A connection and its request may share an id; the request says more.
            if record.id == id && (found.is_none() || record.kind == "request") {
                found = Some(record);
            }
            true
        })?;
        if let Some(record) = found {
            return Ok(Found { run, record });
        }
    }
    match runs {
        0 => PastRun::last().map(|_| ()).and_then(|()| bail!("no run is kept")),
        runs => bail!(
            "none of the {} that are kept has a record with this id; `interceptor audit last` \
             shows the records of the last one",
            words::count(runs, "run")
        ),
    }
}

impl Clean {
    fn text(&self) -> String {
        let text = match self.records {
            0 => "The last run has no records: its sandbox asked for nothing.".to_owned(),
            _ => format!(
                "Nothing was refused in the last run, and {} permitted. `interceptor audit last` \
                 shows all of it, including what failed for another reason.",
                match self.permitted {
                    1 => "1 request was".to_owned(),
                    number => format!("{number} requests were"),
                }
            ),
        };
        wrapped(&text, 0, 0)
    }
}

/// The explanation of a record.
struct Explained {
    /// The refusal, if the policy of the run still refuses it.
    deny: Option<Deny>,
    /// The reason in words.
    because: String,
    edit: Option<Edit>,
    /// What to do where no edit helps.
    advice: Option<&'static str>,
}

impl Explained {
    fn of(found: &Found, catalogue: &Catalogue) -> Explained {
        let record = &found.record;
        let policy = found.run.compiled(catalogue).ok();
        let judged = |policy: &Policy| with_host(record).judge(policy);
        let deny = match policy.as_ref().and_then(judged) {
            Some(Decision::Deny(deny)) => Some(deny),
            _ => None,
        };
        let reason = reason_of(record);
        // The policy refuses it for another reason than the one recorded.
        let deny = deny.filter(|deny| Some(deny.reason) == reason);
        let because = match (&deny, reason) {
            (Some(deny), _) => deny.message.clone(),
            (None, Some(reason)) => meaning(reason).to_owned(),
            (None, None) if record.decision == "allow" => "the policy permits it".to_owned(),
            (None, None) => "the record does not say".to_owned(),
        };
        let is_refused = record.decision == "deny";
        let document = found.run.policy().filter(|_| is_refused).map(|(_, document)| document);
        let edit = document.and_then(|document| edit_for(document, catalogue, record));
        let advice = reason.filter(|_| edit.is_none()).and_then(advice);
        Explained { deny, because, edit, advice }
    }

    fn as_json(&self, found: &Found) -> Value {
        let record = &found.record;
        json!({
            "id": record.id, "ts": record.ts, "kind": record.kind, "decision": record.decision,
            "type": record.reason, "host": record.host, "port": record.port,
            "method": record.method, "path": record.path, "credential": record.credential,
            "rule": record.rule, "filter": record.filter,
            "message": self.because,
            "edit": self.edit.as_ref().map(ToString::to_string),
            "policy": found.run.policy().map(|(name, _)| name),
            "nearest": self.deny.as_ref().and_then(|deny| deny.nearest.as_ref()).map(|near| {
                json!({ "rule": near.rule.text, "pointer": near.rule.pointer,
                        "failed": near.failed })
            }),
        })
    }

    fn text(&self, found: &Found) -> String {
        const LABEL: usize = 12;
        let record = &found.record;
        let verdict = if record.decision == "deny" { "refused" } else { "allowed" };
        let mut out = wrapped(&printable(&format!("{verdict}  {}", subject_of(record))), 0, 2);
        let mut line = |label: &str, text: &str| {
            let text = format!("{label:LABEL$}{}", printable(text));
            out.push_str(&wrapped(&text, 2, 2 + LABEL));
        };
        line("when", &record.ts);
        line("id", &record.id);
        if let Some(reason) = &record.reason {
            let filter = record.filter.as_deref().map(|filter| format!(" (filter: {filter})"));
            line("type", &format!("{reason}{}", filter.unwrap_or_default()));
        }
        if let Some(rule) = record.rule.as_ref().and_then(Value::as_str) {
            line("rule", rule);
        }
        if let Some(credential) = &record.credential {
            line("credential", credential);
        }
        if let Some((name, _)) = found.run.policy() {
            line("policy", name);
        }
        line("because", &self.because);
        if let Some(near) = self.deny.as_ref().and_then(|deny| deny.nearest.as_ref()) {
            let text = format!(
                "{} (at {}; the {} differs)",
                near.rule.text, near.rule.pointer, near.failed
            );
            line("nearest", &text);
        }
        match (&self.edit, self.advice) {
            (Some(edit), _) => line("to permit", &edit.to_string()),
            (None, Some(advice)) => line("to do", advice),
            (None, None) => {}
        }
        out
    }
}

/// The reason of a record.
fn reason_of(record: &Recorded) -> Option<Reason> {
    let name = record.reason.as_deref()?;
    Reason::ALL.into_iter().find(|reason| reason.as_str() == name)
}

/// The meaning of a reason, if the policy does not say more.
fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::HostDenied => "the network rules did not permit the destination, or its address",
        Reason::EndpointDenied => "no endpoint rule of the credential matched the request",
        Reason::CredentialMisuse => "a placeholder was sent to a host that is not its credential's",
        Reason::CredentialAmbiguous => {
            "several credentials govern the host, and the request named none of them, or several"
        }
        Reason::PlaintextDenied => "it was plain HTTP to a host that a credential governs",
        Reason::ProtocolDenied => "the protocol is not permitted there",
        Reason::RequestMalformed => "the request broke the rules of HTTP",
        Reason::PathAmbiguous => "its path has more than one reading",
        Reason::MethodRefused => "CONNECT and TRACE are always refused",
        Reason::AuthorityMismatch => {
            "the name that was looked up, the TLS server name and the Host header differ"
        }
        Reason::LimitExceeded => "a limit of the sandbox was reached (`limits` in the policy)",
        Reason::UpstreamUnreachable => "the origin could not be resolved or connected to",
        Reason::UpstreamTls => "the origin's certificate or TLS handshake was not acceptable",
        Reason::UpstreamProtocol => "the origin broke the rules of HTTP",
        Reason::UpstreamTimeout => "the origin could not be reached in time",
        Reason::CredentialUnavailable => {
            "the credential's key had expired, and its source gave no other"
        }
        Reason::KeyEchoed => "the answer held a real key, which was replaced or cut off",
        Reason::KeysChanged => {
            "the sandbox got another key, which could not be searched for in an answer that had \
             begun"
        }
        Reason::NoRequest => "the connection ended before it carried a request",
        Reason::CertificateRejected => "the client refused the sandbox's certificate",
        Reason::Aborted => "the sandbox abandoned the request",
        Reason::HeaderTimeout => "the head of the request took too long",
        Reason::IdleTimeout => "the connection was idle for too long",
        Reason::ResponseTimeout => "the origin took too long to answer",
        Reason::TunnelIdleTimeout => "the tunnel was silent for too long",
        Reason::TotalTimeout => "the connection reached its maximum age",
        Reason::ApprovalRefused => "a person was asked, and refused",
        Reason::ApprovalTimeout => "a person was asked, and nobody answered in time",
    }
}

/// What helps if no edit of the rules does.
fn advice(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::CredentialMisuse => {
            "send the placeholder only to the credential's hosts, or add the host to its `hosts`"
        }
        Reason::CredentialAmbiguous => "send the placeholder of exactly one credential",
        Reason::KeysChanged => "send the request again",
        Reason::LimitExceeded
        | Reason::HeaderTimeout
        | Reason::IdleTimeout
        | Reason::ResponseTimeout
        | Reason::TunnelIdleTimeout
        | Reason::TotalTimeout => "raise the limit in the policy's `limits`, or ask for less",
        Reason::UpstreamTls => "if the origin has a private CA, name it with --upstream-ca",
        Reason::CertificateRejected | Reason::NoRequest => {
            "make the client trust the sandbox's CA (`docs/clients.md`), or name the host in \
             `passthrough`"
        }
        Reason::PathAmbiguous => "send the path without escapes, `..` and the like",
        Reason::AuthorityMismatch => "use one name for the host throughout",
        _ => return None,
    })
}
