//! The host's own loopback services, which a sandbox reaches under three names that the policy
//! spells, at the ports that it spells, and in no other way.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::container::Engine;
use interceptor_tests::guest::Cgroup;
use interceptor_tests::origin::listen::Listener;
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

const NAMES: [&str; 3] =
    ["host.interceptor.internal", "host.docker.internal", "host.containers.internal"];

/// Permits all three names at the port of a service, and any public host.
fn permitting(service: SocketAddr) -> Value {
    let own = NAMES.map(|name| format!("{name}:{}", service.port()));
    json!({ "network": { "allow": [&own[0], &own[1], &own[2], "*"] } })
}

/// A script that asks each name for `/own` at two ports, and prints the status of each answer.
fn asking(service: SocketAddr, other: SocketAddr) -> String {
    format!(
        "for name in {}; do for port in {} {}; do curl -s -o /dev/null -w '%{{http_code}} ' \
         --max-time 20 http://$name:$port/own; done; done",
        NAMES.join(" "),
        service.port(),
        other.port()
    )
}

#[test]
fn a_service_of_the_host_is_reached_by_each_name_at_its_port_alone() {
    for host_net in [false, true] {
        Lab::test(|lab| {
            let script = asking(lab.plain(), lab.forbidden());
            let sandbox = lab.sandbox(&permitting(lab.plain())).at_forbidden("*");
            let sandbox = if host_net { sandbox.host_net() } else { sandbox };
            let outcome = sandbox.shell(&script);
            assert_eq!(outcome.success().out(), "200 403 ".repeat(3), "{}", outcome.tail());
            for (decision, port) in
                [("allow", lab.plain().port()), ("deny", lab.forbidden().port())]
            {
                let records = outcome.requests(decision);
                let hosts: Vec<_> = records.iter().filter_map(|r| r.host.as_deref()).collect();
                assert_eq!(hosts, NAMES, "{:#?}", outcome.audit);
                assert!(records.iter().all(|record| record.port == Some(port)));
            }
            for (record, name) in outcome.requests("allow").iter().zip(NAMES) {
                assert_eq!(record.ip.as_deref(), Some("127.0.0.1"));
                assert_eq!(record.rule, Some(format!("{name}:{}", lab.plain().port())));
            }
        });
    }
}

