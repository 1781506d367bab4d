//! Many sandboxes in one daemon. The only test of its file, so that nothing else of its process
//! runs meanwhile. `cargo xtask bench fleet` measures what this bounds.

use std::fs;
use std::path::Path;
use std::time::Duration;

use interceptor_tests::Lab;
use interceptor_tests::client::paced::Load;
use interceptor_tests::daemon::{Daemon, until};
use interceptor_tests::fleet::Fleet;
use interceptor_tests::measure::processes::Tree;
use serde_json::json;

const HOST: &str = "api.example.test";
/// What is set up with the first ones belongs to none of them.
const FIRST: usize = 30;
const ALL: usize = 180;
/// KiB of the daemon for one idle sandbox, its CA included, in a build without optimisation.
const MOST_EACH: u64 = 96;

fn memory(daemon: &Daemon<'_>) -> u64 {
    let tree = Tree::new(daemon.running().pid().as_raw().unsigned_abs());
    tree.settled_memory(Duration::from_secs(5)).unwrap()
}

/// The open files of the daemon.
fn descriptors(daemon: &Daemon<'_>) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.running().pid())).unwrap().count()
}

#[test]
fn many_sandboxes_cost_little_each_are_all_served_and_leave_nothing() {
    Lab::test(|lab| {
        lab.unordered();
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/status/*"] }]));
        let trust = lab.directory().join("trust");
        let daemon = lab.daemon().at_origin(HOST).option("--trust-dir").option(&trust);
        let daemon = daemon.quiet_log().start();
        let (empty, mut fleet) = (descriptors(&daemon), Fleet::default());
        fleet.grow(&daemon, FIRST, &policy);
        let before = memory(&daemon);
        fleet.grow(&daemon, ALL, &policy);
        let each = memory(&daemon).saturating_sub(before) / (ALL - FIRST) as u64 / 1024;
        println!("{each} KiB for an idle sandbox");
        assert!(each <= MOST_EACH, "{each} KiB");

        let mut clients = fleet.clients(HOST, "/status/200");
        let report = clients.run(Load { requests: 3, every_ms: 1000 });
        assert_eq!((report.answered, report.failed), (3 * ALL as u64, 0), "{report:?}");
        drop(clients);
        let served = || -> Vec<String> {
            let records = daemon.records().into_iter();
            records.filter(|record| record.is_request("allow")).map(|one| one.sandbox).collect()
        };
        // The first request of each is sent when its connection is made.
        assert!(until(|| served().len() == 4 * ALL), "{} are recorded", served().len());
        let served = served();
        for guest in fleet.guests() {
            assert_eq!(served.iter().filter(|id| **id == guest.id).count(), 4, "{}", guest.id);
        }

        let ids: Vec<u64> = fleet.guests().iter().map(|guest| guest.cgroup.id()).collect();
        fleet.shrink(&daemon, 0);
        assert!(daemon.ids().is_empty());
        assert_eq!(fs::read_dir(&trust).unwrap().count(), 0, "trust files are left");
        for id in ids {
            let pins = Path::new("/sys/fs/bpf/interceptor").join(id.to_string());
            assert!(!pins.exists(), "{} is left", pins.display());
        }
        let left = descriptors(&daemon);
        assert!(left <= empty + 8, "{left} descriptors, {empty} at the start");
        daemon.finish();
    });
}
