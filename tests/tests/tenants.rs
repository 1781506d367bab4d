//! Two sandboxes in one daemon share the process and nothing else: each tries to use what belongs
//! to the other.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Cgroup, Daemon, Guest};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const OTHER: &str = "other.example.test";

fn with_key(key: &str) -> Value {
    json!({ "network": { "allow": [HOST] },
            "credentials_v2": { "lab": { "key": key, "hosts": [HOST], "env": "LAB_API_KEY" } } })
}

/// Two sandboxes with the same policy but for the key.
fn pair<'lab>(lab: &'lab Lab, daemon: &Daemon<'lab>) -> (Guest<'lab>, Guest<'lab>, String) {
    let second = lab.another_key();
    (daemon.guest(&with_key(lab.key())), daemon.guest(&with_key(&second)), second)
}

#[test]
fn c12_a_placeholder_means_nothing_in_another_sandbox() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).at_origin(OTHER).start();
        let (a, b, second) = pair(lab, &daemon);
        assert_ne!(a.env["LAB_API_KEY"], b.env["LAB_API_KEY"]);
        let presented = format!("Bearer {}", a.env["LAB_API_KEY"]);
        for protocol in ["http/1.1", "h2"] {
            let plan = Plan::https(HOST, protocol).ask_with(
                "GET",
                "/x",
                &[("authorization", &presented)],
                "",
            );
            for guest in [&a, &b] {
                assert_eq!(guest.fetch(&plan)[0].answers[0].status, 200);
            }
        }
        // What B presents is removed like every authentication that is not its own; its own key
        // stands there.
        let sent: Vec<_> =
            lab.seen().iter().map(|seen| seen.values("authorization").concat()).collect();
        let bearer = |key: &str| format!("Bearer {key}");
        let (first, second) = (bearer(lab.key()), bearer(&second));
        assert_eq!(sent, [first.as_str(), &second, &first, &second]);

        // On an ungoverned host it is ordinary text.
        let wide = json!({ "network": { "allow": [OTHER] } });
        let c = daemon.guest(&wide);
        let plan =
            Plan::https(OTHER, "h2").ask_with("GET", "/x", &[("authorization", &presented)], "");
        assert_eq!(c.fetch(&plan)[0].answers[0].status, 200);
        assert_eq!(lab.seen().last().unwrap().values("authorization"), [presented.as_str()]);
        daemon.finish();
    });
}

#[test]
fn t7_authorities_and_leaves_are_each_sandboxs_own() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).start();
        let (a, b, _) = pair(lab, &daemon);
        assert_ne!(a.ca_pem, b.ca_pem);
        let leaf = format!(
            "import socket, ssl, hashlib, subprocess
c = ssl.create_default_context(); s = c.wrap_socket(socket.create_connection(('{HOST}', 443)), \
             server_hostname='{HOST}')
pem = ssl.DER_cert_to_PEM_cert(s.getpeercert(True))
print(subprocess.run(['openssl', 'x509', '-pubkey', '-noout'], input=pem, capture_output=True, \
             text=True).stdout)"
        );
        let (in_a, in_b) = (a.python(&leaf), b.python(&leaf));
        assert!(in_a.contains("PUBLIC KEY") && in_b.contains("PUBLIC KEY"), "{in_a}{in_b}");
        assert_ne!(in_a, in_b, "one key for the leaves of two sandboxes");
        // What A trusts does not vouch for B's connections.
        let trusting = format!(
            "import socket, ssl
c = ssl.create_default_context(cafile='{}')
try: c.wrap_socket(socket.create_connection(('{HOST}', 443)), server_hostname='{HOST}'); \
             print('trusted')
except ssl.SSLCertVerificationError: print('not trusted')",
            a.env["NODE_EXTRA_CA_CERTS"]
        );
        assert_eq!(
            (a.python(&trusting).trim(), b.python(&trusting).trim()),
            ("trusted", "not trusted")
        );
        daemon.finish();
    });
}

