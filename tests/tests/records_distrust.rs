//! Clients that check the certificate only after the handshake: some send an alert, some only
//! close. Each leaves a record, and each kind of client gets one warning that names the setting to
//! change.

#![allow(clippy::unwrap_used, reason = "a helper of tests may panic like a test")]

use interceptor_tests::wire::program;
use interceptor_tests::{Lab, Outcome};
use serde_json::json;

const HOST: &str = "api.example.test";

fn records(outcome: &Outcome) -> Vec<(String, Option<String>)> {
    let connections = outcome.audit.iter().filter(|record| record.kind == "connection");
    connections.map(|record| (record.reason.clone().unwrap(), record.alert.clone())).collect()
}

/// Runs a client that does not trust the CA, and returns the log's warnings.
fn distrusting(script: &str, expected: &[(&str, Option<&str>)]) -> Vec<String> {
    let mut warnings = Vec::new();
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        let outcome = lab.sandbox(&policy).at_origin(HOST).quiet_log().shell(script);
        outcome.success();
        let records = records(&outcome);
        let records: Vec<_> =
            records.iter().map(|(reason, alert)| (reason.as_str(), alert.as_deref())).collect();
        assert_eq!(records, expected, "{}", outcome.tail());
        warnings =
            outcome.err().lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect();
    });
    warnings
}

#[test]
fn node_closes_and_is_named() {
    let ask = format!(
        "node -e \"require('https').get('https://{HOST}/').on('error', e => {{ \
         console.log(e.code) }})\""
    );
    let script = format!("unset NODE_EXTRA_CA_CERTS NODE_OPTIONS SSL_CERT_FILE; {ask}; {ask}");
    let warnings = distrusting(&script, &[("no_request", None); 2]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for told in [HOST, "Node.js", "NODE_EXTRA_CA_CERTS", "received the certificate"] {
        assert!(warnings[0].contains(told), "{told}: {}", warnings[0]);
    }
}

#[test]
fn wget_closes_and_is_named() {
    let wget = format!("wget -q -O- --tries=1 --ca-directory=empty https://{HOST}/");
    let script = format!("mkdir empty; {wget}; {wget}; test $? = 5");
    let warnings = distrusting(&script, &[("no_request", None); 2]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for told in [HOST, "GnuTLS", "--ca-certificate"] {
        assert!(warnings[0].contains(told), "{told}: {}", warnings[0]);
    }
}

#[test]
fn python_sends_an_alert_and_is_named() {
    let ask = format!(
        "python3 -c \"import ssl, urllib.request as u; \
         c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n\
         try: u.urlopen('https://{HOST}/', context=c)\n\
         except OSError as e: print(e)\""
    );
    let warnings = distrusting(&ask, &[("certificate_rejected", Some("unknown_ca"))]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for told in [HOST, "unknown_ca", "Python", "REQUESTS_CA_BUNDLE"] {
        assert!(warnings[0].contains(told), "{told}: {}", warnings[0]);
    }
}

#[test]
fn two_kinds_of_clients_are_told_apart() {
    let script = format!(
        "unset NODE_EXTRA_CA_CERTS NODE_OPTIONS SSL_CERT_FILE; mkdir empty\n\
         node -e \"require('https').get('https://{HOST}/').on('error', e => {{ }})\"\n\
         wget -q -O- --tries=1 --ca-directory=empty https://{HOST}/; test $? = 5"
    );
    let warnings = distrusting(&script, &[("no_request", None); 2]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn an_alert_after_the_handshake_is_a_refusal_of_the_certificate() {
    // GnuTLS leaves it to its callers to judge, and to tell.
    let way = r"
import ctypes
tls = ctypes.CDLL('libgnutls.so.30'); session, creds = ctypes.c_void_p(), ctypes.c_void_p()
s = tcp(); name = HOST.encode()
assert tls.gnutls_certificate_allocate_credentials(ctypes.byref(creds)) == 0
assert tls.gnutls_init(ctypes.byref(session), 2) == 0
assert tls.gnutls_set_default_priority(session) == 0
assert tls.gnutls_credentials_set(session, 1, creds) == 0
assert tls.gnutls_server_name_set(session, 1, name, ctypes.c_size_t(len(name))) == 0
s.settimeout(None); tls.gnutls_transport_set_int2(session, s.fileno(), s.fileno())
assert tls.gnutls_handshake(session) == 0
assert tls.gnutls_alert_send(session, 2, 48) == 0
rest(s); s.close()
";
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        let outcome = lab.sandbox(&policy).at_origin(HOST).quiet_log().python(&program(HOST, way));
        outcome.success();
        let alert = Some("unknown_ca".to_owned());
        assert_eq!(records(&outcome), [("certificate_rejected".to_owned(), alert)]);
        let log = outcome.err();
        let warned = |line: &&str| line.contains("WARN") && line.contains(HOST);
        assert_eq!(log.lines().filter(warned).count(), 1, "{log}");
    });
}

#[test]
fn a_client_that_sends_a_request_causes_no_warning() {
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        let script = format!(
            "curl -sS -o /dev/null https://{HOST}/ && wget -q -O /dev/null https://{HOST}/"
        );
        let outcome = lab.sandbox(&policy).at_origin(HOST).quiet_log().shell(&script);
        outcome.success();
        assert!(!outcome.err().contains("WARN"), "{}", outcome.err());
    });
}
