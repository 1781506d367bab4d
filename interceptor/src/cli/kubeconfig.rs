//! `interceptor kubeconfig`: a kubeconfig for a client in a sandbox, with the sandbox's authority
//! and a placeholder. Inside the sandbox, both are in the environment; from outside, the control
//! API tells them. No key is in it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interceptor_policy::{Host, ServiceUrl};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::daemon::block_on;
use super::daemon::client::{self, ApiRequest};
use super::policy_file::printable;
use super::verdict;
use super::whom::Whom;
use crate::files;

/// The variable that names the file with the sandbox's authority alone.
const AUTHORITY: &str = "NODE_EXTRA_CA_CERTS";
/// The most bytes of such a file.
const LONGEST: usize = 1 << 20;

/// The arguments of `interceptor kubeconfig`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor run --policy k8s.json -- sh -c 'export KUBECONFIG=$PWD/kubeconfig;
    interceptor kubeconfig --server https://k8s.example:6443 \\
      --token-env KUBE_TOKEN -o kubeconfig && kubectl get pods'
  sudo interceptor kubeconfig --sandbox web --server https://k8s.example:6443 \\
    --token-env KUBE_TOKEN > kubeconfig")]
pub struct Kubeconfig {
    /// The API server, as the sandbox reaches it.
    #[arg(long, value_name = "URL")]
    server: String,
    /// The variable of the credential (`env` in the policy), which holds its placeholder.
    #[arg(long, value_name = "NAME")]
    token_env: String,
    /// The namespace of the context.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The sandbox, from outside it [default: the one that this runs in].
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// The control socket [default: that of your run with the given ID, else
    /// /run/interceptor/control.sock].
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    control: Option<PathBuf>,
    /// Write to this file, which only its owner can read.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What a sandbox's clients need.
struct Inside {
    authority: String,
    placeholder: String,
}

/// Runs the command.
pub fn run(arguments: Kubeconfig) -> anyhow::Result<ExitCode> {
    let server = ServiceUrl::parse(&arguments.server).context("--server")?;
    if !matches!(server.host, Host::Name(_) | Host::Ip(_)) || server.target().contains('?') {
        bail!("--server: this is the URL of an API server, without a query");
    }
    let inside = match &arguments.sandbox {
        Some(id) => of_sandbox(id, arguments.control.clone(), &arguments.token_env)?,
        None => of_environment(&arguments.token_env)?,
    };
    let namespace = arguments.namespace.as_deref();
    let text =
        format!("{:#}\n", config(arguments.server.trim_end_matches('/'), namespace, &inside));
    match &arguments.output {
        None => verdict(std::io::stdout().lock().write_all(text.as_bytes()), 0),
        Some(path) => {
            write(path, &text).with_context(|| printable(&path.display().to_string()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The document, in JSON, which is YAML too.
fn config(server: &str, namespace: Option<&str>, inside: &Inside) -> Value {
    let mut context = json!({ "cluster": "sandbox", "user": "sandbox" });
    if let Some(namespace) = namespace {
        context["namespace"] = json!(namespace);
    }
    let cluster = json!({
        "server": server,
        "certificate-authority-data": STANDARD.encode(&inside.authority),
    });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "sandbox", "cluster": cluster }],
        "users": [{ "name": "sandbox", "user": { "token": inside.placeholder } }],
        "contexts": [{ "name": "sandbox", "context": context }],
        "current-context": "sandbox",
    })
}

/// From the environment of the sandbox in which this runs.
fn of_environment(variable: &str) -> anyhow::Result<Inside> {
    const WHERE: &str = "run this inside a sandbox, or name one with --sandbox";
    let Some(path) = std::env::var_os(AUTHORITY).map(PathBuf::from) else {
        bail!("{AUTHORITY} is not set: {WHERE}");
    };
    let (pem, _) = files::read(&path, LONGEST)
        .with_context(|| format!("the sandbox's authority, {}", path.display()))?;
    let authority = String::from_utf8(pem.to_vec()).context("the sandbox's authority")?;
    let placeholder = std::env::var(variable).ok().filter(|value| !value.is_empty());
    let placeholder = placeholder.with_context(|| {
        format!("{} is not set here: name the `env` of a credential", printable(variable))
    })?;
    is_no_key(&placeholder)?;
    Ok(Inside { authority, placeholder })
}

/// Outside a sandbox, such a variable may hold a real key.
fn is_no_key(value: &str) -> anyhow::Result<()> {
    if value.contains("proxy-managed") {
        return Ok(());
    }
    bail!(
        "what the variable holds is no placeholder, so this is no sandbox, or its credential is \
         one of a service whose placeholders cannot be told from keys; use --sandbox"
    )
}

/// From whoever serves a sandbox.
fn of_sandbox(id: &str, control: Option<PathBuf>, variable: &str) -> anyhow::Result<Inside> {
    let whom = Whom::has(control, id)?;
    let path = format!("/v1/sandboxes/{id}");
    let asked = block_on(client::ask(&whom.socket, ApiRequest::get(&path)));
    let answer = whom.explain(id, asked.map_err(anyhow::Error::from))?;
    let shown: Value = serde_json::from_slice(&answer.body).context("the answer is not JSON")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let authority = text(&shown["ca_pem"]).context("the answer has no authority")?;
    let placeholder = text(&shown["env"][variable]).with_context(|| {
        format!(
            "the sandbox has no variable {}: name the `env` of a credential",
            printable(variable)
        )
    })?;
    Ok(Inside { authority, placeholder })
}

/// Writes a file that only its owner can read.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let text = Zeroizing::new(text.as_bytes().to_vec());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&text)
}
