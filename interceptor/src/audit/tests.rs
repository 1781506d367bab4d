use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use interceptor_policy::Reason;
use nix::mount::{MntFlags, MsFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use super::*;

fn denied(sandbox: &Arc<str>, path: &str) -> Record {
    Record::new(sandbox, RequestId::new(), Kind::Request, Verdict::Deny)
        .reason(Reason::HostDenied)
        .host("evil.example")
        .path(path)
}

/// Every line of the file, each of which must be one whole JSON object.
fn lines(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {:?}", text.lines().last());
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn read(path: &Path) -> Vec<Value> {
    lines(&fs::read_to_string(path).unwrap())
}

fn count(lines: &[Value]) -> (u64, u64) {
    let dropped = lines.iter().filter(|line| line["type"] == "audit_dropped");
    let written = lines.iter().filter(|line| line["kind"] == "request").count();
    (written as u64, dropped.map(|line| line["dropped"].as_u64().unwrap()).sum())
}

#[tokio::test]
async fn every_record_is_in_the_file_in_order_after_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::to_file(&path).unwrap();
    let sandbox: Arc<str> = "s1".into();
    for number in 0..5000 {
        audit.emit(denied(&sandbox, &format!("/{number}")));
    }
    audit.shutdown().await;
    audit.emit(denied(&sandbox, "/too-late"));
    let lines = read(&path);
    let paths: Vec<_> =
        lines.iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(paths, (0..5000).map(|number| format!("/{number}")).collect::<Vec<_>>());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_file_is_complete_when_the_last_handle_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, "{\"kind\":\"before\"}\n").unwrap();
    let audit = Audit::to_file(&path).unwrap();
    let other = audit.clone();
    audit.emit(denied(&"s1".into(), "/1"));
    drop(audit);
    other.emit(denied(&"s1".into(), "/2"));
    drop(other);
    let lines = read(&path);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["kind"], "before");
    assert_eq!(lines[2]["path"], "/2");
}

#[tokio::test]
async fn a_rotated_file_is_opened_anew_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
    let audit = Audit::to_file(&path).unwrap();
    let sandbox: Arc<str> = "s1".into();
    audit.emit(denied(&sandbox, "/1"));
    audit.flush().await;
    fs::rename(&path, &rotated).unwrap();
    audit.emit(denied(&sandbox, "/2"));
    audit.flush().await;
    audit.reopen();
    audit.emit(denied(&sandbox, "/3"));
    audit.flush().await;
    assert_eq!(read(&rotated).len(), 2);
    assert_eq!(read(&path)[0]["path"], "/3");
    // A path that cannot be opened keeps the file that is.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    audit.reopen();
    audit.emit(denied(&sandbox, "/4"));
    audit.shutdown().await;
}

#[tokio::test]
async fn a_folder_that_does_not_exist_is_named_in_the_error() {
    let error = Audit::to_file("/nonexistent/audit.jsonl").unwrap_err().to_string();
    assert!(error.contains("/nonexistent/audit.jsonl"), "{error}");
}

/// Waits until a pipe takes no more, so that its writer is stuck.
fn wait_until_full(pipe: &std::io::PipeWriter) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let full = || {
        let mut watched = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        poll(&mut watched, PollTimeout::ZERO).unwrap() == 0
    };
    while !full() {
        assert!(Instant::now() < deadline, "the pipe is never full");
        std::thread::yield_now();
    }
}

