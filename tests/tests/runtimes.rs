//! `interceptor oci-runtime` around runc and crun, called as engines call them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use interceptor_tests::Lab;
use interceptor_tests::engines::{Host, Ran, until};
use interceptor_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

fn host(lab: &Lab) -> Host<'_> {
    Host::new(lab, &policy(lab), HOST)
}

/// Runs a test around each runtime. crun cannot limit devices on a machine that gives root no
/// CAP_SYS_RESOURCE, so there it makes no cgroups, and the container gets one of ours.
fn around_each(test: impl Fn(&Lab, &Host<'_>, &Around)) {
    for name in ["runc", "crun"] {
        eprintln!("around {name}:");
        Lab::test(|lab| {
            let host = host(lab);
            let globals = if name == "crun" { vec!["--cgroup-manager=disabled"] } else { vec![] };
            test(lab, &host, &Around { name, globals });
            host.nothing_is_left();
        });
    }
}

struct Around {
    name: &'static str,
    globals: Vec<&'static str>,
}

impl Around {
    /// Calls the runtime under the policy `lab`.
    #[track_caller]
    fn call(&self, host: &Host<'_>, arguments: &[&str]) -> Ran {
        self.call_with(host, &["--policy", "lab"], arguments)
    }

    #[track_caller]
    fn call_with(&self, host: &Host<'_>, own: &[&str], arguments: &[&str]) -> Ran {
        let own = [&["--runtime", self.name], own].concat();
        host.oci(&own, &[&self.globals, arguments].concat())
    }
}

/// Says what the container has of the sandbox, and tries three ways out.
const SCRIPT: &str = "
    echo $LAB_API_KEY | grep -c proxy-managed
    curl -sS -o /dev/null -w '%{http_code}\n' -H \"authorization: Bearer $LAB_API_KEY\" \
        https://api.example.test/first
    curl -sS -o /dev/null -w '%{http_code}\n' https://evil.test/
    python3 -c 'import socket
socket.socket(type=socket.SOCK_DGRAM).sendto(b\"x\", (\"192.0.2.1\", 9))' 2>&1 | tail -n 1";

#[test]
fn a_container_of_a_bundle_runs_under_enforcement_with_its_placeholder() {
    around_each(|lab, host, around| {
        let bundle = host.bundle("c1", &["/bin/sh", "-c", SCRIPT], |_| {});
        // The second run finds the edits of the first.
        for _ in 0..2 {
            let ran = around.call(host, &["run", "--bundle", &bundle, "c1"]);
            let expected = "1\n200\n403\nPermissionError: [Errno 1] Operation not permitted\n";
            assert_eq!(ran.success().out(), expected, "{}", ran.err());
        }
        assert_eq!(lab.seen().len(), 2);
        for seen in lab.seen() {
            assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
        }
        let edited = fs::read_to_string(Path::new(&bundle).join("config.json")).unwrap();
        assert_eq!(edited.matches("--stage=").count(), 2, "one hook for each stage: {edited}");
        assert_eq!(edited.matches("\"destination\":\"/run/sandbox-trust\"").count(), 1, "{edited}");
        assert!(!edited.contains(lab.key()));
    });
}

#[test]
fn create_start_exec_and_delete_are_under_the_same_enforcement() {
    around_each(|lab, host, around| {
        let wait = "until [ -e /work/go ]; do sleep 0.05; done; echo first";
        let bundle = host.bundle("c1", &["/bin/sh", "-c", wait], |_| {});
        let created = around.call(host, &["create", "--bundle", &bundle, "c1"]);
        created.success();
        around.call(host, &["start", "c1"]).success();
        // As engines do, by a file; it brings a key of its own.
        let process = host.path("process.json");
        let describe = |more: &Value| {
            let mut value = json!({
                "cwd": "/", "user": { "uid": 0, "gid": 0 }, "noNewPrivileges": true,
                "args": ["/bin/sh", "-c", format!("env | grep -c STOLEN; {SCRIPT}")],
                "env": ["PATH=/usr/bin:/bin", format!("STOLEN=x{}", lab.key())],
            });
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fs::write(&process, value.to_string()).unwrap();
        };
        describe(&json!({}));
        let shown = process.display().to_string();
        let exec = ["exec", "--process", &shown, "c1"];
        let ran = around.call(host, &exec);
        let expected = "0\n1\n200\n403\nPermissionError: [Errno 1] Operation not permitted\n";
        assert_eq!(ran.success().out(), expected, "{}", ran.err());
        let plain = around.call(host, &["exec", "c1", "/bin/sh", "-c", "echo $LAB_API_KEY"]);
        assert!(plain.success().out().contains("proxy-managed"), "{}", plain.err());
        describe(&json!({ "capabilities": { "bounding": ["CAP_SYS_ADMIN"] } }));
        let strong = around.call(host, &exec);
        assert!(
            !strong.status.success() && strong.err().contains("CAP_SYS_ADMIN"),
            "{}",
            strong.err()
        );
        let strong = around.call(host, &["exec", "--cap", "CAP_BPF", "c1", "/bin/true"]);
        assert!(!strong.status.success() && strong.err().contains("CAP_BPF"), "{}", strong.err());
        fs::write(lab.work().join("go"), "").unwrap();
        until("the container ends", || created.out().contains("first"));
        until("it is deleted", || around.call(host, &["delete", "c1"]).status.success());
    });
}

/// What is wrong with a container: options of the runtime, a change of its configuration, and what
/// the reason says.
type Wrong = (&'static [&'static str], fn(&mut Value), &'static str);

fn asks_for(config: &mut Value, name: &str) {
    config["annotations"] = json!({ "io.interceptor.policy": name });
}

const WRONG: [Wrong; 12] = [
    (&[], |_| {}, "has no policy"),
    (&["--policy", "none"], |_| {}, "unknown policy `none`"),
    (&["--policy", "wrong"], |_| {}, "networks"),
    (&["--policy", "lab"], |config| asks_for(config, "../host"), "no file there has this name"),
    (&["--unmanaged", "pass"], |config| asks_for(config, "none"), "unknown policy `none`"),
    (
        &["--policy", "lab"],
        |config| config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]),
        "CAP_SYS_ADMIN",
    ),
    (
        &["--policy", "lab"],
        |config| config["Process"] = config["process"].clone(),
        "a field is called",
    ),
    (
        &["--policy", "lab"],
        |config| config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" }),
        "seccomp",
    ),
    (
        &["--policy", "lab"],
        |config| config["linux"]["namespaces"] = json!([]),
        "no mount namespace",
    ),
    (
        &["--policy", "lab"],
        |config| {
            config["hooks"] = json!({ "createRuntime": [{
                "path": "/bin/true", "args": ["interceptor", "oci-hook"],
            }] });
        },
        "hook too",
    ),
    (
        &["--policy", "lab"],
        |config| {
            let mount = json!({ "destination": "/x", "type": "bind", "source": "/run" });
            config["mounts"].as_array_mut().unwrap().push(mount);
        },
        "mount of the host's /run",
    ),
    (
        &["--policy", "lab"],
        |config| config["hooks"] = json!({ "poststop": "every" }),
        "a hook's stage is not a list",
    ),
];

