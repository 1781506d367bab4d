//! `interceptor doctor --agent`: whether the HTTP clients of an agent trust the certificates that
//! the sandbox sees.
//!
//! Each client requests a host that no policy permits, in a sandbox of its own. Nothing leaves the
//! machine, and the audit record tells: a client that trusts the certificate sends its request and
//! is refused; one that does not never sends it.

use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use interceptor_policy::Agent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;

use super::check::Check;
use crate::cli::history::PastRun;
use crate::cli::person::{Person, act_as};
use crate::cli::policy_file::printable;
use crate::cli::{agents, who};

/// The host that clients request; its top-level domain is reserved (RFC 2606).
const HOST: &str = "trust.interceptor.test";
/// A policy that permits nothing.
const NOTHING: &[u8] = br#"{ "network": { "deny": ["*"] } }"#;
/// How long one client may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The exit status of a probe whose client is not installed.
const ABSENT: i32 = 3;
/// How much of a run's records to read, in bytes.
const MOST_RECORDS: u64 = 32 << 20;

/// The data file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    #[expect(dead_code, reason = "for readers of the file")]
    description: String,
    clients: Vec<Client>,
}

/// A client.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Client {
    name: String,
    program: PathBuf,
    interpreters: Vec<String>,
    arguments: Vec<String>,
    /// How the client learns of the sandbox's CA.
    trust: String,
    agents: Vec<String>,
}

/// What a client did.
#[derive(Debug)]
enum Outcome {
    Trusts,
    /// It rejected the certificate, with this alert if it sent one.
    Rejects(Option<String>),
    Absent,
    /// It made no connection; its output.
    Silent(String),
}

/// The checks for an agent.
///
/// # Errors
/// If there is no such agent, or no sandbox can be made.
pub(super) fn checks(name: &str) -> anyhow::Result<Vec<Check>> {
    let agent = agents::known(name)?;
    who::needs_rights().context("doctor --agent starts sandboxes")?;
    let data: Data = serde_json::from_str(include_str!("../../../data/clients.json"))
        .context("the embedded list of clients")?;
    let person = Person::invoking()?;
    let (mut checks, mut clients) = own(agent, &person, &data.clients);
    let used = data.clients.into_iter().filter(|client| client.agents.iter().any(|of| of == name));
    for client in used {
        let program = on_path(&person, &client.program);
        let known =
            |known: &Client| known.name == client.name && Some(&known.program) == program.as_ref();
        if let Some(program) = program.clone().filter(|_| !clients.iter().any(known)) {
            clients.push(Client { program, ..client });
        }
    }
    for client in clients {
        let outcome = ask(&client, agent, &person)?;
        checks.extend(check(&client, &outcome));
    }
    checks.extend(past());
    Ok(checks)
}

/// The check of the agent's own program, and the clients within it that can be probed.
fn own(agent: &Agent, person: &Person, clients: &[Client]) -> (Vec<Check>, Vec<Client>) {
    let name = agent.title.as_str();
    let commands = agent.commands.join(" or ");
    let found = agent.commands.iter().find_map(|command| on_path(person, Path::new(command)));
    let Some(program) = found else {
        let what = format!("{commands} is not on the PATH of {}", person.identity.name);
        return (vec![Check::failed(name, false, what, "install it, or correct PATH")], Vec::new());
    };
    let shown = program.display();
    match interpreter(&program, person) {
        Some(path) => {
            let base = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // `python3.11` is a Python.
            let base = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            let is_it = |known: &String| known.trim_end_matches('3') == base || known == base;
            let inside = clients.iter().filter(|client| client.interpreters.iter().any(is_it));
            let inside = inside.map(|client| Client { program: path.clone(), ..client.clone() });
            let what = format!("{shown} is run by {}", path.display());
            (vec![Check::passed(name, false, what)], inside.collect())
        }
        None => {
            let what = format!(
                "{shown} is a binary, which cannot be probed by itself; after a run with it, this \
                 command says which certificates it rejected"
            );
            (vec![Check::passed(name, false, what)], Vec::new())
        }
    }
}