/// A pipe that nobody reads stands for a slow reader: once it is full the writer is stuck, and
/// traffic must not be.
#[test]
fn x7_a_slow_reader_blocks_nobody_and_every_lost_record_is_counted() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let watched = writer.try_clone().unwrap();
    let options = AuditOptions { records_per_sandbox: 1000, ..AuditOptions::default() };
    let audit = Audit::to_pipe(writer, options).unwrap();
    let (loud, quiet): (Arc<str>, Arc<str>) = ("loud".into(), "quiet".into());
    for number in 0..2000 {
        audit.emit(denied(&loud, &format!("/{number}")));
    }
    wait_until_full(&watched);
    let total = 50_000;
    let start = Instant::now();
    for number in 2000..total {
        audit.emit(denied(&loud, &format!("/{number}")));
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(60), "emitting waited for the reader: {took:?}");
    for number in 0..10 {
        audit.emit(denied(&quiet, &format!("/{number}")));
    }
    audit.emit(Record::lifecycle(&"end".into(), "end"));
    let text = std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let (mut text, mut piece) = (Vec::new(), vec![0; 65_536]);
            while !String::from_utf8_lossy(&text).contains("\"sandbox\":\"end\"")
                || !text.ends_with(b"\n")
            {
                let count = reader.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..count]);
            }
            // The report of what was lost follows the last record.
            while !String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..])
                .contains("audit_dropped")
            {
                let count = reader.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..count]);
            }
            text
        });
        reading.join().unwrap()
    });
    let lines = lines(&String::from_utf8(text).unwrap());
    let (written, dropped) = count(&lines);
    assert!(dropped > 0, "nothing was dropped, the test shows nothing");
    assert_eq!(written + dropped, total + 10);
    // The quiet sandbox lost nothing to the loud one.
    assert_eq!(lines.iter().filter(|line| line["sandbox"] == "quiet").count(), 10);
    assert!(lines.iter().all(|line| line["type"] != "audit_dropped" || line["sandbox"] == "loud"));
}

/// A small tmpfs of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        nix::mount::mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mounting a tmpfs (this test needs root)");
        SmallDisk(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), MntFlags::MNT_DETACH).expect("unmounting the tmpfs");
    }
}

#[tokio::test]
async fn x7_a_full_disk_stops_no_traffic_breaks_no_line_and_the_loss_is_reported() {
    let disk = SmallDisk::new("64k");
    let path = disk.0.path().join("audit.jsonl");
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![b'x'; 32 * 1024]).unwrap();
    let audit = Audit::to_file(&path).unwrap();
    let sandboxes: [Arc<str>; 2] = ["s0".into(), "s1".into()];
    let total = 2000;
    let start = Instant::now();
    for number in 0..total {
        audit.emit(denied(&sandboxes[number % 2], &format!("/{number}")));
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    audit.flush().await;
    let (written, dropped) = count(&read(&path));
    assert!(
        written > 0 && written < total as u64 && dropped == 0,
        "written {written}, dropped {dropped}"
    );
    // Room again: the gap is reported, without anybody emitting, and records flow.
    fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(&read(&path)).1 == 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    audit.emit(denied(&sandboxes[0], "/after"));
    audit.shutdown().await;
    let lines = read(&path);
    let (written, dropped) = count(&lines);
    assert_eq!(written + dropped, total as u64 + 1);
    assert_eq!(lines.last().unwrap()["path"], "/after");
    let reported: HashMap<&str, u64> = lines
        .iter()
        .filter(|line| line["type"] == "audit_dropped")
        .map(|line| (line["sandbox"].as_str().unwrap(), line["dropped"].as_u64().unwrap()))
        .collect();
    assert_eq!(reported.len(), 2, "{reported:?}");
}

#[tokio::test]
async fn x7_a_chain_on_a_full_disk_stays_whole_and_the_loss_is_in_it() {
    let disk = SmallDisk::new("64k");
    let path = disk.0.path().join("audit.jsonl");
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![b'x'; 40 * 1024]).unwrap();
    let key = ChainKey::new(&[7; 32]).unwrap();
    let chain = ChainOptions { key: key.clone(), wait: false };
    let audit = Audit::to_file_chained(&path, AuditOptions::default(), chain).unwrap();
    let sandbox: Arc<str> = "s0".into();
    let total = 500;
    for number in 0..total {
        audit.emit(denied(&sandbox, &format!("/{number}")));
    }
    audit.flush().await;
    fs::remove_file(&ballast).unwrap();
    audit.emit(denied(&sandbox, "/after"));
    audit.shutdown().await;
    let (written, dropped) = count(&read(&path));
    assert!(dropped > 0, "nothing was dropped, the test shows nothing");
    assert_eq!(written + dropped, total + 1);
    let mut verifier = ChainVerifier::new(key);
    for line in fs::read(&path).unwrap().split_inclusive(|&byte| byte == b'\n') {
        verifier.line(line).unwrap_or_else(|fault| panic!("line {} {}", fault.line, fault.flaw));
    }
    assert!(verifier.end(true).is_ok());
}

