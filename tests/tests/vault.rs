//! Keys that OpenBao keeps or makes, asked of a real server: KV of both versions, secrets with a
//! lease, tokens and applications, and each way in which it gives none.

use std::process::Command;
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::openbao::{Broker, OpenBao};
use interceptor_tests::people::out;
use interceptor_tests::running::Running;
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const WITHIN: Duration = Duration::from_secs(120);

/// A source of this server, by a token.
fn source(server: &OpenBao, path: &str, token: &str) -> Value {
    json!({ "vault": {
        "address": server.url(), "path": path, "field": "key", "auth": { "token": token },
        "ttl_seconds": 2,
    } })
}

/// The same as an application.
fn as_application(server: &OpenBao, path: &str, role: &str, secret_id: &str) -> Value {
    let mut key = source(server, path, "");
    let approle = json!({ "role_id": role, "secret_id": secret_id });
    key["vault"]["auth"] = json!({ "approle": approle });
    key
}

fn policy(key: &Value) -> Value {
    json!({ "network": { "allow": [HOST] },
            "credentials_v2": { "lab": { "key": key, "hosts": [HOST], "env": "LAB_API_KEY" } } })
}

/// A client that asks for what each line of its standard input names, and tells the answer.
const ASK_EACH_LINE: &str = "n=0; while read line; do n=$((n+1)); \
     curl -sS -w '%{http_code}' https://HOST/$line; echo \" asked $n\"; done";

struct Client<'lab> {
    lab: &'lab Lab,
    running: Running<'lab>,
    asked: usize,
}

