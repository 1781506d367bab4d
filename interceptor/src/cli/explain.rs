//! `interceptor explain`: shows what a policy decides for one request, by which filter and rule,
//! and the request as it would be forwarded. It resolves no name and reads no key.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use interceptor_policy::{
    Authority, AwsScope, BaseUrl, CredentialId, Decision, Filter, Form, Host, Policy, Reason,
    Recorded, Request, Scheme, is_method_override, query_overrides, resembles_framing,
};
use serde_json::{Value, json};

use super::history::PastRun;
use super::person::Person;
use super::policy_file::printable;
use super::road::Road;
use super::{audit_file, given, registries};

/// The arguments of `interceptor explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor explain --policy policy.json GET https://api.openai.com/v1/models
  interceptor explain --policy policy.json --json POST 'https://a.test/b%2Fc'
  interceptor explain --policy policy.json \\
    POST http://169.254.169.254/proxy/openai/v1/responses
  interceptor explain --policy policy.json --audit audit.jsonl --id 7x2m4k0qv5s9
  interceptor explain --last 7x2m4k0qv5s9              (of your last `run`)

Exit status: 0 allowed, 1 denied, 2 no answer (invalid arguments or files).")]
pub struct Explain {
    /// The policy: a file, a name as for `run`, or `-` for standard input [with --last: the policy
    /// of that run].
    #[arg(long, value_name = "FILE|NAME", required_unless_present = "last")]
    policy: Option<PathBuf>,
    /// The method, as the client sends it.
    #[arg(value_name = "METHOD", required_unless_present_any = ["id", "last"])]
    method: Option<String>,
    /// The URL (http, https, ws or wss); its path is taken as written.
    #[arg(value_name = "URL", required_unless_present_any = ["id", "last"])]
    url: Option<String>,
    /// A credential whose placeholder the request carries; repeatable.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["id", "last"])]
    present: Vec<String>,
    /// The service and the region that the request is signed for (AWS), such as `s3/eu-central-1`.
    #[arg(long, value_name = "SERVICE/REGION", conflicts_with_all = ["id", "last"])]
    aws: Option<String>,
    /// A header of the request, `NAME: VALUE`. Repeatable.
    #[arg(short = 'H', long, value_name = "HEADER", conflicts_with_all = ["id", "last"])]
    header: Vec<String>,
    /// The audit file that has the request.
    #[arg(long, value_name = "FILE", requires = "id")]
    audit: Option<PathBuf>,
    /// The id of the record to explain.
    #[arg(long, value_name = "ID", requires = "audit", conflicts_with_all = ["method", "url"])]
    id: Option<String>,
    /// Explain the record with this id in your last `run`.
    #[arg(long, value_name = "ID", conflicts_with_all = ["method", "url", "id", "audit"])]
    last: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The directory of the operator's own profiles.
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
}

/// A request and the decision on it.
struct Explanation {
    scheme: Scheme,
    method: String,
    host: Option<Host>,
    port: u16,
    /// The path as written.
    path: String,
    query: Option<String>,
    /// The names of the given headers.
    headers: Vec<String>,
    decision: Decision,
}

/// Runs the command.
pub fn run(arguments: Explain) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(arguments.profiles_dir.as_deref())?;
    let run = arguments.last.as_ref().map(|_| PastRun::last()).transpose()?;
    let policy = match (&arguments.policy, &run) {
        (Some(given), _) => given::load(given, &catalogue)?,
        (None, Some(run)) => run.compiled(&catalogue)?,
        // Unreachable: clap requires one of the two.
        (None, None) => bail!("--policy is required"),
    };
    let explanation = match (&arguments.id, &arguments.audit, run) {
        (_, _, Some(run)) => {
            let id = arguments.last.as_deref().unwrap_or_default();
            recorded(&policy, &run.path, id, |wanted| {
                audit_file::each_of(run.records, &run.path, wanted)
            })?
        }
        (Some(id), Some(audit), None) => {
            recorded(&policy, audit, id, |wanted| audit_file::each(audit, wanted))?
        }
        _ => asked(&policy, &arguments)?.with_headers(&policy, &arguments.header),
    };
    let road = explanation.road(&policy)?;
    let mut out = io::stdout().lock();
    let printed = if arguments.json {
        let mut object = explanation.as_json(&policy);
        if let Some(road) = road.filter(|road| !matches!(road, Road::Plain)) {
            object["road"] = road.as_json();
        }
        writeln!(out, "{object}")
    } else {
        explanation.print(&mut out, &policy).and_then(|()| match road.and_then(|r| r.words()) {
            Some(words) => writeln!(out, "  road        {}", printable(&words)),
            None => Ok(()),
        })
    };
    super::verdict(printed, u8::from(matches!(explanation.decision, Decision::Deny(_))))
}

