//! `interceptor oci-runtime` as the runtime of real engines: Docker, containerd, Podman.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;

use interceptor_tests::Lab;
use interceptor_tests::engines::{Host, Ran, until};
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
/// What a container gets, and how its ways out end.
const SCRIPT: &str = "
    echo $LAB_API_KEY | grep -c proxy-managed
    curl -sS -o /dev/null -w '%{http_code}\n' -H \"authorization: Bearer $LAB_API_KEY\" \
        https://api.example.test/first
    curl -sS -o /dev/null -w '%{http_code}\n' https://evil.test/
    python3 -c 'import socket
socket.socket(type=socket.SOCK_DGRAM).sendto(b\"x\", (\"192.0.2.1\", 9))' 2>&1 | tail -n 1";
const EXPECTED: &str = "1\n200\n403\nPermissionError: [Errno 1] Operation not permitted\n";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// A program that is the runtime with the options of a test, as engines take only a path.
fn program(host: &Host<'_>, more: &[&str]) -> String {
    let mut words = vec![binary("interceptor").display().to_string()];
    words.extend(host.runtime());
    words.extend(more.iter().map(|&word| word.to_owned()));
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let path = host.path("interceptor-runtime");
    fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// An archive of the host's root file system.
fn archive(host: &Host<'_>) -> String {
    let (root, archive) = (host.path("rootfs"), host.path("image.tar"));
    let (root, archive) = (root.display().to_string(), archive.display().to_string());
    host.run("tar", &["-C", &root, "-cf", &archive, "."]).success();
    archive
}

/// A daemon, ended when the test ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests with the real key, and none with anything else.
fn all_had_the_key(lab: &Lab, count: usize) {
    let seen = lab.seen();
    assert_eq!(seen.len(), count);
    for seen in seen {
        assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
    }
}

struct Docker<'a> {
    host: &'a Host<'a>,
    socket: String,
    _daemon: Daemon,
}

impl<'a> Docker<'a> {
    /// With the runtimes `interceptor`, for the policy `lab`, and `unnamed`, for none.
    fn start(host: &'a Host<'a>) -> Self {
        let with = |more: &[&str]| {
            let arguments: Vec<String> =
                host.runtime().into_iter().chain(more.iter().map(|&m| m.to_owned())).collect();
            json!({ "path": binary("interceptor"), "runtimeArgs": arguments })
        };
        let config = json!({
            "runtimes": { "interceptor": with(&["--policy", "lab"]), "unnamed": with(&[]) },
            "iptables": false, "ip6tables": false, "ip-forward": false, "bridge": "none",
            "storage-driver": "vfs", "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": host.cgroup(), "log-level": "warn",
            "data-root": host.path("docker"), "exec-root": "/run/docker", "pidfile": "/run/d.pid",
        });
        let file = host.path("daemon.json");
        fs::write(&file, config.to_string()).unwrap();
        let socket = format!("unix://{}", host.path("docker.sock").display());
        let mut command = host.command("dockerd");
        command.arg("--config-file").arg(file).args(["-H", &socket]);
        let (daemon, ..) = host.start(command);
        let made = Docker { host, socket, _daemon: Daemon(daemon) };
        until("dockerd answers", || made.command(&["version"]).status.success());
        made.command(&["import", &archive(host), "image"]).success();
        made
    }

    #[track_caller]
    fn command(&self, arguments: &[&str]) -> Ran {
        self.host.run("docker", &[&["-H", &self.socket], arguments].concat())
    }

    /// `docker run` with these options.
    #[track_caller]
    fn run(&self, options: &[&str], command: &[&str]) -> Ran {
        let usual = ["run", "--network", "none", "--volume", "/usr:/usr:ro"];
        self.command(&[&usual, options, &["image"], command].concat())
    }
}

#[test]
fn docker_runs_containers_under_enforcement_and_shows_why_one_is_refused() {
    Lab::test(|lab| {
        let host = Host::new(lab, &policy(lab), HOST);
        let docker = Docker::start(&host);
        let run = ["--rm", "--runtime", "interceptor"];
        let ran = docker.run(&run, &["/bin/sh", "-c", SCRIPT]);
        assert_eq!(ran.success().out(), EXPECTED, "{}", ran.err());
        // Two at once, each with a sandbox of its own.
        let work = format!("{}:/work", lab.work().display());
        let wait = "echo $INTERCEPTOR_SANDBOX; until [ -e /work/go ]; do sleep 0.05; done";
        for name in ["one", "two"] {
            let options = ["-d", "--name", name, "--runtime", "interceptor", "--volume", &work];
            docker.run(&options, &["/bin/sh", "-c", wait]).success();
        }
        assert_eq!(host.supervisors().len(), 2);
        let exec = docker.command(&["exec", "one", "/bin/sh", "-c", SCRIPT]);
        assert_eq!(exec.success().out(), EXPECTED, "{}", exec.err());
        let sandbox = |name: &str| docker.command(&["logs", name]).success().out();
        until("both are there", || sandbox("one").len() > 3 && sandbox("two").len() > 3);
        assert_ne!(sandbox("one"), sandbox("two"));
        let strong = docker.command(&["exec", "--privileged", "one", "/bin/true"]);
        assert!(!strong.status.success(), "{}", strong.out());
        let said = strong.err() + &strong.out();
        assert!(said.contains("CAP_SYS_ADMIN"), "{said}");
        fs::write(lab.work().join("go"), "").unwrap();
        docker.command(&["wait", "one", "two"]).success();
        docker.command(&["rm", "one", "two"]).success();
        for (options, why) in [
            (&["--rm", "--runtime", "unnamed"][..], "the container has no policy"),
            (&["--rm", "--runtime", "interceptor", "--privileged"], "CAP_SYS_ADMIN"),
            (&["--rm", "--runtime", "interceptor", "-v", "/run:/x"], "the host's /run"),
        ] {
            let refused = docker.run(options, &["/bin/sh", "-c", "echo started"]);
            assert!(!refused.status.success() && refused.out().is_empty(), "{}", refused.out());
            assert!(refused.err().contains(why), "{why}: {}", refused.err());
        }
        all_had_the_key(lab, 2);
        host.nothing_is_left();
    });
}

#[test]
fn containerd_runs_containers_under_enforcement_by_a_binary_without_arguments() {
    Lab::test(|lab| {
        let host = Host::new(lab, &policy(lab), HOST);
        let config = host.path("containerd.toml");
        fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
            .unwrap();
        let mut command = host.command("containerd");
        command.arg("--config").arg(config).arg("--root").arg(host.path("containerd"));
        command.args(["--address", "/run/c/c.sock", "--state", "/run/c/state"]);
        let (daemon, ..) = host.start(command);
        let _daemon = Daemon(daemon);
        let ctr = |arguments: &[&str]| {
            host.run("ctr", &[&["--address", "/run/c/c.sock"], arguments].concat())
        };
        until("containerd answers", || ctr(&["version"]).status.success());
        let binary = program(&host, &[]);
        let root = host.path("rootfs").display().to_string();
        let run = |id: &str, annotation: &str, command: &[&str]| {
            let cgroup = format!("{}/{id}", host.cgroup());
            let usr = "type=bind,src=/usr,dst=/usr,options=rbind:ro";
            let options =
                ["run", "--rm", "--rootfs", "--runc-binary", &binary, "--cgroup", &cgroup];
            // A host may have no controllers left for cgroup v2.
            let more = ["--cpu-shares", "0", "--annotation", annotation, "--mount", usr, &root, id];
            ctr(&[&options[..], &more, command].concat())
        };
        let ran = run("c1", "io.interceptor.policy=lab", &["/bin/sh", "-c", SCRIPT]);
        assert_eq!(ran.success().out(), EXPECTED, "{}", ran.err());
        let refused = run("c2", "io.interceptor.policy=none", &["/bin/sh", "-c", "echo started"]);
        assert!(!refused.status.success() && refused.out().is_empty(), "{}", refused.out());
        assert!(refused.err().contains("unknown policy `none`"), "{}", refused.err());
        all_had_the_key(lab, 1);
        host.nothing_is_left();
    });
}

#[test]
fn podman_runs_containers_under_enforcement_by_its_runtime() {
    Lab::test(|lab| {
        let host = Host::new(lab, &policy(lab), HOST);
        let conf = host.path("containers.conf");
        fs::write(
            &conf,
            "[engine]\nlock_type = \"file\"\nevents_logger = \"none\"\ncgroup_manager = \
             \"cgroupfs\"\n",
        )
        .unwrap();
        let runtime = program(&host, &["--runtime", "runc"]);
        let podman = |arguments: &[&str]| {
            let mut command = host.command("env");
            command.arg(format!("CONTAINERS_CONF={}", conf.display())).arg("podman");
            for (option, name) in
                [("--root", "storage"), ("--runroot", "runroot"), ("--tmpdir", "libpod")]
            {
                command.arg(option).arg(host.path(name));
            }
            command.args(["--storage-driver", "vfs", "--runtime", &runtime]).args(arguments);
            host.finish(command)
        };
        podman(&["import", "--quiet", &archive(&host), "image"]).success();
        let run = |options: &[&str], command: &[&str]| {
            // Limits that a host can set which grants little and has no controllers left.
            let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
            let limits = [&limits[..], &["--pids-limit", "-1"]].concat();
            let usual = ["run", "--network", "none", "--volume", "/usr:/usr:ro"];
            let parent = ["--cgroup-parent", host.cgroup()];
            podman(&[&usual, &limits[..], &parent, options, &["image"], command].concat())
        };
        let policy = ["--rm", "--annotation", "io.interceptor.policy=lab"];
        let ran = run(&policy, &["/bin/sh", "-c", SCRIPT]);
        assert_eq!(ran.success().out(), EXPECTED, "{}", ran.err());
        // What the hook cannot do: a further process has the placeholder.
        let named = ["-d", "--name", "c1", "--annotation", "io.interceptor.policy=lab"];
        run(&named, &["/bin/sleep", "1000"]).success();
        let exec = podman(&["exec", "c1", "/bin/sh", "-c", SCRIPT]);
        assert_eq!(exec.success().out(), EXPECTED, "{}", exec.err());
        podman(&["rm", "--force", "--time", "0", "c1"]).success();
        let refused = run(&["--rm"], &["/bin/sh", "-c", "echo started"]);
        assert!(!refused.status.success() && refused.out().is_empty(), "{}", refused.out());
        assert!(refused.err().contains("the container has no policy"), "{}", refused.err());
        all_had_the_key(lab, 2);
        host.nothing_is_left();
    });
}