/// A process that takes a TLS session, and whatever else it has, from one sandbox to another.
#[test]
fn t9_a_session_of_one_sandbox_is_not_resumed_in_another() {
    for version in ["TLSv1_2", "TLSv1_3"] {
        Lab::test(|lab| {
            let daemon = lab.daemon().at_origin(HOST).start();
            let (a, b, second) = pair(lab, &daemon);
            let program = format!(
                "import os, socket, ssl
c = ssl.create_default_context(cadata='''{}''' + '''{}''')
c.maximum_version = c.minimum_version = ssl.TLSVersion.{version}
def ask(path, session):
    s = c.wrap_socket(socket.create_connection(('{HOST}', 443)), server_hostname='{HOST}', \
                 session=session)
    s.sendall(f'GET {{path}} HTTP/1.1\\r\\nhost: {HOST}\\r\\n\\r\\n'.encode()); s.recv(65536)
    return s
first = ask('/a1', None)
again = ask('/a2', first.session)
open({:?}, 'w').write(str(os.getpid()))
moved = ask('/b', again.session)
print(again.session_reused, moved.session_reused)",
                a.ca_pem,
                b.ca_pem,
                b.cgroup.path().join("cgroup.procs")
            );
            // It may write that file as the host's root, which no sandboxed process is.
            let said = a.python(&program);
            assert!(said.trim().ends_with("False"), "{said}");
            let sent: Vec<_> = lab
                .seen()
                .iter()
                .map(|seen| (seen.path.clone(), seen.values("authorization").concat()))
                .collect();
            let bearer = |key: &str| format!("Bearer {key}");
            let expected = [("/a1", lab.key()), ("/a2", lab.key()), ("/b", second.as_str())];
            assert_eq!(sent, expected.map(|(path, key)| (path.to_owned(), bearer(key))));
            daemon.finish();
        });
    }
}

#[test]
fn k23_connections_to_an_origin_are_never_shared() {
    Lab::test(|lab| {
        lab.unordered();
        let daemon = lab.daemon().at_origin(HOST).start();
        let (a, b, second) = pair(lab, &daemon);
        for round in 0..6 {
            let protocol = if round % 2 == 0 { "h2" } else { "http/1.1" };
            for guest in [&a, &b] {
                let plan = Plan::https(HOST, protocol).ask("GET", "/1").ask("GET", "/2");
                assert!(guest.fetch(&plan)[0].answers.iter().all(|answer| answer.status == 200));
            }
        }
        let used_with = |key: &str| -> BTreeSet<usize> {
            let bearer = format!("Bearer {key}");
            let seen = lab.seen();
            let own = seen.iter().filter(|seen| seen.values("authorization") == [bearer.as_str()]);
            own.map(|seen| seen.connection).collect()
        };
        let (first, second) = (used_with(lab.key()), used_with(&second));
        assert!(
            !first.is_empty() && !second.is_empty() && first.is_disjoint(&second),
            "{first:?} {second:?}"
        );
        // There were connections to share: there are fewer connections than requests.
        assert!(first.len() < 12 && second.len() < 12, "{first:?} {second:?}");
        daemon.finish();
    });
}

#[test]
fn k14_synthetic_addresses_and_listeners_are_each_sandboxs_own() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).at_origin(OTHER).start();
        let a = daemon.guest(&with_key(lab.key()));
        let b = daemon.guest(&json!({ "network": { "allow": [OTHER] } }));
        let address = a.python(&format!("import socket; print(socket.gethostbyname('{HOST}'))"));
        let address = address.trim();
        assert!(address.starts_with("198.18."), "{address}");
        // A's address stands for nothing in B, or for what B itself has looked up: never for A's
        // host.
        let speak = format!(
            "import socket
for prepare in (False, True):
    if prepare: socket.gethostbyname('{OTHER}')
    try:
        s = socket.create_connection(('{address}', 80), 10)
        s.sendall(b'GET /crossed HTTP/1.1\\r\\nhost: {HOST}\\r\\nconnection: close\\r\\n\\r\\n')
        print(s.recv(65536).split(b' ')[1].decode())
    except OSError as error: print(error.errno)"
        );
        let said = b.python(&speak);
        assert!(!said.contains("200") && said.lines().count() == 2, "{said}");
        assert!(lab.seen().is_empty(), "{:?}", lab.seen());

        // The daemon's listeners, those of A among them, are beyond B's reach.
        let mut tried = 0;
        for port in listening(daemon.running().pid().as_raw()) {
            let said = b.python(&format!(
                "import socket
try: socket.create_connection(('127.0.0.1', {port}), 5).sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); \
                 print('reached')
except OSError as error: print(error.errno)"
            ));
            assert_eq!(said.trim(), "1", "port {port}");
            tried += 1;
        }
        assert!(tried >= 2, "{tried}");
        daemon.finish();
    });
}

