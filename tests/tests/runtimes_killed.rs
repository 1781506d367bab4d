//! Each part of the runtime is killed at each step, at any moment: no container sends a packet that
//! nobody judged, and nothing is left. `KILL_ROUNDS=100` makes more rounds than the default.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::engines::{Host, until};
use interceptor_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const STEPS: [&str; 4] = ["create", "start", "exec", "delete"];
/// Each step with each victim.
const ROUNDS: usize = STEPS.len() * 3;
/// The latest moment of a step at which its victim is killed, in milliseconds.
const LATEST_MS: u64 = 120;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// What the engine calls: the interceptor, which becomes the wrapped runtime.
    Runtime,
    /// The interceptor as the hook.
    Hook,
    Supervisor,
}

/// Counts what reaches it, on the network that the containers share.
struct Observer {
    stream: TcpListener,
    datagram: UdpSocket,
}

impl Observer {
    fn new() -> Self {
        let stream = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
        stream.set_nonblocking(true).unwrap();
        datagram.set_nonblocking(true).unwrap();
        Observer { stream, datagram }
    }

    /// A script that sends to it, first thing and without end.
    fn script(&self) -> String {
        let (stream, datagram) =
            (self.stream.local_addr().unwrap(), self.datagram.local_addr().unwrap());
        format!(
            "while :; do echo x > /dev/udp/127.0.0.1/{}; echo x > /dev/tcp/127.0.0.1/{}; done \
             2> /dev/null",
            datagram.port(),
            stream.port()
        )
    }

    /// Whether it has heard by TCP, and by UDP.
    fn heard(&self) -> (bool, bool) {
        let nothing = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let stream = self.stream.accept().map(drop).map_err(nothing).is_ok();
        (stream, self.datagram.recv(&mut [0; 9]).map(drop).map_err(nothing).is_ok())
    }
}

/// A host with containers that share the machine's network.
struct Rounds<'a> {
    host: &'a Host<'a>,
    observer: Observer,
    chance: u64,
    /// How many processes were killed.
    killed: usize,
}

impl Rounds<'_> {
    fn bundle(&self, name: &str) -> String {
        let script = self.observer.script();
        self.host.bundle(name, &["/usr/bin/bash", "-c", &script], |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|one| one["type"] != "network");
            // Mounts that need a network or a cgroup namespace of the container's.
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
        })
    }

    fn command(&self, own: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.host.command(binary("interceptor"));
        command.args(self.host.runtime()).args(["--runtime", "runc"]).args(own);
        command.arg("--root").arg(self.host.path("root")).args(arguments);
        command
    }

    /// A number below another, from a generator of Knuth's.
    fn below(&mut self, most: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.chance >> 33) % most
    }

    fn victims(&self, victim: Victim, caller: u32) -> Vec<Pid> {
        match victim {
            Victim::Supervisor => self.host.supervisors(),
            Victim::Hook => self.host.processes("--stage="),
            Victim::Runtime => {
                let children = fs::read_to_string(format!("/proc/{caller}/task/{caller}/children"));
                let children = children.unwrap_or_default();
                children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
            }
        }
    }

    /// Runs a step, and kills a victim in it, if there is one at that moment or later.
    #[track_caller]
    fn step(&mut self, arguments: &[&str], victim: Option<Victim>) -> bool {
        let after = Duration::from_millis(self.below(LATEST_MS));
        let (mut child, ..) = self.host.start(self.command(&["--policy", "lab"], arguments));
        let begun = Instant::now();
        let mut victim = victim;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            assert!(begun.elapsed() < Duration::from_secs(90), "{arguments:?} takes too long");
            if let Some(kind) = victim.filter(|_| begun.elapsed() >= after) {
                for pid in self.victims(kind, child.id()) {
                    // It may have ended since.
                    self.killed += usize::from(kill(pid, Signal::SIGKILL).is_ok());
                    victim = None;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn round(&mut self, number: usize) {
        let victim = [Victim::Runtime, Victim::Hook, Victim::Supervisor][number / STEPS.len() % 3];
        let fatal = STEPS[number % STEPS.len()];
        let name = format!("round-{number}");
        let bundle = self.bundle(&name);
        let at = |step: &str| (step == fatal).then_some(victim);
        let script = self.observer.script();
        let exec = format!("timeout 0.2 bash -c '{script}'");
        if self.step(&["create", "--bundle", &bundle, &name], at("create"))
            && self.step(&["start", &name], at("start"))
        {
            self.step(&["exec", &name, "/usr/bin/bash", "-c", &exec], at("exec"));
        }
        self.step(&["delete", "--force", &name], at("delete"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.host.left().is_empty() {
            assert!(
                Instant::now() < deadline,
                "round {number}, {victim:?} killed at {fatal}: left {:#?}",
                self.host.left()
            );
            // As engines do after a failure. What a killed runc leaves of its own cgroups and state
            // it does not know of either.
            self.step(&["delete", "--force", &name], None);
            let _ = fs::remove_dir_all(self.host.path("root").join(&name));
            self.host.remove_empty_cgroups();
        }
        let heard = self.observer.heard();
        assert_eq!(heard, (false, false), "round {number}, {victim:?} killed at {fatal}");
    }
}

#[test]
fn k18_not_one_packet_leaves_a_container_whichever_part_is_killed_at_whichever_step() {
    let rounds = std::env::var("KILL_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let policy: Value = json!({ "network": { "allow": ["api.example.test"] } });
        let host = Host::new(lab, &policy, "api.example.test");
        let mut all = Rounds { host: &host, observer: Observer::new(), chance: 18, killed: 0 };
        // The observer hears a container that is not enforced.
        let bundle = all.bundle("open");
        let (mut open, ..) = host
            .start(all.command(&["--unmanaged", "pass"], &["run", "--bundle", &bundle, "open"]));
        until("it hears TCP", || all.observer.heard().0);
        until("it hears UDP", || all.observer.heard().1);
        assert!(all.step(&["kill", "open", "KILL"], None));
        open.wait().unwrap();
        let quiet = || all.observer.heard() == (false, false);
        until("nothing is left of what it sent", quiet);
        (0..rounds).for_each(|number| all.round(number));
        assert!(all.killed >= rounds / 3, "{} killed in {rounds} rounds", all.killed);
        assert!(!Path::new(&host.path("root")).join("round-0").exists());
    });
}