#[test]
fn x7_emitting_is_cheap() {
    let directory = tempfile::tempdir().unwrap();
    let audit = Audit::to_file(directory.path().join("audit.jsonl")).unwrap();
    let sandbox: Arc<str> = "s1".into();
    let start = Instant::now();
    for _ in 0..100_000 {
        audit.emit(denied(&sandbox, "/v1/chat/completions"));
    }
    let each = start.elapsed() / 100_000;
    assert!(each < Duration::from_micros(50), "one record takes {each:?}");
    eprintln!("one record takes {each:?}");
}

#[tokio::test]
async fn one_who_subscribes_sees_what_is_written_from_then_on() {
    let audit = Audit::discard().unwrap();
    let sandbox: Arc<str> = "s1".into();
    audit.emit(denied(&sandbox, "/before"));
    audit.flush().await;
    let mut stream = audit.subscribe();
    audit.emit(denied(&sandbox, "/1"));
    audit.emit(Record::lifecycle(&sandbox, "stopped"));
    let first = stream.recv().await.unwrap();
    let value: Value = serde_json::from_str(&first.json).unwrap();
    assert_eq!(value["path"], "/1");
    assert_eq!(stream.recv().await.unwrap().event, Some("stopped"));
}

#[test]
fn x7_each_sandbox_has_its_own_backlog_and_learns_what_it_lost() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let watched = writer.try_clone().unwrap();
    let audit = Audit::to_pipe(writer, AuditOptions::default()).unwrap();
    let (small, large): (Arc<str>, Arc<str>) = ("small".into(), "large".into());
    let (small_lost, large_lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    audit.register(&small, 5, &small_lost);
    audit.register(&large, 5000, &large_lost);
    for number in 0..2000 {
        audit.emit(denied(&large, &format!("/{number}")));
    }
    wait_until_full(&watched);
    for number in 0..100 {
        audit.emit(denied(&small, &format!("/{number}")));
        audit.emit(denied(&large, &format!("/{number}")));
    }
    let lost = (small_lost.load(Ordering::Relaxed), large_lost.load(Ordering::Relaxed));
    assert_eq!(lost, (95, 0));
    assert_eq!(audit.dropped(), 95);
    assert!(audit.waiting() >= 105, "{}", audit.waiting());
    // A new policy, a new bound.
    audit.register(&small, 10, &small_lost);
    for number in 0..100 {
        audit.emit(denied(&small, &format!("/{number}")));
    }
    assert_eq!(small_lost.load(Ordering::Relaxed), 190);
    // The rest goes out, so that the end of the test does not wait for it.
    let drained = std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut piece = [0; 65_536];
        while memchr::memmem::find(&seen, b"\"type\":\"end\"").is_none() {
            let length = reader.read(&mut piece).unwrap();
            seen.extend_from_slice(&piece[..length]);
        }
    });
    audit.emit(Record::lifecycle(&"end".into(), "end"));
    drop(audit);
    drained.join().unwrap();
}

#[test]
fn what_is_no_file_is_refused_at_once_and_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let refused = |path: &Path, words: &str| {
        let error = Audit::to_file(path).unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains(&path.display().to_string()) && text.contains(words), "{text}");
    };
    refused(&pipe, "no regular file");
    // Somebody who reads now may stop, and the end of the sandbox would wait for him.
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    refused(&pipe, "no regular file");
    refused(&socket, "no regular file");
    refused(Path::new("/dev/zero"), "no regular file");
    refused(folder.path(), "directory");
    Audit::to_file("/dev/null").unwrap();
    Audit::to_file("/dev/full").unwrap();
}