/// The scheme of a URL, and what follows it.
fn scheme_of(url: &str) -> anyhow::Result<(Scheme, &str)> {
    let (scheme, rest) =
        url.split_once("://").context("the URL has no scheme: write https://… or http://…")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => Scheme::Https,
        "http" | "ws" => Scheme::Http,
        _ => bail!("the URL's scheme must be https, http, wss or ws"),
    };
    Ok((scheme, rest))
}

/// The request given on the command line.
fn asked(policy: &Policy, arguments: &Explain) -> anyhow::Result<Explanation> {
    let (Some(method), Some(url)) = (&arguments.method, &arguments.url) else {
        bail!("METHOD and URL are required")
    };
    let (scheme, rest) = scheme_of(url)?;
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    let presented = presented(policy, &arguments.present)?;
    let aws = arguments.aws.as_deref().map(scope).transpose()?;
    let in_query: Vec<String> = query_overrides(query.as_deref().unwrap_or_default()).collect();
    let overrides: Vec<&str> = arguments
        .header
        .iter()
        .filter_map(|header| header.split_once(':'))
        .filter(|(name, _)| is_method_override(name.trim()))
        .map(|(_, value)| value.trim())
        .chain(in_query.iter().map(String::as_str))
        .collect();
    let (host, port, decision) = match Authority::parse_typed(authority) {
        Ok(Authority { host, port }) => {
            let port = port.unwrap_or(scheme.default_port());
            if let Some(based) = policy.base_url(scheme, &host, port, path) {
                let carried = (&overrides[..], presented, aws);
                return Ok(under_base_url(policy, method, based, query, carried));
            }
            let request = Request {
                scheme,
                host: &host,
                port,
                method,
                path,
                overrides: &overrides,
                presented: &presented,
                aws,
            };
            // The proxy refuses an invalid request target before it consults the policy.
            let decision = match target_problem(path, query.as_deref()) {
                Some(message) => path_ambiguous(message),
                None => policy.decide(&request),
            };
            (Some(host), port, decision)
        }
        Err(error) => {
            (None, scheme.default_port(), malformed(format!("the request was refused: {error}")))
        }
    };
    Ok(Explanation {
        scheme,
        method: method.clone(),
        host,
        port,
        path: path.to_owned(),
        query,
        headers: Vec::new(),
        decision,
    })
}

/// The request behind a base URL, which is judged and forwarded.
fn under_base_url(
    policy: &Policy,
    method: &str,
    based: BaseUrl,
    query: Option<String>,
    (overrides, mut presented, aws): (&[&str], Vec<CredentialId>, Option<AwsScope<'_>>),
) -> Explanation {
    let BaseUrl { credential, host, port, path } = based;
    if !presented.contains(&credential) {
        presented.push(credential);
    }
    let request = Request {
        scheme: Scheme::Https,
        host: &host,
        port,
        method,
        path: &path,
        overrides,
        presented: &presented,
        aws,
    };
    let decision = match target_problem(&path, query.as_deref()) {
        Some(message) => path_ambiguous(message),
        None => policy.decide(&request),
    };
    let (method, host) = (method.to_owned(), Some(host));
    let headers = Vec::new();
    Explanation { scheme: Scheme::Https, method, host, port, path, query, headers, decision }
}

/// The decision on a request with an invalid host.
fn malformed(message: String) -> Decision {
    refused(Reason::RequestMalformed, message)
}

/// The decision on a request with an ambiguous target.
fn path_ambiguous(message: String) -> Decision {
    refused(Reason::PathAmbiguous, message)
}

/// Why the proxy's HTTP parser rejects a target (path and query as written). Path rules are left to
/// the policy.
fn target_problem(path: &str, query: Option<&str>) -> Option<String> {
    if interceptor_policy::CanonicalPath::parse(path).is_err() {
        return None;
    }
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    match http::uri::PathAndQuery::try_from(target.as_str()) {
        Ok(parsed) if parsed.as_str() == target => None,
        _ => Some(
            "the request was refused: its target has a character that must be percent-encoded"
                .to_owned(),
        ),
    }
}

/// A refusal that precedes every rule.
fn refused(reason: Reason, message: String) -> Decision {
    Decision::Deny(interceptor_policy::Deny {
        reason,
        status: reason.status(),
        filter: Filter::Request,
        rule: None,
        credential: None,
        message,
        nearest: None,
    })
}

/// What a request is signed for.
fn scope(text: &str) -> anyhow::Result<AwsScope<'_>> {
    let (service, region) = text.split_once('/').context("--aws takes SERVICE/REGION")?;
    Ok(AwsScope { service, region })
}