/// The interpreter that a script's first line names.
fn interpreter(program: &Path, person: &Person) -> Option<PathBuf> {
    let mut start = [0; 256];
    let read = person.act(|| {
        let mut file = crate::files::open(program)?.0;
        file.read(&mut start)
    });
    let start = &start[..read.ok()?];
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    let first = Path::new(words.next()?);
    if !first.ends_with("env") {
        return Some(first.to_owned());
    }
    let named = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    on_path(person, Path::new(named))
}

/// A program as the person's shell would find it.
fn on_path(person: &Person, program: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    if program.is_absolute() {
        return Some(program.to_owned());
    }
    let path = person.variable("PATH")?;
    let found = act_as(&person.identity, || {
        let mut places = std::env::split_paths(&path).map(|directory| directory.join(program));
        Ok(places.find(|place| {
            fs::metadata(place)
                .is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
        }))
    });
    found.ok().flatten()
}

/// Runs a client in a sandbox.
fn ask(client: &Client, agent: &Agent, person: &Person) -> anyhow::Result<Outcome> {
    let directory = scratch()?;
    let audit = directory.join("audit.jsonl");
    let asked = run(client, agent, person, &audit);
    let records = fs::File::open(&audit).map(beginning).unwrap_or_default();
    // The directory holds only what this function put there.
    let _ = fs::remove_dir_all(&directory);
    let (status, said) = asked?;
    Ok(judge(&records, status, &said))
}

fn run(
    client: &Client,
    agent: &Agent,
    person: &Person,
    audit: &Path,
) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["run", "-q", "--no-history", "--no-watch", "--summary", "never"]);
    command.args(["--policy", "-", "--audit"]).arg(audit);
    for variable in agents::variables(agent, person) {
        command.arg("--env").arg(variable);
    }
    let url = format!("https://{HOST}/");
    command.arg("--").arg(&client.program);
    command.args(client.arguments.iter().map(|argument| argument.replace("{url}", &url)));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start a sandbox")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(NOTHING).context("cannot tell the sandbox its policy")?;
    }
    let mut stderr = child.stderr.take().context("there is no standard error")?;
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        // Further output is read and dropped, so that the client never blocks.
        let _ = (&mut stderr).take(1 << 16).read_to_end(&mut said);
        let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        String::from_utf8_lossy(&said).into_owned()
    });
    let status = ended(&mut child)?;
    let said = reading.join().unwrap_or_default();
    if status == Some(125) {
        anyhow::bail!("no sandbox can be made: {}", said.trim());
    }
    Ok((status, said))
}

/// Waits for a sandbox, and kills it when its time is up.
fn ended(child: &mut Child) -> anyhow::Result<Option<i32>> {
    let late = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a sandbox")? {
            return Ok(status.code());
        }
        if Instant::now() > late {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL)?;
            return Ok(child.wait().context("cannot wait for a sandbox")?.code());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the records of a sandbox tell about its client.
fn judge(records: &str, status: Option<i32>, said: &str) -> Outcome {
    let all = records.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own: Vec<Value> = all.filter(|record| record["host"] == HOST).collect();
    if own.iter().any(|record| record["kind"] == "request") {
        return Outcome::Trusts;
    }
    // Some clients send no alert, and only close.
    let rejects = |record: &&Value| {
        record["kind"] == "connection"
            && ["certificate_rejected", "no_request"].iter().any(|reason| record["type"] == *reason)
    };
    match own.iter().find(rejects) {
        Some(record) => Outcome::Rejects(record["alert"].as_str().map(str::to_owned)),
        None if status == Some(ABSENT) => Outcome::Absent,
        None => Outcome::Silent(said.lines().last().unwrap_or_default().to_owned()),
    }
}

