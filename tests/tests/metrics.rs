//! What the metrics count, and that a sandbox cannot increase their cardinality.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use interceptor::audit::Audit;
use interceptor::metrics::Metrics;
use interceptor_tests::Lab;
use interceptor_tests::inprocess::{Served, ask, client, connect, runtime};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

const HOST: &str = "api.example.test";

/// The series of a text: names and labels without their values.
fn series(metrics: &Metrics) -> BTreeSet<String> {
    let text = metrics.encode();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series: Vec<_> =
        lines.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect();
    let unique: BTreeSet<_> = series.iter().cloned().collect();
    assert_eq!(unique.len(), series.len(), "a series stands there twice: {text}");
    unique
}

/// The value of one series.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

/// Waits for a value that is counted at the end of something.
async fn reaches(metrics: &Metrics, series: &str, wanted: f64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while value(metrics, series) != Some(wanted) {
        assert!(Instant::now() < deadline, "{series} is not {wanted}: {}", metrics.encode());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A test whose product runs in its own process and writes no audit file.
fn in_process(body: impl AsyncFnOnce(&Lab)) {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        lab.handle().block_on(body(lab));
    });
}

#[test]
fn what_happens_is_counted_for_its_sandbox_and_forgotten_with_it() {
    in_process(async |lab| {
        let runtime = runtime(lab, Audit::discard().unwrap(), &[HOST]);
        let metrics = runtime.metrics();
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/bytes"] }]));
        let one = Served::start(&runtime, "one", &policy);
        let two = Served::start(&runtime, "two", &policy);
        assert_eq!(value(metrics, "interceptor_sandboxes"), Some(2.0));

        let mut sender = client(connect(one.tls, HOST, one.trust()).await.unwrap()).await.unwrap();
        for _ in 0..3 {
            let answer = ask(&mut sender, "GET", HOST, "/bytes/1000").await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.body().len()), (200, 1000));
        }
        let answer = ask(&mut sender, "DELETE", HOST, "/bytes/1000").await.unwrap();
        assert_eq!(answer.status(), 403);
        assert_eq!(value(metrics, r#"interceptor_connections_open{sandbox="one"}"#), Some(1.0));
        let allowed = r#"interceptor_requests_total{sandbox="one",decision="allow",type="none"}"#;
        reaches(metrics, allowed, 3.0).await;
        let denied =
            r#"interceptor_requests_total{sandbox="one",decision="deny",type="endpoint_denied"}"#;
        reaches(metrics, denied, 1.0).await;
        reaches(metrics, r#"interceptor_pool_idle{sandbox="one"}"#, 1.0).await;
        for (series, wanted) in [
            (r#"interceptor_request_added_seconds_count{sandbox="one"}"#, 3.0),
            (r#"interceptor_request_added_seconds_bucket{le="+Inf",sandbox="one"}"#, 3.0),
            (r#"interceptor_tls_handshakes_total{sandbox="one",side="sandbox",outcome="ok"}"#, 1.0),
            (r#"interceptor_tls_handshakes_total{sandbox="one",side="origin",outcome="ok"}"#, 1.0),
            (r#"interceptor_certificate_mints_total{sandbox="one",outcome="minted"}"#, 1.0),
            (r#"interceptor_pool_opened_total{sandbox="one"}"#, 1.0),
            (r#"interceptor_pool_reused_total{sandbox="one"}"#, 2.0),
            (r#"interceptor_requests_open{sandbox="one"}"#, 0.0),
            (r#"interceptor_requests_open{sandbox="two"}"#, 0.0),
            (r#"interceptor_pool_opened_total{sandbox="two"}"#, 0.0),
        ] {
            assert_eq!(value(metrics, series), Some(wanted), "{series}: {}", metrics.encode());
        }
        let down = value(metrics, r#"interceptor_bytes_down_total{sandbox="one"}"#).unwrap();
        assert!(down >= 3000.0, "{down}");
        let added =
            value(metrics, r#"interceptor_request_added_seconds_sum{sandbox="one"}"#).unwrap();
        assert!(added > 0.0 && added < 10.0, "{added}");

        drop(sender);
        reaches(metrics, r#"interceptor_connections_open{sandbox="one"}"#, 0.0).await;
        one.serving.shutdown().await;
        assert!(
            series(metrics).iter().all(|series| !series.contains("\"one\"")),
            "{}",
            metrics.encode()
        );
        assert_eq!(value(metrics, "interceptor_sandboxes"), Some(1.0));
        drop(two);
        assert_eq!(value(metrics, "interceptor_sandboxes"), Some(0.0));
    });
}

/// Hosts, methods, paths, server names and looked-up names that nobody has seen before.
async fn flood(served: &Served, round: usize) -> anyhow::Result<()> {
    for number in 0..40 {
        let name = format!("n{round}-{number}.example.test");
        if let Ok(stream) = connect(served.tls, &name, served.trust()).await {
            let mut sender = client(stream).await?;
            let _ =
                ask(&mut sender, &format!("METHOD{round}X{number}"), &name, &format!("/{number}"))
                    .await;
            // The Host differs from the server name.
            let _ = ask(&mut sender, "GET", &format!("other{number}.test"), "/").await;
        }
        let mut sender = client(TcpStream::connect(served.plain).await?).await?;
        let _ = ask(&mut sender, "BREW", &format!("plain{round}-{number}.test"), "/").await;
        let mut raw = TcpStream::connect(served.tls).await?;
        raw.write_all(format!("\x01{number} neither TLS nor HTTP {round}\r\n").as_bytes()).await?;
        let mut query = vec![0, number as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
        query.extend(name.replace('.', "-").as_bytes());
        query.extend([0, 0, 1, 0, 1]);
        UdpSocket::bind("127.0.0.1:0").await?.send_to(&query, served.dns).await?;
    }
    Ok(())
}

#[test]
fn a_flood_of_names_and_methods_makes_no_series() {
    in_process(async |lab| {
        let runtime = runtime(lab, Audit::discard().unwrap(), &[HOST]);
        let policy = json!({ "network": { "allow": [HOST] }, "limits": { "mints_burst": 60 } });
        let served = Served::start(&runtime, "flooded", &policy);
        let metrics = runtime.metrics();
        flood(&served, 0).await.unwrap();
        let queries = r#"interceptor_dns_queries_total{sandbox="flooded"}"#;
        reaches(metrics, queries, 40.0).await;
        let before = series(metrics);
        assert!(before.len() < 150, "{before:#?}");
        for round in 1..5 {
            flood(&served, round).await.unwrap();
        }
        reaches(metrics, queries, 200.0).await;
        let after = series(metrics);
        // New kinds of refusals may add series, but no more than there are types and decisions.
        let grown: Vec<_> = after.difference(&before).collect();
        assert!(
            grown.iter().all(|series| series.contains("type=") && series.contains("_total{")),
            "{grown:#?}"
        );
        assert!(after.len() <= before.len() + 8, "{grown:#?}");
        let text = metrics.encode();
        for word in ["example.test", "METHOD", "BREW", "plain"] {
            assert!(!text.contains(word), "{word} is in {text}");
        }
        let limited = value(
            metrics,
            r#"interceptor_certificate_mints_total{sandbox="flooded",outcome="limited"}"#,
        );
        assert!(limited > Some(0.0), "{text}");
    });
}

#[test]
fn a_sandbox_cannot_break_the_text_by_its_name() {
    in_process(async |lab| {
        let runtime = runtime(lab, Audit::discard().unwrap(), &[]);
        let name = "a\"} 1\ninterceptor_forged 1\n{x=\"\\";
        let _served = Served::start(&runtime, name, &json!({}));
        let text = runtime.metrics().encode();
        assert!(!text.lines().any(|line| line.starts_with("interceptor_forged")), "{text}");
    });
}