impl<'lab> Client<'lab> {
    fn start(lab: &'lab Lab, key: &Value) -> Client<'lab> {
        lab.unordered();
        let script = ASK_EACH_LINE.replace("HOST", HOST);
        let sandbox = lab.sandbox(&policy(key)).trusted().at_origin(HOST).open_stdin();
        Client { lab, running: sandbox.start(&["sh", "-c", &script]), asked: 0 }
    }

    /// Asks for a path; returns the key that the origin got, if it got the request.
    fn ask(&mut self, path: &str) -> Option<String> {
        let before = self.lab.seen().len();
        self.asked += 1;
        self.running.write(format!("{path}\n").as_bytes());
        self.running.wait_for(&format!(" asked {}\n", self.asked));
        let seen = self.lab.seen();
        let key = seen.get(before)?.values("authorization").join(",");
        let key = key.strip_prefix("Bearer ").expect("a bearer token").to_owned();
        self.lab.hides(&key);
        Some(key)
    }

    /// Asks again and again, until the origin gets what is right.
    #[track_caller]
    fn ask_until(&mut self, is_right: impl Fn(Option<&str>) -> bool) -> Option<String> {
        let late = Instant::now() + WITHIN;
        loop {
            let key = self.ask("v1/again");
            if is_right(key.as_deref()) {
                return key;
            }
            assert!(Instant::now() < late, "it does not come");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn finish(self) {
        self.running.finish().success();
    }
}

/// The engine `rabbitmq` with a role whose secrets last so many seconds.
fn leasing(server: &OpenBao, broker: &Broker, (ttl, most): (u32, u32)) {
    server.set("POST", "sys/mounts/rabbitmq", &json!({ "type": "rabbitmq" }));
    let connection = json!({
        "connection_uri": broker.url(), "username": "lab", "password": "lab-password",
        "verify_connection": false,
    });
    server.set("POST", "rabbitmq/config/connection", &connection);
    server.set("POST", "rabbitmq/config/lease", &json!({ "ttl": ttl, "max_ttl": most }));
    server.set("POST", "rabbitmq/roles/agent", &json!({ "tags": "management" }));
}

fn leased(server: &OpenBao, token: &str) -> Value {
    let mut key = source(server, "rabbitmq/creds/agent", token);
    key["vault"]["field"] = json!("password");
    key
}

#[test]
fn a_key_of_kv_in_either_version_is_used_and_another_one_when_it_changes() {
    Lab::test(|lab| {
        let server = OpenBao::start(lab);
        let mount = json!({ "type": "kv", "options": { "version": "1" } });
        server.set("POST", "sys/mounts/kv1", &mount);
        server.permit("reader", &["secret/data/lab", "kv1/lab"]);
        let token = server.token(&["reader"], &json!({ "ttl": "1h" }));
        for path in ["secret/data/lab", "kv1/lab"] {
            let (first, second) = (lab.another_key(), lab.another_key());
            // A field that looks like the other version's must not mislead.
            let keep = |key: &str| {
                let secret = json!({ "key": key, "data": "x", "metadata": "y", "n": 7 });
                match path {
                    "kv1/lab" => drop(server.set("POST", path, &secret)),
                    _ => server.keep("lab", &secret),
                }
            };
            keep(&first);
            let mut client = Client::start(lab, &source(&server, path, &token));
            assert_eq!(client.ask("v1/first"), Some(first));
            keep(&second);
            client.ask_until(|key| key == Some(&second));
            client.finish();
        }
    });
}

#[test]
fn a_lease_is_renewed_and_when_it_can_be_no_longer_the_secret_is_read_anew() {
    Lab::test(|lab| {
        let (server, broker) = (OpenBao::start(lab), Broker::start());
        leasing(&server, &broker, (5, 15));
        server.permit("reader", &["rabbitmq/creds/agent"]);
        let token = server.token(&["reader"], &json!({ "period": "1h" }));
        let mut client = Client::start(lab, &leased(&server, &token));
        let first = client.ask("v1/first").unwrap();
        let leases = server.set("LIST", "sys/leases/lookup/rabbitmq/creds/agent", &json!({}));
        let lease = leases["data"]["keys"][0].as_str().unwrap().to_owned();
        let lease = json!({ "lease_id": format!("rabbitmq/creds/agent/{lease}") });
        let late = Instant::now() + WITHIN;
        loop {
            let (_, told) = server.call("PUT", "sys/leases/lookup", &lease);
            if told["data"]["last_renewal"].is_string() {
                break;
            }
            assert!(Instant::now() < late, "it is not renewed: {told}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(broker.users(), 1);
        client.ask_until(|key| key.is_some_and(|key| key != first));
        assert!(broker.users() >= 2);
        client.finish();
    });
}

#[test]
fn a_secret_whose_lease_was_revoked_is_read_anew_once_the_origin_refuses_it() {
    Lab::test(|lab| {
        let (server, broker) = (OpenBao::start(lab), Broker::start());
        leasing(&server, &broker, (3600, 7200));
        server.permit("reader", &["rabbitmq/creds/agent"]);
        let token = server.token(&["reader"], &json!({ "ttl": "1h" }));
        let mut client = Client::start(lab, &leased(&server, &token));
        let first = client.ask("v1/first").unwrap();
        server.set("PUT", "sys/leases/revoke-prefix/rabbitmq/creds", &json!({}));
        assert_eq!(client.ask("v1/same").as_deref(), Some(&*first));
        client.ask("status/401");
        client.ask_until(|key| key.is_some_and(|key| key != first));
        assert_eq!(broker.users(), 2);
        client.finish();
    });
}

#[test]
fn an_application_logs_in_once_for_all_keys_and_its_token_is_renewed() {
    Lab::test(|lab| {
        let server = OpenBao::start(lab);
        server.keep("lab", &json!({ "key": lab.key() }));
        server.permit("reader", &["secret/data/lab"]);
        // A secret id for one login, and a token that ends unless it is renewed.
        let fields = json!({ "secret_id_num_uses": 1, "token_ttl": "4s", "token_max_ttl": "1h" });
        let role = server.application("agent", &["reader"], &fields);
        let secret_id = server.secret_id("agent");
        lab.hides(&secret_id);
        let key = as_application(&server, "secret/data/lab", &role, &secret_id);
        let mut client = Client::start(lab, &key);
        assert_eq!(client.ask("v1/first").as_deref(), Some(lab.key()));
        // Each of them comes by another fetch; together they last longer than the token's first
        // life.
        for _ in 0..4 {
            let next = lab.another_key();
            server.keep("lab", &json!({ "key": next }));
            client.ask_until(|key| key == Some(&next));
        }
        // Once its token is gone, it cannot log in a second time, and says so.
        let accessors = server.set("LIST", "auth/token/accessors", &json!({}));
        for accessor in accessors["data"]["keys"].as_array().unwrap() {
            let accessor = json!({ "accessor": accessor });
            let told = server.set("POST", "auth/token/lookup-accessor", &accessor);
            if told["data"]["path"] == "auth/approle/login" {
                server.set("POST", "auth/token/revoke-accessor", &accessor);
            }
        }
        client.ask_until(|key| key.is_none());
        let outcome = client.running.finish();
        let out = outcome.success().out();
        assert!(out.contains("credential_unavailable"), "{out}");
        assert!(out.contains("the role_id or secret_id is unknown, has expired"), "{out}");
    });
}

#[test]
fn a_wrapped_secret_id_is_taken_out_once() {
    Lab::test(|lab| {
        let server = OpenBao::start(lab);
        server.keep("lab", &json!({ "key": lab.key() }));
        server.permit("reader", &["secret/data/lab"]);
        let role = server.application("agent", &["reader"], &json!({ "token_ttl": "1h" }));
        let wrapped = server.wrapped_secret_id("agent");
        lab.hides(&wrapped);
        let mut key = as_application(&server, "secret/data/lab", &role, &wrapped);
        key["vault"]["auth"]["approle"]["wrapped"] = json!(true);
        let fetch = format!("curl -sSf https://{HOST}/v1/x");
        lab.sandbox(&policy(&key)).trusted().at_origin(HOST).shell(&fetch).success();
        let bearer = format!("Bearer {}", lab.key());
        assert_eq!(lab.seen()[0].values("authorization"), [&*bearer]);
        let again = lab.sandbox(&policy(&key)).trusted().bare().at_origin(HOST).run(&["true"]);
        assert_eq!(again.code(), Some(125));
        let said = "the wrapped secret_id has expired or was used";
        assert!(again.err().contains(said), "{}", again.err());
    });
}

/// What `check` says of a credential with this key.
#[track_caller]
fn checked(lab: &Lab, key: &Value) -> Option<String> {
    let file = lab.secret_file("checked.json", &policy(key).to_string());
    let state = lab.directory().join("state");
    let typed = |words: &[&str]| {
        let mut command = Command::new(binary("interceptor"));
        command.args(words).arg(&file).env("XDG_STATE_HOME", &state).output().unwrap()
    };
    out(&typed(&["trust"]));
    let output = typed(&["check", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = told["errors"].as_array().unwrap();
    assert!(errors.len() <= 1, "{told}");
    let error = errors.first()?;
    assert!(error["path"].as_str().unwrap().starts_with("/credentials_v2/lab/key"), "{told}");
    Some(error["message"].as_str().unwrap().to_owned())
}

#[test]
fn a_server_that_gives_no_key_is_told_by_its_status_and_never_by_its_text() {
    Lab::test(|lab| {
        let server = OpenBao::start(lab);
        server.keep("lab", &json!({ "key": lab.key(), "number": 7 }));
        server.permit("reader", &["secret/data/lab", "secret/data/none"]);
        let token = server.token(&["reader"], &json!({ "ttl": "1h" }));
        let good = source(&server, "secret/data/lab", &token);
        assert_eq!(checked(lab, &good), None);
        let other = |field: &str, value: Value| {
            let mut key = good.clone();
            key["vault"][field] = value;
            key
        };
        let role = server.application("agent", &["reader"], &json!({ "token_ttl": "1h" }));
        let expired = server.token(&["reader"], &json!({ "ttl": "1h" }));
        server.set("POST", "auth/token/revoke", &json!({ "token": expired }));
        let unheard = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://{}", unheard.local_addr().unwrap());
        drop(unheard);
        let table = [
            (other("path", json!("secret/data/others")), "403 (its token may not read that path"),
            (other("path", json!("secret/data/none")), "404 (there is no secret at that path"),
            (other("field", json!("other")), "without a text in the field `other`"),
            (other("field", json!("number")), "without a text in the field `number`"),
            (other("auth", json!({ "token": expired })), "403 (its token may not"),
            (other("auth", json!({ "token": { "env": "NO_SUCH_TOKEN" } })), "is not set"),
            (
                as_application(&server, "secret/data/lab", &role, "of-nobody"),
                "(the role_id or secret_id is unknown",
            ),
            (other("address", json!(address)), "cannot be reached"),
        ];
        for (key, said) in &table {
            let message = checked(lab, key).unwrap_or_else(|| panic!("{said}: no error"));
            assert!(message.contains(said), "{said}: {message}");
            // Words of the server's own answers.
            for theirs in ["permission denied", "1 error", "invalid role", "invalid secret"] {
                assert!(!message.contains(theirs), "{message}");
            }
        }
        server.set("PUT", "sys/seal", &json!({}));
        let message = checked(lab, &good).unwrap();
        assert!(message.contains("503 (it is sealed)"), "{message}");
    });
}

#[test]
fn a_server_is_verified_by_its_own_ca_alone_where_one_is_named() {
    Lab::test(|lab| {
        let server = OpenBao::start_tls(lab);
        server.keep("lab", &json!({ "key": lab.key() }));
        server.permit("reader", &["secret/data/lab"]);
        let token = server.token(&["reader"], &json!({ "ttl": "1h" }));
        let mut key = source(&server, "secret/data/lab", &token);
        let untrusted = checked(lab, &key).unwrap();
        assert!(untrusted.contains("a certificate that is not trusted"), "{untrusted}");
        key["vault"]["ca"] = json!(lab.directory().join("upstream-ca.pem"));
        let other = checked(lab, &key).unwrap();
        assert!(other.contains("a certificate that is not trusted"), "{other}");
        key["vault"]["ca"] = json!(server.ca());
        assert_eq!(checked(lab, &key), None);
        let fetch = format!("curl -sSf https://{HOST}/v1/x");
        lab.sandbox(&policy(&key)).trusted().at_origin(HOST).shell(&fetch).success();
        let bearer = format!("Bearer {}", lab.key());
        assert_eq!(lab.seen()[0].values("authorization"), [&*bearer]);
    });
}
