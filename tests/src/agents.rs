//! Drives a real command-line agent without a terminal, as a user would start it: on the policy
//! that `interceptor init` writes for it, against origins that speak its API.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};

use interceptor_policy::{Agent, AgentEndpoint, AgentRefusal, agents, strict_json};
use serde_json::Value;

use crate::audit::Record;
use crate::lab::Lab;
use crate::origin::api::TEXT;
use crate::people::{Account, text};
use crate::sandbox::binary;

/// An agent of one user.
#[derive(Debug)]
pub struct Driver<'lab> {
    lab: &'lab Lab,
    account: Account,
    agent: &'static Agent,
    /// The directory of its program.
    programs: PathBuf,
}

/// One start of an agent.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The variable that holds the key.
    pub variable: &'a str,
    /// What the key begins with.
    pub prefix: &'a str,
    /// The agent's command and its arguments.
    pub command: &'a [&'a str],
}

impl<'lab> Driver<'lab> {
    /// An agent of `interceptor agents`, of a new user whose home holds this login of the agent.
    ///
    /// # Panics
    /// If there is no such agent.
    #[track_caller]
    pub fn new(lab: &'lab Lab, agent: &str, programs: PathBuf, login: &str) -> Driver<'lab> {
        let agent = agents().iter().find(|known| known.name == agent).expect("a known agent");
        let account = Account::new(lab.directory());
        account.directory(Path::new("project"));
        account.file(login, &format!("{{ \"token\": \"{}\" }}", lab.another_key()));
        // Requests are concurrent.
        lab.unordered();
        Driver { lab, account, agent, programs }
    }

    /// Starts it once; returns its requests that were permitted, as `METHOD /path`.
    ///
    /// # Panics
    /// If it does not say what the origin answered, or was refused what the data does not say.
    #[track_caller]
    pub fn start(&self, start: &Start<'_>) -> Vec<(String, String)> {
        static STARTS: AtomicUsize = AtomicUsize::new(0);
        let number = STARTS.fetch_add(1, Ordering::SeqCst);
        let key = format!("{}{}", start.prefix, self.lab.another_key());
        let options = self.init(start.variable, &key);
        let audit = self.lab.directory().join(format!("agent-{number}.jsonl"));
        let inside = format!("printenv {}; exec \"$@\"", start.variable);
        let interceptor = binary("interceptor").display().to_string();
        let certificates = self.lab.directory().join("upstream-ca.pem").display().to_string();
        let audited = audit.display().to_string();
        let first = ["timeout", "-k", "5", "120", "sudo", &interceptor, "run", "--audit", &audited];
        let resolved = self.resolved();
        let mut words: Vec<&str> = first.to_vec();
        words.extend(["--upstream-ca", &certificates]);
        words.extend(options.iter().map(String::as_str));
        words.extend(resolved.iter().map(String::as_str));
        words.extend(["--", "sh", "-c", &inside, "sh"]);
        words.extend(start.command);
        let output = self.typed(start.variable, &key, "\"$@\"; exit $?", &words);
        let (said, errors) = (text(&output.stdout), text(&output.stderr));
        let all = format!("{said}\n--- standard error\n{errors}");
        self.lab.ran(all.clone().into_bytes(), &audit);
        assert!(output.status.success(), "{:?}\n{all}", output.status);
        assert!(said.contains(&TEXT.concat()), "{all}");
        let placeholder = said.lines().next().unwrap_or_default();
        let is_placeholder = placeholder.contains("proxy-managed")
            || placeholder.starts_with("github_pat_0proxymanaged");
        assert!(is_placeholder && !all.contains(&key), "{all}");
        let records = crate::audit::read(&audit).expect("an audit file");
        self.refused_as_said(&records, &all);
        let permitted = records.iter().filter(|record| record.is_request("allow"));
        let parts = |record: &Record| {
            (record.method.clone().unwrap_or_default(), record.path.clone().unwrap_or_default())
        };
        permitted.map(parts).collect()
    }

    /// Every rule of the agent's data was used, or its source says that it was only read of.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn used(&self, requests: &[(String, String)]) {
        let rules = self.agent.credentials.iter().flat_map(|credential| &credential.endpoints);
        for rule in rules {
            let is_used = requests.iter().any(|(method, path)| permits(rule, method, path));
            let is_read_of = rule.source.contains(" names ");
            assert!(is_used || is_read_of, "{rule:?} is not used by {requests:?}");
        }
    }

    /// Writes the policy; returns the options of `run` that `init` prints.
    fn init(&self, variable: &str, key: &str) -> Vec<String> {
        let script = "\"$1\" init --force \"$2\"; exit $?";
        let interceptor = binary("interceptor").display().to_string();
        let output = self.typed(variable, key, script, &[&interceptor, &self.agent.name]);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}{}", text(&output.stderr));
        let line = said.lines().find_map(|line| line.trim().strip_prefix("sudo interceptor run"));
        let options = line.and_then(|line| line.split_once("--").map(|_| line));
        let options = options.unwrap_or_else(|| panic!("no command to type: {said}"));
        let options = options.split(" -- ").next().unwrap_or_default();
        options.split_whitespace().map(str::to_owned).collect()
    }

    /// The policy as `init` wrote it.
    fn policy(&self) -> Value {
        let file = self.account.home().join("project/interceptor.jsonc");
        let written = fs::read_to_string(file).expect("a policy");
        let strict = strict_json(&written).expect("a policy");
        self.lab.permits(&strict);
        serde_json::from_str(&strict).expect("a policy")
    }

    /// Every permitted host is at the lab's origin.
    fn resolved(&self) -> Vec<String> {
        let policy = self.policy();
        let hosts = policy["network"]["allow"].as_array().into_iter().flatten();
        let origin = self.lab.origin();
        let option = |host: &Value| {
            let host = host.as_str().unwrap_or_default();
            ["--resolve".to_owned(), format!("{host}:443:{origin}")]
        };
        hosts.flat_map(option).collect()
    }

    /// A script in the user's project, with the key in its variable.
    fn typed(&self, variable: &str, key: &str, script: &str, words: &[&str]) -> Output {
        let path = self.programs.display();
        let before = format!(
            "cd project; [ -d .git ] || git init -q; export PATH={path}:$PATH {variable}={key}; "
        );
        self.account.run(&(before + script), words)
    }

    #[track_caller]
    fn refused_as_said(&self, records: &[Record], all: &str) {
        for record in records.iter().filter(|record| record.decision.as_deref() == Some("deny")) {
            let said = self.agent.refused.iter().any(|refused| is_of(refused, record));
            assert!(said, "the data of {} does not say: {record:#?}\n{all}", self.agent.name);
        }
    }
}

/// Whether a record is of a refusal that the data names.
fn is_of(refused: &AgentRefusal, record: &Record) -> bool {
    let host = record.host.as_deref().unwrap_or_default();
    let is_host = match refused.host.as_str() {
        // What package managers are set up for differs from machine to machine.
        "registries" => host.starts_with("registry."),
        own => host == own,
    };
    let path = record.path.as_deref();
    is_host && path.is_none_or(|path| refused.paths.iter().any(|own| path.starts_with(own)))
}

/// Whether a rule permits a request, roughly.
fn permits(rule: &AgentEndpoint, method: &str, path: &str) -> bool {
    let starts = |pattern: &String| path.starts_with(pattern.trim_end_matches('*'));
    rule.methods.iter().any(|known| known == method) && rule.paths.iter().any(starts)
}
