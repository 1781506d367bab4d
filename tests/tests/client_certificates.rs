//! Client certificates: presented to their credential's hosts for requests that the rules permit,
//! and never for others.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interceptor_tests::Lab;
use interceptor_tests::ca::Ca;
use interceptor_tests::origin::Origin;
use interceptor_tests::running::Running;
use interceptor_tests::sandbox::{Sandbox, binary};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

/// The files of a client certificate, which no sandbox may read.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// A certificate of this CA; the canary oracle looks for its private key.
    fn new(lab: &Lab, ca: &Ca, name: &str) -> Files {
        let files = Files {
            certificate: lab.directory().join(format!("{name}.crt")),
            key: lab.directory().join(format!("{name}.pem")),
        };
        files.write(lab, &ca.client_pem(name));
        files
    }

    fn write(&self, lab: &Lab, (certificate, key): &(String, String)) {
        self.write_certificate(lab, certificate);
        self.write_key(lab, key);
    }

    fn write_certificate(&self, lab: &Lab, certificate: &str) {
        let next = lab.secret_file("next.crt", certificate);
        fs::rename(next, &self.certificate).unwrap();
    }

    fn write_key(&self, lab: &Lab, key: &str) {
        lines(key).for_each(|line| lab.hides(line));
        let next = lab.secret_file("next.pem", key);
        fs::rename(next, &self.key).unwrap();
    }

    fn source(&self) -> Value {
        json!({ "certificate": { "file": self.certificate }, "key": { "file": self.key } })
    }
}

/// The lines of a private key that tell it from others.
fn lines(key: &str) -> impl Iterator<Item = &str> {
    key.lines().filter(|line| !line.starts_with('-') && line.len() > 32).skip(1)
}

/// A policy whose credential `lab` has this certificate alone.
fn policy(files: &Files) -> Value {
    json!({
        "network": { "allow": [HOST] },
        "credentials_v2": { "lab": {
            "client_cert": files.source(), "hosts": [HOST], "env": "LAB_API_KEY",
            "endpoints": [{ "methods": ["GET"], "paths": ["/v1/*", "/cluster.json"] }],
        } },
    })
}

fn at<'lab>(lab: &'lab Lab, policy: &Value, origin: &Origin) -> Sandbox<'lab> {
    lab.sandbox(policy).resolve(HOST, origin.address())
}

/// The connections that origins have accepted.
fn connections(lab: &Lab) -> usize {
    lab.shared().connections.load(Ordering::SeqCst)
}

const PYTHON: &str = r#"
import os, ssl, urllib.request
request = urllib.request.Request("https://api.example.test/v1/models",
    headers={"Authorization": "Bearer " + os.environ["LAB_API_KEY"]})
print(urllib.request.urlopen(request).status)
"#;

#[test]
fn t11_a_certificate_alone_authenticates_what_the_rules_permit() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let files = Files::new(lab, &ca, "agent");
        let policy = policy(&files);
        for protocols in [&["h2", "http/1.1"][..], &["http/1.1"]] {
            let origin = lab.mutual_origin(protocols, (&ca.pem(), true));
            let sandbox = || at(lab, &policy, &origin);
            let url = format!("https://{HOST}/v1/models");
            let script = format!(
                "for version in --http2 --http1.1; do curl -sS $version -o /dev/null \
                 -w '%{{http_code}} ' -H 'Authorization: Bearer of-its-own' {url}; done"
            );
            assert_eq!(sandbox().shell(&script).success().out(), "200 200 ");
            assert_eq!(sandbox().python(PYTHON).success().out(), "200\n");
        }
        let seen = lab.seen();
        assert_eq!(seen.len(), 6);
        for request in &seen {
            assert_eq!(request.client.as_deref(), Some("agent"));
            assert!(request.values("authorization").is_empty(), "{request:?}");
        }
    });
}

#[test]
fn t11_no_certificate_is_presented_for_a_request_that_is_refused() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let files = Files::new(lab, &ca, "agent");
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), true));
        let url = format!("https://{HOST}/v2/admin");
        let refused = at(lab, &policy(&files), &origin).run(&["curl", "-sS", &url]);
        refused.one_denied("endpoint_denied");
        let plain = format!("http://{HOST}/v1/models");
        at(lab, &policy(&files), &origin)
            .run(&["curl", "-sS", &plain])
            .one_denied("plaintext_denied");
        assert_eq!(connections(lab), 0, "the origin was connected to");
    });
}

