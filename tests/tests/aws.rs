//! AWS's own clients, unmodified, with the placeholder pair inside: moto, which verifies signatures
//! itself, sees requests that the real pair signed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use interceptor_tests::clients::{self, NODE, PYTHON};
use interceptor_tests::origin::record::Seen;
use interceptor_tests::outcome::Outcome;
use interceptor_tests::sandbox::Sandbox;
use interceptor_tests::{Lab, command};
use serde_json::{Value, json};

const REGION: &str = "eu-central-1";

/// AWS, as moto knows it.
struct Server<'lab> {
    lab: &'lab Lab,
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
    /// The id of the real access key; its secret is the lab's key.
    id: String,
}

impl<'lab> Server<'lab> {
    fn start(lab: &'lab Lab) -> Server<'lab> {
        let names = [
            "*.amazonaws.com",
            "*.eu-central-1.amazonaws.com",
            "*.us-west-2.amazonaws.com",
            "*.s3.eu-central-1.amazonaws.com",
        ];
        let (certificate, key) = lab.ca().certificate_pem_for(&names);
        let files = [("aws.pem", certificate), ("aws-key.pem", key)];
        let files = files.map(|(name, content)| lab.secret_file(name, &content));
        let script = lab.directory().join("aws_server.py");
        fs::write(&script, clients::text("aws/server.py")).expect("own directory");
        let mut command = Command::new(PYTHON);
        command.arg(script).args(files).arg(lab.key());
        command.env("PYTHONPATH", clients::aws_python_packages());
        let log = fs::File::create(lab.directory().join("aws.log")).expect("own directory");
        command.stderr(log).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a server");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the server's port");
        let (port, id): (u16, String) = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = fs::read_to_string(lab.directory().join("aws.log")).unwrap_or_default();
            panic!("the server said {line:?} ({error}):\n{log}")
        });
        Server { lab, child, output, address: (Ipv4Addr::LOCALHOST, port).into(), id }
    }

    /// The key of an AWS credential: its secret comes from a file.
    fn key(&self) -> Value {
        json!({ "aws": { "access_key_id": self.id,
                         "secret_access_key": { "file": self.lab.key_file() } } })
    }

    fn policy(&self, endpoints: Value) -> Value {
        let mut policy = json!({
            "network": { "allow": ["*.amazonaws.com"] },
            "credentials_v2": { "aws": { "key": self.key() } },
        });
        if !endpoints.is_null() {
            policy["credentials_v2"]["aws"]["endpoints"] = endpoints;
        }
        policy
    }

    fn sandbox(&self, policy: &Value) -> Sandbox<'lab> {
        let sandbox = self.lab.sandbox(policy).limit(Duration::from_secs(240));
        let sandbox = sandbox.resolve("*.amazonaws.com:443", self.address);
        let sandbox = sandbox.env("PYTHONPATH", clients::aws_python_packages());
        let quiet = sandbox.env("PYTHONDONTWRITEBYTECODE", "1").env("AWS_MAX_ATTEMPTS", "1");
        quiet.env("AWS_DEFAULT_REGION", REGION).env("AWS_EC2_METADATA_DISABLED", "true").quiet_log()
    }

    /// Ends the server; checks what it saw, and tells the oracle. Returns the requests.
    fn end(mut self) -> Vec<Value> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("the server's output");
        let seen: Vec<Value> = serde_json::from_str(&text).expect("what the server saw");
        let of = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
        for one in &seen {
            let text = one.to_string();
            // Not shown: it may be a key.
            assert!(!text.contains("proxy-managed") && !text.contains(self.lab.key()));
            assert!(text.contains(&self.id), "another key: {} {}", one["method"], one["path"]);
            assert_ne!(one["status"], 403, "{} {}", one["method"], one["path"]);
            let record = Seen::of_http(&of(one, "host"), &of(one, "method"), &of(one, "path"));
            self.lab.shared().records.push(record);
        }
        seen
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn boto3(server: &Server<'_>, policy: &Value, what: &str) -> Outcome {
    let script = clients::script(server.lab, "aws/client.py");
    server.sandbox(policy).run(&command![PYTHON, script, what])
}

