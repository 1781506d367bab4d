//! The log: its lines about a request, its formats, and what it never contains (attack O1).

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

#[test]
fn o1_no_key_and_no_query_is_in_a_log_of_everything() {
    for (protocol, format) in [("http/1.1", "text"), ("h2", "text"), ("h2", "json")] {
        Lab::test(|lab| {
            lab.unordered();
            // The canary oracle looks for the key in all output. The key goes into a header and a
            // query.
            let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
            let query = lab.another_key();
            policy["network"]["allow"] = json!([HOST, "query.example.test"]);
            policy["credentials_v2"]["query"] = json!({
                "key": { "file": lab.secret_file("query-key", &query) },
                "hosts": ["query.example.test"], "env": "QUERY_KEY", "inject": { "query": "key" },
            });
            let sandbox = |everything: &str| {
                let sandbox = lab.sandbox(&policy).at_origin(HOST).at_origin("query.example.test");
                sandbox.env("RUST_LOG", everything).option("--log-format").option(format)
            };
            let everything =
                "trace,hyper=trace,h2=trace,rustls=trace,hickory_proto=trace,tokio_util=trace";
            let plan = Plan::https(HOST, protocol)
                .ask_with(
                    "GET",
                    "/echo?token=hidden-in-query",
                    &[("x-secret", "hidden-in-head")],
                    "",
                )
                .ask_with(
                    "POST",
                    "/echo",
                    &[("authorization", "Bearer $LAB_API_KEY")],
                    "hidden-in-body",
                );
            let (reports, outcome) = sandbox(everything).fetch_outcome(&plan);
            assert!(reports[0].answers.iter().all(|answer| answer.status == 200), "{reports:?}");
            let log = outcome.err();
            assert!(log.contains("interceptor::"), "nothing was logged: {log}");
            for hidden in ["hidden-in-query", "hidden-in-head", "hidden-in-body"] {
                assert!(!log.contains(hidden), "{hidden} is in the log");
            }
            let plan =
                Plan::https("query.example.test", protocol).ask("GET", "/echo?a=hidden-in-query");
            let (reports, outcome) = sandbox(everything).fetch_outcome(&plan);
            assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
            assert!(!outcome.err().contains("hidden-in-query"));
            assert!(
                lab.seen()
                    .iter()
                    .any(|seen| seen.query.as_deref().is_some_and(|q| q.contains(&query)))
            );
        });
    }
}

#[test]
fn a_request_has_one_id_in_the_answer_the_record_and_the_log() {
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/allowed"] }]));
        let sandbox = lab.sandbox(&policy).at_origin(HOST);
        let sandbox = sandbox.env("RUST_LOG", "interceptor=info").option("--log-format=json");
        let (reports, outcome) =
            sandbox.fetch_outcome(&Plan::https(HOST, "h2").ask("DELETE", "/denied?q=1"));
        let refusal = reports[0].answers[0].refusal();
        let id = refusal.error["request_id"].as_str().unwrap();
        assert_eq!(outcome.one_denied("endpoint_denied").id.as_deref(), Some(id));
        let lines: Vec<Value> =
            outcome.err().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let line = lines.iter().find(|line| line["span"]["id"] == id);
        let line = line.unwrap_or_else(|| panic!("no line of {id}: {}", outcome.err()));
        assert_eq!(
            (&line["decision"], &line["type"]),
            (&json!("deny"), &json!("endpoint_denied")),
            "{line}"
        );
        assert!(
            line["path"].as_str().unwrap().contains("/denied") && !line.to_string().contains("q=1")
        );
    });
}

#[test]
fn the_text_log_has_one_line_per_request_with_its_outcome() {
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/allowed"] }]));
        let sandbox = lab.sandbox(&policy).at_origin(HOST).env("RUST_LOG", "interceptor=info");
        let plan =
            Plan::https(HOST, "http/1.1").ask("GET", "/allowed?q=1").ask("DELETE", "/denied");
        let log = sandbox.fetch_outcome(&plan).1.err();
        let line = |text: &str| {
            log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{log}"))
        };
        let allowed = line(&format!("allowed GET {HOST}/allowed 200 "));
        assert!(allowed.ends_with("ms") && !allowed.contains("decision"), "{allowed}");
        let refused = line(&format!("refused DELETE {HOST}/denied 403 "));
        assert!(refused.ends_with("ms: endpoint_denied"), "{refused}");
        assert!(!log.contains("Some(") && !log.contains("None"), "{log}");
    });
}

/// Every line: each is one JSON object with the common fields.
fn json_lines(text: &str) -> Vec<Value> {
    let read = |line: &str| -> Value {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for member in ["timestamp", "level", "message", "target"] {
            assert!(value[member].is_string(), "no {member}: {line}");
        }
        let time = value["timestamp"].as_str().unwrap().replace(|c: char| c.is_ascii_digit(), "9");
        assert_eq!(time, "9999-99-99T99:99:99.999999Z");
        value
    };
    text.lines().map(read).collect()
}

#[test]
fn with_json_every_line_is_an_object_from_the_first_warning_to_the_last_error() {
    Lab::test(|lab| {
        // There are warnings about a credential that permits nothing and about a key with a second
        // name.
        let mut policy = lab.governed(HOST, json!([]));
        policy["network"]["allow"] = json!([HOST, "10.1.2.3/8"]);
        let linked = lab.secret_file("linked-key", &lab.another_key());
        std::fs::hard_link(&linked, lab.directory().join("other-name")).unwrap();
        policy["credentials_v2"]["linked"] = json!({
            "key": { "file": linked }, "hosts": ["linked.example.test"], "env": "LINKED_KEY",
        });
        let plan = Plan::https(HOST, "h2").ask("GET", "/denied");
        let outcome = lab
            .sandbox(&policy)
            .at_origin(HOST)
            .quiet_log()
            .option("--log-format=json")
            .option("-v")
            .fetch_outcome(&plan)
            .1;
        let lines = json_lines(&outcome.err());
        let warned = |text: &str| {
            lines.iter().any(|line| {
                line["level"] == "WARN" && line["message"].as_str().unwrap().contains(text)
            })
        };
        assert!(warned("hard link") && warned("/network/allow/1"), "{}", outcome.err());
        assert!(lines.iter().any(|line| line["decision"] == "deny" && line["host"] == HOST));
        // Failures before, in and after the sandbox.
        for (option, command) in
            [("--net=isolated", "/nonexistent"), ("--upstream-ca=/nonexistent", "true")]
        {
            let outcome = lab
                .sandbox(&policy)
                .quiet_log()
                .option("--log-format=json")
                .option(option)
                .bare()
                .run(&[command]);
            assert!(!outcome.status.success());
            let lines = json_lines(&outcome.err());
            let errors = lines.iter().filter(|line| line["level"] == "ERROR").count();
            assert_eq!(errors, 1, "{}", outcome.err());
        }
    });
}