fn presented(policy: &Policy, names: &[String]) -> anyhow::Result<Vec<CredentialId>> {
    names
        .iter()
        .map(|name| {
            policy
                .credential_named(name)
                .with_context(|| format!("the policy has no credential `{name}`"))
        })
        .collect()
}

/// The request in an audit record. `read` yields records until the callback returns `false`.
fn recorded(
    policy: &Policy,
    audit: &std::path::Path,
    id: &str,
    read: impl FnOnce(&mut dyn FnMut(Recorded) -> bool) -> anyhow::Result<u64>,
) -> anyhow::Result<Explanation> {
    let mut found = None;
    let mut wanted = |record: Recorded| {
        // A connection and its request may share an id; prefer the request.
        if record.id == id && (found.is_none() || record.kind == "request") {
            found = Some(record);
        }
        found.as_ref().is_none_or(|record| record.kind != "request")
    };
    read(&mut wanted)?;
    let record =
        found.with_context(|| format!("{} has no record with this id", audit.display()))?;
    let decision = record.judge(policy).context("a policy does not judge records of this kind")?;
    Ok(Explanation {
        scheme: record.scheme(),
        method: record.method.clone().unwrap_or_default(),
        host: record.host.as_deref().and_then(|host| Host::parse(host).ok()),
        port: record.port.unwrap_or(record.scheme().default_port()),
        path: record.path.clone().unwrap_or_default(),
        query: None,
        headers: Vec::new(),
        decision,
    })
}

impl Explanation {
    /// How a permitted request reaches its origin.
    fn road(&self, policy: &Policy) -> anyhow::Result<Option<Road>> {
        let (Decision::Allow(_), Some(host)) = (&self.decision, &self.host) else {
            return Ok(None);
        };
        Ok(Some(Road::of(policy, &Person::invoking()?, self.scheme, (host, self.port))?))
    }

    /// Adds the request's headers; each may cause a refusal.
    fn with_headers(mut self, policy: &Policy, headers: &[String]) -> Explanation {
        let name = |header: &String| {
            header.split(':').next().unwrap_or_default().trim().to_ascii_lowercase()
        };
        self.headers = headers.iter().map(name).collect();
        let governed = self
            .host
            .as_ref()
            .is_some_and(|host| !policy.governing(self.scheme, host, self.port).is_empty());
        let imitated = self.headers.iter().find_map(|name| resembles_framing(name));
        if let Some(framing) = imitated.filter(|_| governed) {
            self.decision = malformed(format!(
                "the request was refused: some servers read one of its headers as `{framing}`, \
                 though it is spelled differently"
            ));
        }
        self
    }

    /// What is removed from the request: headers by name, parameters as `?name`.
    fn removed(&self, policy: &Policy, credential: Option<CredentialId>) -> Vec<String> {
        let Some(strip) = credential.map(|id| policy.strip(id)) else { return Vec::new() };
        let headers = self.headers.iter().filter(|name| strip.header(name)).cloned();
        let parameters = self.query.iter().flat_map(|query| query.split(['&', ';']));
        let parameters = parameters
            .filter(|parameter| strip.parameter(parameter))
            .map(|parameter| format!("?{}", parameter.split('=').next().unwrap_or_default()));
        headers.chain(parameters).collect()
    }

    /// The canonical path that is judged and forwarded; as written if refused earlier.
    fn judged_path(&self) -> String {
        match &self.decision {
            Decision::Allow(allow) => allow.path.text(&self.path).to_owned(),
            _ => interceptor_policy::CanonicalPath::parse(&self.path)
                .map_or_else(|_| self.path.clone(), interceptor_policy::CanonicalPath::into_string),
        }
    }

    fn as_json(&self, policy: &Policy) -> Value {
        let name = |id: Option<CredentialId>| id.map(|id| policy.credential(id).name.clone());
        let mut object = match &self.decision {
            Decision::Allow(allow) => json!({
                "decision": "allow",
                "type": null,
                "status": null,
                "filter": allow.filter.as_str(),
                "rule": allow.rule.as_ref().map(|rule| &rule.text),
                "credential": name(allow.credential),
                "pointer": allow.rule.as_ref().map(|rule| &rule.pointer),
                "forwarded": self.forwarded(policy, allow.credential),
                "removed": self.removed(policy, allow.credential),
            }),
            Decision::Deny(deny) => json!({
                "decision": "deny",
                "type": deny.reason.as_str(),
                "status": deny.status,
                "filter": deny.filter.as_str(),
                "rule": deny.rule.as_ref().map(|rule| &rule.text),
                "credential": name(deny.credential),
                "pointer": deny.rule.as_ref().map(|rule| &rule.pointer),
                "message": deny.message,
                "nearest": deny.nearest.as_ref().map(|near| json!({
                    "rule": near.rule.text,
                    "pointer": near.rule.pointer,
                    "failed": near.failed,
                    "edit": near.edit,
                })),
            }),
        };
        object["host"] = json!(self.host.as_ref().map(Host::to_string));
        object["port"] = json!(self.port);
        object["method"] = json!(self.method);
        object["path"] = json!(self.judged_path());
        object
    }