#[test]
fn t11_a_connection_with_a_certificate_carries_no_other_credentials_requests() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let (first, second) = (Files::new(lab, &ca, "first"), Files::new(lab, &ca, "second"));
        let key = lab.key_file();
        let policy = json!({
            "network": { "allow": [HOST] },
            "credentials_v2": {
                "first": { "client_cert": first.source(), "hosts": [HOST], "env": "FIRST" },
                "second": { "client_cert": second.source(), "key": { "file": key },
                            "hosts": [HOST], "env": "SECOND" },
                "third": { "key": { "file": key }, "hosts": [HOST], "env": "THIRD" },
            },
        });
        // It asks, and serves those who present nothing too.
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), false));
        // One client connection for all requests of a version.
        let each = "for version in http2 http1.1; do rm -f all; \
                    for name in FIRST SECOND THIRD SECOND FIRST THIRD; do \
                    eval value=\\$$name; [ ! -f all ] || echo next >> all; \
                    printf '%s\\n' $version silent show-error fail output=/dev/null \
                    url=https://HOST/v1/$name \
                    \"header=\\\"Authorization: Bearer $value\\\"\" >> all; \
                    done; curl -K all || exit 1; done";
        at(lab, &policy, &origin).shell(&each.replace("HOST", HOST)).success();
        let seen = lab.seen();
        assert_eq!(seen.len(), 12);
        let bearer = format!("Bearer {}", lab.key());
        let mut used: Vec<(usize, &str)> = Vec::new();
        for request in &seen {
            let (client, key) = match request.path.as_str() {
                "/v1/FIRST" => (Some("first"), vec![]),
                "/v1/SECOND" => (Some("second"), vec![bearer.as_str()]),
                _ => (None, vec![bearer.as_str()]),
            };
            assert_eq!(request.client.as_deref(), client, "{request:?}");
            assert_eq!(request.values("authorization"), key, "{}", request.path);
            used.push((request.connection, &request.path));
        }
        for (connection, path) in &used {
            let others = used.iter().filter(|(other, _)| other == connection);
            assert!(others.clone().all(|(_, other)| other == path), "{used:?}");
        }
        // Connections of a credential are reused, and none resumes a session of another's.
        let distinct: std::collections::BTreeSet<usize> =
            used.iter().map(|(one, _)| *one).collect();
        assert!(distinct.len() <= 6, "{used:?}");
    });
}

#[test]
fn t11_a_credential_of_another_sandbox_presents_nothing_here() {
    Lab::test(|lab| {
        // In TLS 1.3 a request is sent before the origin says that it wants no such client.
        lab.unseen(HOST);
        let ca = Ca::new();
        let files = Files::new(lab, &ca, "agent");
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), true));
        let url = format!("https://{HOST}/v1/models");
        let ask = ["curl", "-sS", &url];
        at(lab, &policy(&files), &origin).run(&ask).success();
        let without = json!({ "network": { "allow": [HOST] } });
        let outcome = at(lab, &without, &origin).run(&ask);
        let said = outcome.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(said.contains("client certificate"), "{said}");
        let governed = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        let outcome = at(lab, &governed, &origin).run(&ask);
        let said = outcome.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(said.contains("`client_cert`"), "{said}");
        assert_eq!(lab.seen().len(), 1);
    });
}

/// A client that asks for what each line of its standard input names, in one process.
const ASK_EACH_LINE: &str = "n=0; while read line; do n=$((n+1)); \
     curl -sS -w '%{http_code}' https://HOST/$line; echo \" asked $n\"; done";

struct Client<'lab> {
    lab: &'lab Lab,
    running: Running<'lab>,
    asked: usize,
}