#[test]
fn a_container_that_cannot_be_enforced_does_not_start_and_the_log_says_why() {
    around_each(|lab, host, around| {
        host.policy("wrong", "{\"networks\": {}}");
        let log = host.path("log.json");
        let shown = log.display().to_string();
        for (own, edit, why) in WRONG {
            let script = ["/bin/sh", "-c", "echo started; touch /work/started"];
            for command in ["run", "create"] {
                let bundle = host.bundle("c1", &script, edit);
                let _ = fs::remove_file(&log);
                let ran = around.call_with(
                    host,
                    own,
                    &["--log", &shown, "--log-format", "json", command, "--bundle", &bundle, "c1"],
                );
                assert!(!ran.status.success(), "{why}: {}", ran.out());
                assert!(ran.err().contains(why), "{why}: {}", ran.err());
                let logged: Value =
                    serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
                assert_eq!(logged["level"], "error");
                let message = logged["msg"].as_str().unwrap();
                assert!(message.contains(why) && !message.contains('\n'), "{message}");
            }
        }
        assert!(!lab.work().join("started").exists());
    });
}

#[test]
fn a_container_without_a_policy_passes_only_where_the_operator_says_so() {
    around_each(|_, host, around| {
        let script = ["/bin/sh", "-c", "env | grep -c INTERCEPTOR; ls /run"];
        let bundle = host.bundle("c1", &script, |_| {});
        let run = ["run", "--bundle", &bundle, "c1"];
        let passed = around.call_with(host, &["--unmanaged", "pass"], &run);
        assert_eq!(passed.out(), "0\n", "{}", passed.err());
    });
}

