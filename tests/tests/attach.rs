//! `interceptor attach`: a wall around an existing cgroup, which outlives the process that set it
//! up.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use interceptor_tests::daemon::Cgroup;
use interceptor_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a process in the cgroup prints.
fn python(cgroup: &Cgroup, program: &str) -> String {
    let output = cgroup.command("python3").args(["-c", program]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn attach(cgroup: &Cgroup) -> Child {
    let mut command = Command::new(binary("interceptor"));
    command.args(["attach", "--cgroup"]).arg(cgroup.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the line that says that enforcement is in place.
#[track_caller]
fn enforcing(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if !line.contains("enforcing on") {
        let mut error = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut error).unwrap();
        panic!("{line}{error}");
    }
}

#[test]
fn k18_the_wall_outlives_a_killed_attach_and_is_taken_over() {
    let cgroup = Cgroup::new();
    let id = cgroup.id();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_nonblocking(true).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let program = format!(
        "import socket
def udp(): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {}))
def tcp(): socket.create_connection(('127.0.0.1', {}), 2)
for attempt in udp, tcp:
    try: attempt(); print('out')
    except OSError as error: print('refused')",
        receiver.local_addr().unwrap().port(),
        listener.local_addr().unwrap().port()
    );
    assert_eq!(python(&cgroup, &program), "out\nout\n", "without a wall");
    assert!(receiver.recv(&mut [0; 8]).is_ok());

    let mut first = attach(&cgroup);
    enforcing(&mut first);
    assert_eq!(python(&cgroup, &program), "refused\nrefused\n");
    let second = attach(&cgroup).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("an `interceptor attach`"), "{said}");

    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(
        python(&cgroup, &program),
        "refused\nrefused\n",
        "after the death of the interceptor"
    );

    let mut third = attach(&cgroup);
    enforcing(&mut third);
    assert_eq!(python(&cgroup, &program), "refused\nrefused\n");
    assert!(receiver.recv(&mut [0; 8]).is_err(), "a datagram got out");
    kill(Pid::from_raw(third.id() as i32), Signal::SIGTERM).unwrap();
    assert!(third.wait().unwrap().success());
    assert_eq!(python(&cgroup, &program), "out\nout\n", "after a normal end");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let bpffs = mounts
        .lines()
        .find_map(|line| line.split_once(" bpf ").and(line.split(' ').nth(1)))
        .unwrap();
    assert!(!Path::new(bpffs).join("interceptor").join(id.to_string()).exists());
}

#[test]
fn sighup_reads_the_policy_again_and_a_broken_one_changes_nothing() {
    let cgroup = Cgroup::new();
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.json");
    let deny = |network: &str| {
        fs::write(&policy, format!(r#"{{"network":{{"deny":["{network}"]}}}}"#)).unwrap()
    };
    deny("203.0.113.0/24");
    let mut command = Command::new(binary("interceptor"));
    command.args(["attach", "-v", "--cgroup"]).arg(cgroup.path()).arg("--policy").arg(&policy);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    enforcing(&mut child);
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut wait_for = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the log ended");
        }
    };
    let program = "import socket
for address in '203.0.113.1', '198.51.100.1':
    try: socket.create_connection((address, 443), 5); print('redirected')
    except OSError as error: print(error.errno)";
    assert_eq!(python(&cgroup, program), "1\nredirected\n");
    deny("198.51.100.0/24");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGHUP).unwrap();
    wait_for("policy reloaded");
    assert_eq!(python(&cgroup, program), "redirected\n1\n");
    fs::write(&policy, "{ broken").unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGHUP).unwrap();
    wait_for("keeping the previous one");
    assert_eq!(python(&cgroup, program), "redirected\n1\n");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}