impl<'lab> Client<'lab> {
    fn start(lab: &'lab Lab, sandbox: Sandbox<'lab>) -> Client<'lab> {
        let script = ASK_EACH_LINE.replace("HOST", HOST);
        let running = sandbox.open_stdin().start(&["sh", "-c", &script]);
        Client { lab, running, asked: 0 }
    }

    /// Asks for a path; returns the name in the certificate that the origin got.
    fn ask(&mut self, path: &str) -> Option<String> {
        let before = self.lab.seen().len();
        self.asked += 1;
        self.running.write(format!("{path}\n").as_bytes());
        self.running.wait_for(&format!(" asked {}\n", self.asked));
        self.lab.seen().get(before)?.client.clone()
    }

    /// Asks until the origin gets another certificate than this.
    fn ask_until_not(&mut self, name: &str) -> Option<String> {
        let late = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let client = self.ask("v1/again");
            if client.as_deref() != Some(name) {
                return client;
            }
            assert!(std::time::Instant::now() < late, "the certificate stays the same");
            // Files are looked at once a second.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

#[test]
fn t11_a_certificate_that_is_replaced_is_presented_on_new_connections_alone() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let files = Files::new(lab, &ca, "before");
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), true));
        let mut client = Client::start(lab, at(lab, &policy(&files), &origin));
        assert_eq!(client.ask("v1/first").as_deref(), Some("before"));
        // One of the two files alone does not fit, and changes nothing.
        let after = ca.client_pem("after");
        files.write_certificate(lab, &after.0);
        let late = std::time::Instant::now() + std::time::Duration::from_millis(2500);
        while std::time::Instant::now() < late {
            assert_eq!(client.ask("v1/half").as_deref(), Some("before"));
        }
        files.write_key(lab, &after.1);
        assert_eq!(client.ask_until_not("before").as_deref(), Some("after"));
        let resumed = lab.shared().resumed_handshakes.load(Ordering::SeqCst);
        client.running.close_stdin();
        client.running.finish().success();
        let seen = lab.seen();
        let of = |name: &str| {
            let all = seen.iter().filter(|request| request.client.as_deref() == Some(name));
            all.map(|request| request.connection).collect::<std::collections::BTreeSet<_>>()
        };
        assert!(of("before").is_disjoint(&of("after")), "a connection has two certificates");
        assert_eq!(resumed, 0, "a session was resumed");
    });
}

#[test]
fn t11_an_origin_that_refuses_a_certificate_is_explained() {
    Lab::test(|lab| {
        // In TLS 1.3 a request is sent before the origin says that it wants no such client.
        lab.unseen(HOST);
        let (ca, other) = (Ca::new(), Ca::new());
        let files = Files::new(lab, &other, "stranger");
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), true));
        let url = format!("https://{HOST}/v1/models");
        let outcome = at(lab, &policy(&files), &origin).run(&["curl", "-sS", &url]);
        let error = &outcome.json()["error"];
        assert_eq!(error["type"], "upstream_tls", "{error}");
        // Its alert may be lost when it closes the connection.
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("the credential's client certificate"), "{said}");
    });
}

#[test]
fn t11_a_private_key_in_an_answer_is_replaced_in_every_spelling() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let files = Files::new(lab, &ca, "agent");
        let key = fs::read_to_string(&files.key).unwrap();
        let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(&body).unwrap();
        // As Kubernetes tells a secret, and as people show files.
        let told = json!({
            "data": { "tls.key": STANDARD.encode(&key) },
            "text": key, "line": body, "lines": key.replace('\n', "\r\n"),
            "hex": der.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        });
        let mut answer = told.to_string().into_bytes();
        answer.extend(key.as_bytes());
        let kind = ("application/json", answer);
        lab.shared().files.lock().unwrap().insert("/cluster.json".to_owned(), kind);
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), true));
        let url = format!("https://{HOST}/cluster.json");
        let outcome = at(lab, &policy(&files), &origin).run(&["curl", "-sS", &url]);
        let out = outcome.success().out();
        assert!(out.contains("tls.key"), "{out}");
        let shortest = lines(&key).next().unwrap();
        assert!(!out.contains(shortest), "{out}");
        let encoded = STANDARD.encode(&key);
        assert!(!out.contains(&encoded[40..100]), "{out}");
    });
}

#[test]
fn t11_a_certificate_is_presented_after_a_takeover_too() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let files = Files::new(lab, &ca, "agent");
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), true));
        let daemon = lab.daemon().resolve(HOST, origin.address()).quiet_log().start();
        let key = json!({ "key": { "file": lab.key_file() }, "hosts": ["other.example.test"] });
        let mut policy = policy(&files);
        policy["credentials_v2"]["both"] = key;
        policy["credentials_v2"]["both"]["client_cert"] = files.source();
        let guest = daemon.guest(&policy);
        let url = format!("https://{HOST}/v1/models");
        let ask = || guest.run("curl", &["-sS", "--fail", "-o", "/dev/null", &url]);
        assert!(ask().status.success());
        let next = lab.daemon().resolve(HOST, origin.address()).quiet_log();
        let next = next.control(daemon.control().to_owned()).option("--takeover").start();
        daemon.finish();
        assert!(ask().status.success());
        let seen = lab.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|request| request.client.as_deref() == Some("agent")));
        assert_ne!(seen[0].connection, seen[1].connection);
        next.remove(&guest);
        next.finish();
    });
}