/// A filter of the container's own is narrowed, one without gets one: neither makes a packet
/// socket, also with the capability for it.
#[test]
fn k1_a_container_with_raw_sockets_makes_none_by_the_obsolete_type() {
    let program = "import socket
for family, kind in ((2, 10), (2, 0x80000 | 10), (17, 3), (40, 1), (2, 3), (16, 3)):
    try: socket.socket(family, kind, 15 if family == 16 else 0x300); print('MADE', family, kind)
    except OSError as e: print('refused')
print(socket.socket(), socket.socket(10, 2), socket.socket(1, 5), socket.socket(16, 3, 0))";
    around_each(|_, host, around| {
        let bundle = host.bundle("c1", &["/usr/bin/python3", "-c", program], |config| {
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(["CAP_NET_RAW"]);
            }
        });
        let ran = around.call(host, &["run", "--bundle", &bundle, "c1"]);
        let text = ran.success().out();
        assert_eq!(text.matches("refused").count(), 6, "{text}");
        assert_eq!(text.matches("<socket.socket").count(), 4, "{text}");
    });
}

#[test]
fn k18_a_created_container_whose_supervisor_is_killed_is_not_started() {
    around_each(|lab, host, around| {
        let bundle = host.bundle("c1", &["/bin/sh", "-c", "touch /work/started"], |_| {});
        around.call(host, &["create", "--bundle", &bundle, "c1"]).success();
        for pid in host.supervisors() {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        until("the supervisor ends", || host.supervisors().is_empty());
        let refused = around.call(host, &["start", "c1"]);
        assert!(!refused.status.success(), "{}", refused.out());
        assert!(refused.err().contains("supervisor is gone"), "{}", refused.err());
        around.call(host, &["delete", "--force", "c1"]).success();
        assert!(!lab.work().join("started").exists());
        lab.audit_may_be_lost();
    });
}

#[test]
fn by_its_name_it_needs_no_argument_and_passes_on_everything_else() {
    Lab::test(|lab| {
        let host = host(lab);
        let link = host.path("interceptor-runtime");
        symlink(binary("interceptor"), &link).unwrap();
        let (program, link) =
            (binary("interceptor").display().to_string(), link.display().to_string());
        let said = |arguments: &[&str]| host.run(&link, arguments).success().out();
        assert!(said(&["--version"]).starts_with("runc version"));
        assert!(said(&["--root", "/run/r", "list"]).starts_with("ID "));
        assert!(said(&["features"]).contains("ociVersionMin"));
        let none = host.run(&program, &["oci-runtime", "--runtime", "none", "list"]);
        assert!(none.err().contains("there is no runtime none"), "{}", none.err());
        let itself = host.run(&program, &["oci-runtime", "--runtime", &link, "list"]);
        assert!(itself.err().contains("is the interceptor itself"), "{}", itself.err());
        let script = "curl -sS -o /dev/null -w '%{http_code}' http://192.0.2.1/";
        let bundle = host.bundle("c1", &["/bin/sh", "-c", script], |config| {
            asks_for(config, "lab");
        });
        let run = ["--root", "/run/r", "run", "--bundle", &bundle, "c1"];
        let ran = host.run(&link, &run);
        assert_eq!(ran.success().out(), "403", "{}", ran.err());
        host.nothing_is_left();
    });
}

/// The wrapped runtimes' own help names none of its options, so that each word has one meaning.
#[test]
fn none_of_its_options_is_one_of_the_runtimes() {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
    };
    let program = binary("interceptor").display().to_string();
    let own = words(&output(&program, &["oci-runtime", "--help"]));
    assert!(own.iter().any(|word| word == "--policies") && own.len() > 5, "{own:?}");
    for runtime in ["runc", "crun"] {
        let theirs = words(&output(runtime, &["--help"]));
        assert!(theirs.iter().any(|word| word == "--root"), "{theirs:?}");
        // Help is its own: it stands before all else.
        let both: Vec<_> = own.iter().filter(|word| theirs.contains(word)).collect();
        assert!(both.iter().all(|word| *word == "--help"), "{runtime}: {both:?}");
    }
}
