//! Origins as found in companies: self-signed, old, strict, or without TLS. Certificates named by
//! `--upstream-ca` are accepted; all others are refused with a message that names the remedy.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::sandbox::Sandbox;
use serde_json::{Value, json};

/// `openssl s_server` on loopback, which ends with the test.
struct Openssl {
    process: Child,
    address: SocketAddr,
}

impl Openssl {
    /// Serves a page that names the cipher, with this certificate and key, and options of its own.
    fn serve(certificate: &PathBuf, key: &PathBuf, options: &[&str]) -> Openssl {
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-cert"])
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address =
            lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(str::to_owned));
        let address = address.expect("a bound port").parse().unwrap();
        // What it prints of its sessions is taken until it ends.
        std::thread::spawn(move || lines.for_each(drop));
        Openssl { process, address }
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A certificate and its key, made by `openssl req -x509` with these options.
fn self_signed(lab: &Lab, file: &str, name: &str, options: &[&str]) -> (PathBuf, PathBuf) {
    let at = |end: &str| lab.directory().join(format!("{file}.{end}"));
    let (certificate, key) = (at("pem"), at("key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            &format!("/CN={name}"),
        ])
        .args(options)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

fn of_the_lab(lab: &Lab, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = lab.ca().certificate_pem(name);
    (
        lab.secret_file(&format!("{name}.pem"), &certificate),
        lab.secret_file(&format!("{name}.key"), &key),
    )
}

/// The answer to `GET https://NAME/`: its status and its text, a refusal's message where it is one.
fn ask(sandbox: Sandbox<'_>, name: &str) -> (u16, String) {
    let outcome =
        sandbox.run(&["curl", "-sS", "-w", "\n%{http_code}", &format!("https://{name}/")]);
    let out = outcome.success().out();
    let (body, status) = out.rsplit_once('\n').unwrap();
    let message = serde_json::from_str::<Value>(body).ok().map(|body| {
        assert_eq!(body["error"]["type"], "upstream_tls", "{body}");
        body["error"]["message"].as_str().unwrap().to_owned()
    });
    (status.parse().unwrap(), message.unwrap_or_else(|| body.to_owned()))
}

#[test]
fn t4_a_self_signed_certificate_that_is_named_is_taken_for_its_server() {
    const NAME: &str = "git.corp.test";
    let named = format!("subjectAltName=DNS:{NAME}");
    let is_ca = ["-addext", &named];
    let no_ca = ["-addext", &named, "-addext", "basicConstraints=critical,CA:FALSE"];
    let address = ["-addext", "subjectAltName=DNS:other.corp.test,IP:192.0.2.7"];
    let nameless: [&str; 0] = [];
    let table: [(&str, &[&str], bool, &str); 6] = [
        ("CA:TRUE", &is_ca, true, ""),
        ("CA:FALSE", &no_ca, true, ""),
        ("CA:TRUE, not given", &is_ca, false, "--upstream-ca"),
        ("CA:FALSE, not given", &no_ca, false, "--upstream-ca"),
        (
            "for other names",
            &address,
            true,
            "is for `other.corp.test`, `192.0.2.7`, not for the requested name",
        ),
        ("without names", &nameless, true, "no host name"),
    ];
    Lab::test(|lab| {
        lab.unseen(NAME);
        let policy = json!({ "network": { "allow": [NAME] } });
        for (index, (what, options, given, expected)) in table.into_iter().enumerate() {
            let (certificate, key) = self_signed(lab, &format!("own-{index}"), NAME, options);
            let origin = Openssl::serve(&certificate, &key, &[]);
            let mut sandbox = lab.sandbox(&policy).resolve(NAME, origin.address);
            if given {
                sandbox = sandbox.option("--upstream-ca").option(&certificate);
            }
            let (status, said) = ask(sandbox, NAME);
            if expected.is_empty() {
                assert!(status == 200 && said.contains("s_server"), "{what}: {said}");
            } else {
                assert!(status == 502 && said.contains(expected), "{what}: {said}");
                assert!(!said.contains("Other(") && !said.contains("Context"), "{what}: {said}");
            }
        }
    });
}

#[test]
fn t4_another_certificate_of_the_same_name_is_not_the_one_that_was_given() {
    const NAME: &str = "git.corp.test";
    let named = format!("subjectAltName=DNS:{NAME}");
    Lab::test(|lab| {
        let (given, _) = self_signed(lab, "given", NAME, &["-addext", &named]);
        let (certificate, key) = self_signed(lab, "false", NAME, &["-addext", &named]);
        let origin = Openssl::serve(&certificate, &key, &[]);
        let policy = json!({ "network": { "allow": [NAME] } });
        let sandbox = lab.sandbox(&policy).resolve(NAME, origin.address);
        let (status, said) = ask(sandbox.option("--upstream-ca").option(&given), NAME);
        assert!(status == 502 && said.contains("--upstream-ca"), "{status}: {said}");
    });
}

#[test]
fn t4_an_origin_that_cannot_be_spoken_to_is_refused_with_the_remedy() {
    const NAME: &str = "old.corp.test";
    let table: [(&[&str], &str); 6] = [
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA"], "in common"),
        (&["-tls1_2", "-cipher", "AES128-SHA256"], "in common"),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "in common"),
        (&["-tls1_2", "-Verify", "1"], "client certificate"),
        (&["-tls1_3", "-Verify", "1"], "client certificate"),
        // It requests a client certificate but does not require one.
        (&["-tls1_3", "-verify", "1"], ""),
    ];
    for governed in [false, true] {
        Lab::test(|lab| {
            lab.unseen(NAME);
            let (certificate, key) = of_the_lab(lab, NAME);
            let policy = if governed {
                lab.governed(NAME, json!([{ "methods": [], "paths": ["/"] }]))
            } else {
                json!({ "network": { "allow": [NAME] } })
            };
            for (options, expected) in table {
                let origin = Openssl::serve(&certificate, &key, options);
                let (status, said) = ask(lab.sandbox(&policy).resolve(NAME, origin.address), NAME);
                if expected.is_empty() {
                    assert!(status == 200, "{options:?}: {said}");
                    continue;
                }
                assert!(status == 502 && said.contains(expected), "{options:?}: {said}");
                let remedy = said.contains("name the host in `network.passthrough`")
                    || said.contains("or name it in `network.passthrough`");
                assert_eq!(remedy, !governed, "{options:?}: {said}");
            }
        });
    }
}

#[test]
fn an_origin_without_tls_is_said_to_have_none() {
    const NAME: &str = "plain.corp.test";
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": [NAME] } });
        let (status, said) = ask(lab.sandbox(&policy).resolve(NAME, lab.plain()), NAME);
        assert!(status == 502 && said.contains("http://"), "{status}: {said}");
    });
}