#[test]
fn no_wildcard_leads_to_the_host_and_a_refusal_says_what_does() {
    for policy in [
        json!({}),
        json!({ "network": { "allow": ["*", "*.internal", "tcp://*", "127.0.0.1:1"] } }),
    ] {
        Lab::test(|lab| {
            let port = lab.forbidden().port();
            let program = r"
import socket, subprocess, sys
def curl(*arguments):
    print(subprocess.run(['curl', '-sS', *arguments], capture_output=True, text=True).stdout)
curl('http://host.docker.internal:PORT/')
curl('-o', '/dev/null', '-w', '%{http_code}', 'https://host.interceptor.internal:PORT/')
for words in b'\0\1', b'SSH-2.0-x\r\n':
    s = socket.create_connection(('host.containers.internal', PORT), 20)
    s.sendall(words)
    try: print('said' if b'refused' in s.recv(999) else 'closed')
    except OSError: print('reset')
";
            let program = program.replace("PORT", &port.to_string());
            let outcome = lab.sandbox(&policy).python(&program);
            let out = outcome.success().out();
            let edit = format!(r#"add \"host.docker.internal:{port}\" to /network/allow"#);
            assert!(
                out.contains(&edit) && out.ends_with("403\nreset\nsaid\n"),
                "{out}\n{}",
                outcome.tail()
            );
            assert!(outcome.requests("allow").is_empty());
        });
    }
}

#[test]
fn a_credential_is_bound_to_a_service_of_the_host() {
    Lab::test(|lab| {
        let host = format!("host.interceptor.internal:{}", lab.origin().port());
        let policy = lab.governed(&host, json!([{ "methods": ["GET"], "paths": ["/v1/*"] }]));
        let script = format!(
            "for path in v1/yes v2/no; do for http in 1.1 2; do curl -sS --http$http -o /dev/null \
             -w '%{{http_code}}/%{{http_version}} ' -H \"authorization: Bearer $LAB_API_KEY\" \
             https://{host}/$path; done; done"
        );
        let outcome = lab.sandbox(&policy).shell(&script);
        let expected = "200/1.1 200/2 403/1.1 403/2 ";
        assert_eq!(outcome.success().out(), expected, "{}", outcome.tail());
        let seen = lab.seen();
        assert_eq!(seen.len(), 2);
        for seen in seen {
            assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
        }
    });
}

#[test]
fn a_tcp_rule_carries_any_protocol_to_a_service_of_the_host() {
    Lab::test(|lab| {
        let echo = Listener::echo(lab.handle());
        let port = echo.address().port();
        let rule = format!("tcp://host.interceptor.internal:{port}");
        let program = format!(
            r"
import socket
s = socket.create_connection(('host.interceptor.internal', {port}), 20)
s.sendall(b'\x00\x01 neither'); s.shutdown(socket.SHUT_WR)
print(s.recv(100))
"
        );
        let policy = json!({ "network": { "allow": [&rule] } });
        let outcome = lab.sandbox(&policy).python(&program);
        assert_eq!(outcome.success().out(), "b'\\x00\\x01 neither'\n", "{}", outcome.tail());
        let tunnels: Vec<_> =
            outcome.audit.iter().filter(|record| record.kind == "connection").collect();
        let [tunnel] = tunnels[..] else { panic!("{:#?}", outcome.audit) };
        assert_eq!(tunnel.rule.as_ref(), Some(&rule));
        assert_eq!(tunnel.host.as_deref(), Some("host.interceptor.internal"));
    });
}

/// Names that lie about it: in `Host`, in SNI, by DNS, by spelling.
#[test]
fn d3_no_other_name_leads_to_the_host() {
    Lab::test(|lab| {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        // A name server that claims the names, and one that points inside.
        let names = lab.names(&[
            ("host.interceptor.internal", &[&loopback]),
            ("rebinds.test", &[&loopback]),
            ("api.host.interceptor.internal", &[&loopback]),
        ]);
        let (open, closed) = (lab.plain().port(), lab.forbidden().port());
        let allow = [format!("host.interceptor.internal:{open}"), "*".to_owned()];
        let policy = json!({ "network": { "allow": allow } });
        let script = format!(
            "ask() {{ curl -s -o /dev/null -w '%{{http_code}} ' --max-time 20 \"$@\"; }}
             ask http://HOST.Interceptor.internal.:{open}/spelt
             ask http://rebinds.test:{open}/
             ask http://api.host.interceptor.internal:{open}/
             ask -H 'host: host.interceptor.internal:{open}' http://rebinds.test:{open}/
             ask -H 'host: rebinds.test' http://host.interceptor.internal:{open}/
             ask -H 'host: host.interceptor.internal' http://93.184.216.34:{closed}/
             ask -k --connect-to rebinds.test::host.interceptor.internal: \
             https://rebinds.test:{closed}/
             ask -k --connect-to host.interceptor.internal::rebinds.test: \
             https://host.interceptor.internal:{closed}/
             ask http://127.0.0.1:{open}/; ask 'http://[::1]:{open}/'
             ask 'http://[::ffff:127.0.0.1]:{open}/'; true"
        );
        let outcome = lab.sandbox(&policy).resolver(names.address()).shell(&script);
        // Loopback inside is the sandbox's own, and nobody listens there.
        let expected = "200 403 403 421 421 403 421 421 000 000 000 ";
        assert_eq!(outcome.success().out(), expected, "{}", outcome.tail());
        let asked = names.asked();
        assert!(asked.iter().any(|name| name == "rebinds.test"), "{asked:?}");
        assert!(!asked.iter().any(|name| name == "host.interceptor.internal"), "{asked:?}");
    });
}

#[test]
fn the_names_resolve_to_nothing_real_and_only_addresses_are_answered() {
    Lab::test(|lab| {
        let names = lab.names(&[]);
        let policy = permitting(lab.plain());
        let program = r"
import ipaddress, socket, struct
ranges = [ipaddress.ip_network('198.18.0.0/15'), ipaddress.ip_network('2001:2::/48')]
for name in NAMES:
    for found in socket.getaddrinfo(name, 1, type=socket.SOCK_STREAM):
        assert any(ipaddress.ip_address(found[4][0]) in range for range in ranges), found
    for kind in 15, 16, 33, 65:
        labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0'
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
        question = struct.pack('>HHHHHH', 7, 0x0100, 1, 0, 0, 0) + labels
        question += struct.pack('>HH', kind, 1)
        s.sendto(question, ('8.8.8.8', 53))
        answer = s.recv(4096)
        assert answer[3] & 15 == 0 and answer[6:8] == b'\0\0', answer
print('ok')
";
        let program = program.replace("NAMES", &format!("{NAMES:?}"));
        let outcome = lab.sandbox(&policy).resolver(names.address()).python(&program);
        assert_eq!(outcome.success().out(), "ok\n", "{}", outcome.tail());
        assert_eq!(names.asked(), Vec::<String>::new());
        let looked_up: Vec<_> = outcome
            .audit
            .iter()
            .filter(|record| record.kind == "dns" && record.decision.as_deref() == Some("allow"))
            .filter_map(|record| record.host.as_deref())
            .collect();
        assert!(NAMES.iter().all(|name| looked_up.contains(name)), "{looked_up:?}");
    });
}

#[test]
fn an_attached_cgroup_reaches_the_service_of_the_host() {
    Lab::test(|lab| {
        let cgroup = Cgroup::new();
        let policy = permitting(lab.plain()).to_string();
        lab.permits(&policy);
        let audit = lab.directory().join("attached.jsonl");
        let mut attached = Command::new(binary("interceptor"))
            .args(["attach", "--policy"])
            .arg(lab.secret_file("attached.json", &policy))
            .arg("--audit")
            .arg(&audit)
            .arg("--cgroup")
            .arg(cgroup.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(attached.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let script = asking(lab.plain(), lab.forbidden());
        let output = cgroup.command("sh").args(["-c", &script]).output().unwrap();
        let pid = nix::unistd::Pid::from_raw(attached.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        attached.wait().unwrap();
        lab.ran(output.stdout.clone(), &audit);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200 403 ".repeat(3), "{line}");
    });
}

#[test]
fn a_container_reaches_the_service_of_the_host() {
    Lab::test(|lab| {
        let engine = Engine::new(lab, &permitting(lab.plain()), "api.example.test");
        let script = asking(lab.plain(), lab.forbidden());
        let outcome = engine.shell(&[], &script);
        assert_eq!(outcome.success().out(), "200 403 ".repeat(3), "{}", outcome.tail());
        assert_eq!(outcome.requests("allow").len(), 3, "{:#?}", outcome.audit);
    });
}