    /// The request as it would be forwarded, with the key masked.
    fn forwarded(&self, policy: &Policy, credential: Option<CredentialId>) -> Value {
        const MASK: &str = "********";
        let authority = self.authority();
        let mut headers = json!({ "host": authority });
        let mut target = self.judged_path();
        let used = credential.map(|id| policy.credential(id));
        let form = used.filter(|used| used.has_key()).map(|used| &used.forms[0]);
        if let Some(query) = &self.query {
            let kept = credential.and_then(|id| policy.strip(id).kept_query(query));
            let kept = kept.as_deref().unwrap_or(query);
            if !kept.is_empty() {
                target.push('?');
                target.push_str(kept);
            }
        }
        match form {
            None => {}
            Some(Form::Header { name, prefix, suffix }) => {
                headers[name] = json!(format!("{prefix}{MASK}{suffix}"))
            }
            Some(Form::Basic { .. }) => headers["authorization"] = json!(format!("Basic {MASK}")),
            Some(Form::SigV4) => {
                headers["authorization"] = json!(format!("AWS4-HMAC-SHA256 {MASK}"));
            }
            Some(Form::Query { name }) => {
                target.push(if target.contains('?') { '&' } else { '?' });
                target.push_str(&format!("{name}={MASK}"));
            }
        }
        let url = format!("{}://{authority}{target}", self.scheme.as_str());
        let mut forwarded = json!({ "method": self.method, "url": url, "headers": headers });
        if used.is_some_and(|used| used.client_cert.is_some()) {
            forwarded["client_cert"] = json!(true);
        }
        forwarded
    }

    /// The host, with its port unless it is the scheme's default.
    fn authority(&self) -> String {
        let host = match &self.host {
            Some(Host::Ip(std::net::IpAddr::V6(address))) => format!("[{address}]"),
            Some(host) => host.to_string(),
            None => String::new(),
        };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }

    fn print(&self, out: &mut impl Write, policy: &Policy) -> io::Result<()> {
        let (verdict, filter, rule, credential) = match &self.decision {
            Decision::Allow(allow) => ("allow", allow.filter, &allow.rule, allow.credential),
            Decision::Deny(deny) => ("deny", deny.filter, &deny.rule, deny.credential),
        };
        let url = format!("{}://{}{}", self.scheme.as_str(), self.authority(), self.judged_path());
        writeln!(out, "{verdict}  {} {}", printable(&self.method), printable(&url))?;
        if let Decision::Deny(deny) = &self.decision {
            writeln!(out, "  type        {} ({})", deny.reason.as_str(), deny.status)?;
        }
        writeln!(out, "  filter      {}", filter.as_str())?;
        if let Some(rule) = rule {
            writeln!(
                out,
                "  rule        {}  (at {})",
                printable(&rule.text),
                printable(&rule.pointer)
            )?;
        }
        if let Some(id) = credential {
            writeln!(out, "  credential  {}", printable(&policy.credential(id).name))?;
        }
        match &self.decision {
            Decision::Allow(allow) => {
                let forwarded = self.forwarded(policy, allow.credential);
                let text = |value: &Value| value.as_str().map(printable).unwrap_or_default();
                writeln!(
                    out,
                    "  forwarded   {} {}",
                    text(&forwarded["method"]),
                    text(&forwarded["url"])
                )?;
                for (name, value) in forwarded["headers"].as_object().into_iter().flatten() {
                    writeln!(out, "              {}: {}", printable(name), text(value))?;
                }
                if forwarded["client_cert"] == true {
                    writeln!(out, "  presented   the credential's client certificate, in TLS")?;
                }
                let removed = self.removed(policy, allow.credential);
                if !removed.is_empty() {
                    writeln!(out, "  removed     {}", printable(&removed.join(", ")))?;
                }
            }
            Decision::Deny(deny) => {
                writeln!(out, "  message     {}", printable(&deny.message))?;
                if let Some(near) = &deny.nearest {
                    writeln!(
                        out,
                        "  nearest     {}  (at {}; the {} differs)",
                        printable(&near.rule.text),
                        printable(&near.rule.pointer),
                        near.failed
                    )?;
                    writeln!(out, "  to permit   {}", printable(&near.edit))?;
                }
            }
        }
        Ok(())
    }
}
