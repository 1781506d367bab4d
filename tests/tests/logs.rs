//! The log: what it tells of a request, in which form, and what it never tells (ATTACKS O1).

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

#[test]
fn o1_no_key_and_no_query_is_in_a_log_of_everything() {
    for (protocol, format) in [("http/1.1", "text"), ("h2", "text"), ("h2", "json")] {
        Lab::test(|lab| {
            lab.unordered();
            // The canary oracle looks for the key in all that is written; the key goes in a header and in a query.
            let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
            let query = lab.another_key();
            policy["network"]["allow"] = json!([HOST, "query.example.test"]);
            policy["credentials_v2"]["query"] = json!({
                "key": { "file": lab.secret_file("query-key", &query) }, "hosts": ["query.example.test"],
                "env": "QUERY_KEY", "inject": { "query": "key" },
            });
            let sandbox = |everything: &str| {
                let sandbox = lab.sandbox(&policy).at_origin(HOST).at_origin("query.example.test");
                sandbox.env("RUST_LOG", everything).option("--log-format").option(format)
            };
            let everything = "trace,hyper=trace,h2=trace,rustls=trace,hickory_proto=trace,tokio_util=trace";
            let plan = Plan::https(HOST, protocol)
                .ask_with("GET", "/echo?token=hidden-in-query", &[("x-secret", "hidden-in-head")], "")
                .ask_with("POST", "/echo", &[("authorization", "Bearer $LAB_API_KEY")], "hidden-in-body");
            let (reports, outcome) = sandbox(everything).fetch_outcome(&plan);
            assert!(reports[0].answers.iter().all(|answer| answer.status == 200), "{reports:?}");
            let log = outcome.err();
            assert!(log.contains("interceptor::"), "nothing was logged: {log}");
            for hidden in ["hidden-in-query", "hidden-in-head", "hidden-in-body"] {
                assert!(!log.contains(hidden), "{hidden} is in the log");
            }
            let plan = Plan::https("query.example.test", protocol).ask("GET", "/echo?a=hidden-in-query");
            let (reports, outcome) = sandbox(everything).fetch_outcome(&plan);
            assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
            assert!(!outcome.err().contains("hidden-in-query"));
            assert!(lab.seen().iter().any(|seen| seen.query.as_deref().is_some_and(|q| q.contains(&query))));
        });
    }
}

#[test]
fn a_request_has_one_id_in_the_answer_the_record_and_the_log() {
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/allowed"] }]));
        let sandbox = lab.sandbox(&policy).at_origin(HOST);
        let sandbox = sandbox.env("RUST_LOG", "interceptor=info").option("--log-format=json");
        let (reports, outcome) = sandbox.fetch_outcome(&Plan::https(HOST, "h2").ask("DELETE", "/denied?q=1"));
        let refusal = reports[0].answers[0].refusal();
        let id = refusal.error["request_id"].as_str().unwrap();
        assert_eq!(outcome.one_denied("endpoint_denied").id.as_deref(), Some(id));
        let lines: Vec<Value> =
            outcome.err().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let line = lines.iter().find(|line| line["span"]["id"] == id);
        let line = line.unwrap_or_else(|| panic!("no line of {id}: {}", outcome.err()));
        assert_eq!((&line["decision"], &line["type"]), (&json!("deny"), &json!("endpoint_denied")), "{line}");
        assert!(line["path"].as_str().unwrap().contains("/denied") && !line.to_string().contains("q=1"));
    });
}