#[test]
fn boto3_uses_s3_with_the_placeholder_pair() {
    Lab::test(|lab| {
        lab.unordered();
        let server = Server::start(lab);
        let policy = server.policy(Value::Null);
        let outcome = boto3(&server, &policy, "s3");
        let seen = server.end();
        outcome.success();
        let expected = [
            "got hello",
            "odd odd",
            "copied odd",
            "listed [True]",
            "multipart True",
            "presigned by URL",
            "presigned by URL",
            "digest with its digest",
        ];
        let out = outcome.out();
        assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{}", outcome.tail());
        // Each way to say what the body is was used.
        let words =
            seen.iter().flat_map(|one| one["headers"].as_array().cloned().unwrap_or_default());
        let is_word = |pair: &Value| {
            pair[0].as_str().is_some_and(|name| name.eq_ignore_ascii_case("x-amz-content-sha256"))
        };
        let words: Vec<String> = words
            .filter(is_word)
            .map(|pair| pair[1].as_str().unwrap_or_default().to_owned())
            .collect();
        assert!(words.iter().any(|word| word.len() == 64), "{words:?}");
        let chunks = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
        assert!(words.iter().any(|word| word == chunks), "{words:?}");
    });
}

#[test]
fn boto3_uses_dynamodb_whose_signatures_cover_a_body_that_has_no_digest() {
    Lab::test(|lab| {
        let server = Server::start(lab);
        let policy = server.policy(json!([
            { "methods": ["POST"], "paths": ["/"], "aws": { "services": ["dynamodb"] } }
        ]));
        let outcome = boto3(&server, &policy, "dynamodb");
        server.end();
        outcome.success();
        assert_eq!(outcome.out().trim(), "item 100000", "{}", outcome.tail());
    });
}

#[test]
fn clients_without_variables_find_the_placeholder_pair_at_the_metadata_addresses() {
    Lab::test(|lab| {
        lab.unordered();
        lab.unseen("169.254.169.254");
        lab.unseen("169.254.170.2");
        let server = Server::start(lab);
        let policy = server.policy(Value::Null);
        let script = clients::script(lab, "aws/client.py");
        let here = "http://169.254.169.254/latest";
        let shell = format!(
            "set -e; id=$AWS_ACCESS_KEY_ID secret=$AWS_SECRET_ACCESS_KEY
            unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_EC2_METADATA_DISABLED
            export AWS_METADATA_SERVICE_TIMEOUT=30 AWS_METADATA_SERVICE_NUM_ATTEMPTS=3
            {PYTHON} {0} dynamodb
            AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/task {PYTHON} {0} item
            token=$(curl -sS -X PUT -H 'x-aws-ec2-metadata-token-ttl-seconds: 60' {here}/api/token)
            curl -sS -H \"x-aws-ec2-metadata-token: $token\" \\
                {here}/meta-data/iam/security-credentials/interceptor > keys
            grep -q \"$id\" keys && grep -q \"$secret\" keys && echo the pair
            status='%{{http_code}}\\n'
            curl -sS -o /dev/null -w $status {here}/meta-data/iam/security-credentials/
            curl -sS -o /dev/null -w $status -H \"x-aws-ec2-metadata-token: $token\" \\
                {here}/user-data
            curl -sS -o /dev/null -w $status -X PUT {here}/api/token
            curl -sS -o /dev/null -w $status http://169.254.170.23/v1/credentials",
            script.display()
        );
        let outcome = server.sandbox(&policy).shell(&shell);
        server.end();
        outcome.success();
        let out = outcome.out();
        let expected = ["item 100000", "item 100000", "the pair", "401", "404", "400", "403"];
        assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{}", outcome.tail());
    });
}

#[test]
fn c20_a_scope_that_no_rule_names_is_refused() {
    Lab::test(|lab| {
        let server = Server::start(lab);
        let policy = server.policy(json!([
            { "methods": [], "paths": ["/"],
              "aws": { "services": ["sts"], "regions": [REGION] } }
        ]));
        let outcome = boto3(&server, &policy, "sts");
        let seen = server.end();
        outcome.success();
        let out = outcome.out();
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("identity arn:aws:iam::123456789012:user/somebody"), "{out}");
        assert!(lines[1].starts_with("refused"), "{out}");
        let denied = outcome.one_denied("endpoint_denied");
        assert_eq!(denied.host.as_deref(), Some("sts.us-west-2.amazonaws.com"));
        assert_eq!(seen.len(), 1);
    });
}