/// What kubectl does with a kubeconfig: its authority alone is trusted, and its token presented.
const KUBERNETES: &str = r#"
import base64, json, ssl, sys, urllib.request
config = json.load(open(sys.argv[1]))
[cluster], [user], [context] = config["clusters"], config["users"], config["contexts"]
assert config["current-context"] == context["name"] and context["context"]["namespace"] == "web"
data = base64.b64decode(cluster["cluster"]["certificate-authority-data"]).decode()
trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
trust.load_verify_locations(cadata=data)
request = urllib.request.Request(cluster["cluster"]["server"] + "/v1/pods",
    headers={"Authorization": "Bearer " + user["user"]["token"]})
print(urllib.request.urlopen(request, context=trust).status)
"#;

#[test]
fn t11_a_kubeconfig_leads_to_a_cluster_that_wants_a_certificate() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let files = Files::new(lab, &ca, "kubernetes-admin");
        let policy = policy(&files);
        let origin = lab.mutual_origin(&["h2", "http/1.1"], (&ca.pem(), true));
        let interceptor = binary("interceptor").display().to_string();
        let program = lab.work().join("client.py");
        fs::write(&program, KUBERNETES).unwrap();
        let options = format!("--server https://{HOST}/ --token-env LAB_API_KEY --namespace web");
        let script = format!(
            "{interceptor} kubeconfig {options} -o config && stat -c %a config && \
             python3 client.py config"
        );
        // Inside, from the environment.
        let outcome = at(lab, &policy, &origin).shell(&script);
        assert_eq!(outcome.success().out(), "600\n200\n");
        // From outside, for a sandbox of a daemon.
        let daemon = lab.daemon().resolve(HOST, origin.address()).quiet_log().start();
        let guest = daemon.guest(&policy);
        let mut command = std::process::Command::new(&interceptor);
        command.args(["kubeconfig", "--sandbox", &guest.id, "--control"]).arg(daemon.control());
        let written = command.args(options.split(' ')).output().unwrap();
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
        fs::write(lab.work().join("config"), &written.stdout).unwrap();
        let told = guest.run("python3", &["client.py", "config"]);
        assert_eq!(String::from_utf8_lossy(&told.stdout), "200\n");
        // Elsewhere, a variable may hold a real key, and is not written.
        let mut outside = std::process::Command::new(&interceptor);
        outside.arg("kubeconfig").args(options.split(' '));
        outside.env("NODE_EXTRA_CA_CERTS", &files.certificate).env("LAB_API_KEY", lab.key());
        let refused = outside.output().unwrap();
        assert!(!refused.status.success() && refused.stdout.is_empty());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("no placeholder") && !said.contains(lab.key()), "{said}");
        let seen = lab.seen();
        assert_eq!(seen.len(), 2);
        for request in &seen {
            assert_eq!(request.client.as_deref(), Some("kubernetes-admin"));
            assert!(request.values("authorization").is_empty(), "{request:?}");
        }
        daemon.remove(&guest);
        daemon.finish();
    });
}

#[test]
fn c10_t11_a_certificate_that_cannot_be_used_is_told_by_its_place_alone() {
    Lab::test(|lab| {
        let ca = Ca::new();
        let (certificate, key) = ca.client_pem("agent");
        let (_, other) = ca.client_pem("other");
        let (expired, old) = ca.expired_client_pem("old");
        [&key, &other, &old].iter().for_each(|key| lines(key).for_each(|line| lab.hides(line)));
        let table = [
            (certificate.as_str(), other.as_str(), "key", "is not the private key of"),
            (&expired, &old, "certificate", "holds a certificate that expired on 2020-01-01"),
            (&key, &key, "certificate", "has no certificate in it (PEM)"),
            (&certificate, &certificate, "key", "has no private key in it (PEM)"),
            (
                &certificate,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n\
                 -----END ENCRYPTED PRIVATE KEY-----\n",
                "key",
                "is encrypted",
            ),
        ];
        for (index, (certificate, key, field, expected)) in table.into_iter().enumerate() {
            let certificate = lab.secret_file(&format!("{index}.crt"), certificate);
            let key = lab.secret_file(&format!("{index}.pem"), key);
            let files = Files { certificate, key };
            let policy = lab.secret_file("policy.json", &policy(&files).to_string());
            let checked = std::process::Command::new(binary("interceptor"))
                .args(["check", "--json"])
                .arg(&policy)
                .output()
                .unwrap();
            let told: Value = serde_json::from_slice(&checked.stdout).unwrap();
            let error = &told["errors"][0];
            let pointer = format!("/credentials_v2/lab/client_cert/{field}");
            assert_eq!(error["path"], pointer.as_str(), "{told}");
            assert!(error["message"].as_str().unwrap().contains(expected), "{told}");
        }
    });
}
