//! The lab itself: origins record what they parsed, and oracles object when they should.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::{Answer, Plan, Report};
use interceptor_tests::daemon::until;
use interceptor_tests::origin::body::pattern_sha256;
use interceptor_tests::sandbox::binary;
use serde_json::json;

/// Runs a plan from the host itself, straight to the lab's origin.
fn fetch(lab: &Lab, mut plan: Plan) -> Vec<Report> {
    let to = if plan.sni.is_some() { lab.origin() } else { lab.plain() };
    plan.connect = to.to_string();
    let mut client = Command::new(binary("lab-client"))
        .arg("fetch")
        .env("SSL_CERT_FILE", lab.directory().join("upstream-ca.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    client
        .stdin
        .take()
        .unwrap()
        .write_all(serde_json::to_string(&plan).unwrap().as_bytes())
        .unwrap();
    let output = client.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn answers(lab: &Lab, plan: Plan) -> Vec<Answer> {
    let mut reports = fetch(lab, plan);
    assert_eq!(reports[0].error, None);
    reports.remove(0).answers
}

#[test]
fn an_origin_answers_and_records_over_every_protocol() {
    let lab = Lab::new(&["h2", "http/1.1"]);
    for plan in
        [Plan::https("a.test", "h2"), Plan::https("a.test", "http/1.1"), Plan::http("a.test")]
    {
        let before = lab.seen().len();
        let plan = plan
            .ask("GET", "/plain?q=1")
            .ask_with("POST", "/x/lab/upload", &[("x-a", "b")], "hello")
            .ask("GET", "/bytes/1000000")
            .ask("GET", "/trailers")
            .ask("GET", "/status/418");
        let protocol = plan.protocol.clone();
        let answers = answers(&lab, plan);
        assert_eq!(
            answers.iter().map(|answer| answer.status).collect::<Vec<_>>(),
            [200, 200, 200, 200, 418]
        );
        assert_eq!(answers[2].sha256, pattern_sha256(1_000_000));
        if protocol == "h2" {
            assert_eq!(answers[3].trailers[0], ("grpc-status".into(), "0".into()));
        }
        let seen = &lab.seen()[before..];
        assert_eq!(seen.len(), 5);
        let upload = seen.iter().find(|seen| seen.method == "POST").unwrap();
        assert_eq!((upload.host.as_str(), upload.path.as_str()), ("a.test", "/x/lab/upload"));
        assert_eq!((upload.body_bytes, upload.values("x-a")), (Some(5), vec!["b"]));
    }
}

#[test]
fn an_echo_reflects_the_head_in_every_place_and_encoding() {
    let lab = Lab::new(&["h2", "http/1.1"]);
    let auth = [("authorization", "Bearer abc")];
    let mut plan = Plan::https("a.test", "h2").ask_with("POST", "/echo", &auth, "body");
    for place in ["header", "trailer", "location", "bytes"] {
        plan = plan.ask_with("GET", &format!("/echo?in={place}"), &auth, "");
    }
    for encoding in ["gzip", "br", "deflate", "zstd"] {
        plan = plan.ask_with("GET", &format!("/echo?encoding={encoding}"), &auth, "");
    }
    let answers = answers(&lab, plan);
    assert!(
        answers[0].body.contains("authorization: Bearer abc\n")
            && answers[0].body.ends_with("\nbody")
    );
    assert_eq!(answers[1].header("x-echo"), Some("authorization: Bearer abc"));
    assert_eq!(
        answers[2].trailers,
        [("x-echo".to_owned(), "authorization: Bearer abc".to_owned())]
    );
    assert_eq!(
        (answers[3].status, answers[3].header("location")),
        (302, Some("/next?key=authorizationBearerabc"))
    );
    assert!(answers[4].body.contains("authorization: Bearer abc\n"));
    for (answer, encoding) in answers[5..].iter().zip(["gzip", "br", "deflate", "zstd"]) {
        assert_eq!(answer.header("content-encoding"), Some(encoding));
        assert!(answer.body_bytes > 0 && !answer.body.contains("Bearer"), "{answer:?}");
    }
}

#[test]
fn a_client_that_goes_away_is_noticed_and_a_cut_body_is_seen() {
    let lab = Lab::new(&["h2", "http/1.1"]);
    let cut = answers(&lab, Plan::https("a.test", "http/1.1").ask("GET", "/cut/1000"));
    assert!(cut[0].error.is_some() && cut[0].body_bytes == 1000, "{cut:?}");
    let mut stream = TcpStream::connect(lab.plain()).unwrap();
    stream.write_all(b"GET /drip HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    // The answer has started.
    std::io::Read::read_exact(&mut stream, &mut [0; 1]).unwrap();
    drop(stream);
    let vanished = || lab.shared().vanished.load(std::sync::atomic::Ordering::SeqCst) == 1;
    assert!(until(vanished), "the origin never noticed");
}

#[test]
fn the_reach_oracle_objects_to_a_connection_and_to_a_datagram() {
    for udp in [false, true] {
        let lab = Lab::new(&["http/1.1"]);
        assert_eq!(lab.judge(), Vec::<String>::new());
        if udp {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", lab.forbidden()).unwrap();
        } else {
            TcpStream::connect(lab.forbidden()).unwrap().write_all(b"hello").unwrap();
        }
        assert!(lab.judge()[0].starts_with("reach: "), "udp {udp}: {:?}", lab.judge());
    }
}

#[test]
fn the_canary_oracle_objects_to_a_key_in_a_file_the_sandbox_wrote() {
    let lab = Lab::new(&["http/1.1"]);
    std::fs::write(lab.work().join("loot"), format!("x{}", lab.key())).unwrap();
    let problems = lab.judge();
    assert!(problems.len() == 1 && problems[0].starts_with("canary: in "), "{problems:?}");
    assert!(!problems[0].contains(lab.key()));
}

#[test]
fn the_canary_oracle_objects_to_a_key_in_a_link_in_a_name_and_to_what_it_cannot_read() {
    let lab = Lab::new(&["http/1.1"]);
    std::os::unix::fs::symlink(lab.key(), lab.work().join("link")).unwrap();
    assert!(lab.judge()[0].starts_with("canary: in link: "), "{:?}", lab.judge());
    std::fs::remove_file(lab.work().join("link")).unwrap();
    std::fs::create_dir(lab.work().join(lab.key())).unwrap();
    assert!(lab.judge()[0].starts_with("canary: in the name of a file: "), "{:?}", lab.judge());
    std::fs::remove_dir(lab.work().join(lab.key())).unwrap();
    // Root can read a file of any mode: this one opens, but reads at its start fail.
    let unreadable = lab.work().join("unreadable").display().to_string();
    std::fs::write(&unreadable, "").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success());
    };
    run("mount", &["--bind", "/proc/1/mem", &unreadable]);
    let problems = lab.judge();
    run("umount", &[&unreadable]);
    assert!(problems[0].starts_with("canary: unreadable cannot be read: "), "{problems:?}");
}

#[test]
fn the_reach_oracle_objects_to_a_name_that_no_policy_permits() {
    let lab = Lab::new(&["http/1.1"]);
    let policy =
        json!({ "network": { "allow": ["a.test", "*.wide.test"], "deny": ["evil.test"] } });
    lab.sandbox(&policy).shell("true").success();
    for name in ["a.test", "b.wide.test", "evil.test"] {
        fetch(&lab, Plan::https(name, "http/1.1"));
    }
    assert_eq!(
        lab.judge(),
        ["reach: an origin was asked for \"evil.test\", which no policy permits"]
    );
}

#[test]
fn a_command_that_fails_is_swept_too() {
    let lab = Lab::new(&["http/1.1"]);
    let outcome = lab.sandbox(&json!({})).shell("exit 3");
    assert_eq!((outcome.code(), lab.judge()), (Some(3), vec![]));
    let sweep = std::fs::read_dir(lab.work()).unwrap().map(|entry| entry.unwrap().path());
    let is_sweep = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("sweep-") && path.extension().is_none()
    };
    let sweep: Vec<_> = sweep.filter(is_sweep).collect();
    assert_eq!(sweep.len(), 1, "{sweep:?}");
    std::fs::write(&sweep[0], "\n== /proc/net/dev\n eth0: 1\n").unwrap();
    assert!(lab.judge()[0].contains("network device \"eth0\""), "{:?}", lab.judge());
    std::fs::remove_file(&sweep[0]).unwrap();
    assert!(lab.judge()[0].contains("is missing"), "{:?}", lab.judge());
}

#[test]
fn the_agreement_oracle_objects_to_a_request_that_no_record_allowed() {
    let lab = Lab::new(&["h2", "http/1.1"]);
    answers(&lab, Plan::https("a.test", "h2").ask("GET", "/unrecorded"));
    let problems = lab.judge();
    assert!(problems.len() == 1 && problems[0].contains("GET a.test/unrecorded"), "{problems:?}");
}

#[test]
fn the_name_server_answers_from_its_table_and_logs_every_question() {
    let lab = Lab::new(&["http/1.1"]);
    let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let server = lab.names(&[("a.test", &[&[one], &[two]])]);
    let ask = |labels: &[u8]| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(labels);
        query.extend([0, 0, 1, 0, 1]);
        socket.send_to(&query, server.address()).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    };
    assert!(ask(b"\x01A\x04test").ends_with(&[0, 4, 192, 0, 2, 1]));
    assert!(ask(b"\x01a\x04test").ends_with(&[0, 4, 192, 0, 2, 2]));
    assert_eq!(ask(b"\x01b\x04test")[3] & 0x0f, 3, "NXDOMAIN");
    assert_eq!(server.asked(), ["a.test", "a.test", "b.test"]);
}