fn check(client: &Client, outcome: &Outcome) -> Option<Check> {
    let Client { name, program, trust, .. } = client;
    let program = program.display();
    match outcome {
        Outcome::Absent => None,
        Outcome::Trusts => {
            let what = format!("{program} accepts the sandbox's certificate, by {trust}");
            Some(Check::passed(name, false, what))
        }
        Outcome::Rejects(alert) => {
            let alert = alert.as_deref().map(|alert| format!(" (alert {})", printable(alert)));
            let what = format!(
                "{program} does not accept the sandbox's certificate{}",
                alert.unwrap_or_default()
            );
            let remedy = format!(
                "`run` tells it by {trust}: look for what unsets or overrides that, such as a \
                 wrapper around {program} or an option for other roots; else add the CA to its \
                 roots with --ca-bundle FILE, or use --base-urls"
            );
            Some(Check::failed(name, true, what, &remedy))
        }
        Outcome::Silent(said) => {
            let what = format!("{program} made no connection: {}", printable(said));
            Some(Check::failed(name, false, what, "try it by itself"))
        }
    }
}

/// The certificates that clients rejected in the person's last run.
fn past() -> Option<Check> {
    let run = PastRun::last().ok()?;
    let text = beginning(run.records);
    let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let rejected: Vec<Value> =
        all.filter(|record| record["type"] == "certificate_rejected").collect();
    let (first, count) = (rejected.first()?, rejected.len());
    let part = |field: &str| printable(first[field].as_str().unwrap_or("?"));
    let what = format!(
        "in your last run, {count} connections ended because the client did not accept the \
         certificate, first for {} (alert {})",
        part("host"),
        part("alert")
    );
    let remedy = format!("interceptor why {}", part("id"));
    Some(Check::failed("the last run", false, what, &remedy))
}

/// The beginning of what a sandbox's records hold, as far as it can be read: the sandbox decides
/// how many there are.
fn beginning(records: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read until an error counts.
    let _ = records.take(MOST_RECORDS).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A directory for this process alone.
fn scratch() -> anyhow::Result<PathBuf> {
    let name = crate::sandbox::launch::random_id()?;
    let path = std::env::temp_dir().join(format!("interceptor-doctor-{name}"));
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700)
        .create(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_whole_and_of_an_agent_that_is_known() {
        let data: Data = serde_json::from_str(include_str!("../../../data/clients.json")).unwrap();
        for client in &data.clients {
            let urls = client.arguments.iter().filter(|argument| argument.contains("{url}"));
            assert_eq!(urls.count(), 1, "{client:?}");
            for agent in &client.agents {
                agents::known(agent).unwrap();
            }
        }
        for agent in interceptor_policy::agents() {
            let used = data.clients.iter().filter(|client| client.agents.contains(&agent.name));
            assert!(used.count() >= 2, "{}", agent.name);
        }
    }

    #[test]
    fn no_more_of_the_records_is_read_than_fits() {
        let record = "{\"kind\":\"üx\"}\n".as_bytes();
        let text = beginning(std::io::repeat(b'x'));
        assert_eq!(text.len() as u64, MOST_RECORDS);
        // A character that the end cuts does not spoil the rest.
        let endless = Read::chain(record, std::io::Cursor::new("ü".repeat(1 << 24)));
        let text = beginning(endless);
        assert!(text.starts_with("{\"kind\":\"üx\"}\n"));
        assert!(text.ends_with('\u{fffd}'));
    }

    #[test]
    fn records_tell_what_a_client_did() {
        let record = |kind: &str, reason: &str, host: &str| {
            format!(r#"{{"kind":"{kind}","type":"{reason}","host":"{host}","alert":"unknown_ca"}}"#)
        };
        let judged = |records: &str, status| judge(records, status, "one\ntwo\n");
        let request = record("request", "host_denied", HOST);
        assert!(matches!(judged(&request, Some(22)), Outcome::Trusts));
        let rejected = record("connection", "certificate_rejected", HOST);
        let Outcome::Rejects(alert) = judged(&rejected, Some(60)) else { panic!() };
        assert_eq!(alert.as_deref(), Some("unknown_ca"));
        let other = record("connection", "certificate_rejected", "other.test");
        assert!(matches!(judged(&other, Some(ABSENT)), Outcome::Absent));
        let Outcome::Silent(said) = judged(&other, Some(1)) else { panic!() };
        assert_eq!(said, "two");
    }
}