#[test]
fn c20_what_was_verified_is_what_is_sent() {
    Lab::test(|lab| {
        let server = Server::start(lab);
        let policy = server.policy(json!([{ "methods": [], "paths": ["/attacked"] }]));
        let script = clients::script(lab, "aws/attacks.py");
        let outcome = server.sandbox(&policy).run(&command![PYTHON, script]);
        let seen = server.end();
        outcome.success();
        let out = outcome.out();
        let lines: Vec<&str> = out.lines().collect();
        let expected = [
            "bucket 200 -",
            "as-signed 404 -",
            "same-object 404 -",
            "another-host 403 credential_misuse",
            "another-region 403 credential_misuse",
            "another-service 403 credential_misuse",
            "another-path 403 credential_misuse",
            "two-slashes 403 credential_misuse",
            "dots 400 path_ambiguous",
            "encoded-dots 400 path_ambiguous",
            "more-query 403 credential_misuse",
            "smuggled-header 403 credential_misuse",
            "without-host 403 credential_misuse",
            "by-url 404 -",
            "two-places 400 request_malformed",
            "twice 400 request_malformed",
            "otherwise-spelled 400 request_malformed",
            "unsigned 403 protocol_denied",
            "version-2 403 protocol_denied",
            "version-4a 403 protocol_denied",
            "too-late 403 credential_misuse",
            "keys-of-its-own 403 credential_misuse",
            "wrong-secret 403 credential_misuse",
            "session-token 403 credential_misuse",
            "another-body 400 request_malformed",
            "no-copy-of-others 403 endpoint_denied",
            "a-second-key 403 credential_misuse",
        ];
        assert_eq!(lines, expected, "{out}{}", outcome.tail());
        // Of the body that was another than was signed, the end never came.
        let whole = seen.iter().filter(|one| one["status"] == 200 || one["status"] == 404);
        let paths: Vec<_> = whole.filter_map(|one| one["path"].as_str()).collect();
        let one = "/attacked/key";
        assert_eq!(paths, ["/attacked", one, one, one]);
    });
}

#[test]
fn the_aws_cli_copies_files_with_the_placeholder_pair() {
    Lab::test(|lab| {
        lab.unordered();
        let server = Server::start(lab);
        let policy = server.policy(Value::Null);
        let script = "set -e; aws='/usr/bin/python3 -m awscli'
            $aws s3 mb s3://files
            head -c 9000000 /dev/zero > sent
            $aws s3 cp --quiet sent s3://files/sent
            $aws s3 cp --quiet s3://files/sent s3://files/copy
            $aws s3 cp --quiet s3://files/copy came
            cmp sent came && echo the same
            $aws s3 ls s3://files | wc -l
            $aws sts get-caller-identity --query Arn --output text
            export AWS_CONFIG_FILE=$PWD/config
            $aws configure set default.s3.signature_version s3v4
            $aws configure set default.s3.addressing_style path
            curl -sS $($aws s3 presign s3://files/sent) | cmp - sent && echo by URL";
        let outcome = server.sandbox(&policy).shell(script);
        server.end();
        outcome.success();
        let out = outcome.out();
        let lines: Vec<&str> = out.lines().collect();
        let arn = "arn:aws:iam::123456789012:user/somebody";
        assert_eq!(lines[1..], ["the same", "2", arn, "by URL"], "{out}{}", outcome.tail());
    });
}

#[test]
fn the_javascript_sdk_uses_s3_with_the_placeholder_pair() {
    Lab::test(|lab| {
        lab.unordered();
        let server = Server::start(lab);
        let policy = server.policy(Value::Null);
        clients::link_packages(lab, &clients::aws_node_packages());
        let script = clients::script(lab, "aws/client.mjs");
        let outcome = server.sandbox(&policy).run(&command![NODE, script]);
        server.end();
        outcome.success();
        let expected = ["odd odd", "stream 150000", "multipart true", "presigned odd", "tables 0"];
        let out = outcome.out();
        assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{}", outcome.tail());
    });
}