/// The ports on 127.0.0.1 that a process listens at.
fn listening(pid: i32) -> Vec<u16> {
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            fs::read_link(entry.path())
                .ok()?
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A" && sockets.contains(row[9]) && row[1].starts_with("0100007F:"))
        .map(|row| u16::from_str_radix(&row[1][9..], 16).unwrap())
        .collect()
}

/// A sandbox with a network of its own, found by a process in it or by the path of its namespace.
#[test]
fn a_sandbox_with_a_network_of_its_own_is_entered_by_process_or_by_path() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).start();
        for by_path in [false, true] {
            let cgroup = Cgroup::new();
            let mut holder = cgroup.command("unshare");
            holder.args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up 2>/dev/null; echo up; exec sleep 600",
            ]);
            let mut holder = holder.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(
                &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
                &mut line,
            )
            .unwrap();
            let pid = holder.id();
            let mut body = with_key(lab.key());
            body["cgroup"] = json!(cgroup.path());
            if by_path {
                body["netns"] = json!(format!("/proc/{pid}/ns/net"));
            } else {
                body["pid"] = json!(pid);
            }
            let made = daemon.call("POST", "/v1/sandboxes", &body.to_string());
            assert_eq!(made.status, 201, "{made:?}");
            let guest = daemon.guest_of(cgroup, &made.json());
            let inside = format!(
                "import os, socket, ssl
s = ssl.create_default_context().wrap_socket(socket.create_connection(('{HOST}', 443)), \
                 server_hostname='{HOST}')
s.sendall(b'GET /inside HTTP/1.1\\r\\nhost: {HOST}\\r\\nconnection: close\\r\\n\\r\\n')
print(os.listdir('/sys/class/net') and s.recv(65536).split(b' ')[1].decode())"
            );
            let output = guest
                .command("nsenter")
                .args(["-t", &pid.to_string(), "--net", "/usr/bin/python3", "-c", &inside])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said.trim(), "200", "{}", String::from_utf8_lossy(&output.stderr));
            daemon.remove(&guest);
            guest.cgroup.remove();
            holder.wait().unwrap();
        }
        daemon.finish();
    });
}

/// Many at once, made, used and removed in parallel.
#[test]
fn many_sandboxes_come_and_go_side_by_side_and_none_is_served_by_anothers_rules() {
    Lab::test(|lab| {
        lab.unordered();
        let daemon = lab.daemon().quiet_log().at_origin(HOST).start();
        let keys: Vec<String> = (0..12).map(|_| lab.another_key()).collect();
        std::thread::scope(|scope| {
            for part in keys.chunks(3) {
                let daemon = &daemon;
                scope.spawn(move || {
                    for key in part {
                        let guest = daemon.guest(&with_key(key));
                        let path = format!("/{}", guest.id);
                        let plan = Plan::https(HOST, "h2").ask("GET", &path).ask("GET", &path);
                        assert!(
                            guest.fetch(&plan)[0].answers.iter().all(|answer| answer.status == 200)
                        );
                        assert_eq!(
                            daemon
                                .replace(&guest, &json!({ "network": { "deny": ["*"] } }), true)
                                .status,
                            200
                        );
                        assert_eq!(
                            guest.fetch(&plan)[0].answers[0].refusal().reason,
                            "host_denied"
                        );
                        daemon.remove(&guest);
                    }
                });
            }
        });
        let pairs: BTreeSet<(String, String)> = lab
            .seen()
            .iter()
            .map(|seen| (seen.path.clone(), seen.values("authorization").concat()))
            .collect();
        assert_eq!(
            (lab.seen().len(), pairs.len()),
            (24, 12),
            "each sandbox's requests carry one key"
        );
        let used: BTreeSet<&str> =
            pairs.iter().map(|(_, key)| key.trim_start_matches("Bearer ")).collect();
        assert_eq!(used, keys.iter().map(String::as_str).collect());
        daemon.finish();
    });
}
