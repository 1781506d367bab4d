//! Docker and containerd exactly as in docs/containers.md, on a separate host with their own
//! daemons. The documented commands must put the wall up, and the checks must say where it is not.

use interceptor_tests::host::{after, blocks, on_a_host_of_daemons};

/// Starts dockerd with a configuration that this host can bear.
const DOCKER: &str = r#"
mkdir -p /etc/docker
cat > /etc/docker/daemon.json <<END
{ "iptables": false, "ip6tables": false, "ip-forward": false, "bridge": "none",
  "storage-driver": "vfs", "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "cgroup-parent": "$group", "log-level": "warn" }
END
dockerd > "$place/daemon.log" 2>&1 &
ready "docker version"
docker import "$place/curl.tar" image > /dev/null
"#;

#[test]
fn docker_as_the_page_says_is_under_enforcement_and_shows_it() {
    let [install, proof] = blocks("docs/containers.md", "Docker").try_into().unwrap();
    assert!(install.contains("docker run") && proof.contains("curl"), "{install}{proof}");
    let install = install.replace("COMMAND", "sh -c 'echo started'");
    let script = format!(
        "{DOCKER}
         install -m 755 target/release/interceptor /usr/local/bin/
         echo '-- none'; interceptor doctor | grep -A1 docker
         echo '-- dry'; interceptor install docker --dry-run; cat /etc/docker/daemon.json
         echo '-- install'; {install}
         echo '-- proof'; {proof}
         echo '-- doctor'; interceptor doctor | grep docker
         echo '-- unnamed'; docker run --rm --network none --runtime interceptor image sh -c \
         'echo started' || echo refused $?
         echo '-- again'; interceptor install docker
         echo '-- config'; cat /etc/docker/daemon.json
         echo '-- left'; ls /run/interceptor/oci /etc/interceptor/policies; docker images -q | wc -l
         echo '-- records'; cat /var/log/interceptor/containers.jsonl
         mv /usr/local/bin/interceptor /usr/local/bin/i
         echo '-- moved'; i doctor | grep docker
         docker run --rm --network none --runtime interceptor-agent image sh -c 'echo started' || \
         echo refused $?
         mv /usr/local/bin/i /usr/local/bin/interceptor
         echo '-- uninstalled'; interceptor install docker --uninstall; cat /etc/docker/daemon.json
         interceptor doctor | grep docker
         echo '-- broken'; printf '#!/bin/sh\\nexec runc \"$@\"\\n' > /usr/local/bin/quiet
         chmod 755 /usr/local/bin/quiet
         kill $(cat /var/run/docker.pid); wait
         echo '-- stopped'; interceptor install docker || echo unproved $?
         echo '-- end'"
    );
    let (success, text) = on_a_host_of_daemons(&script);
    assert!(success, "{text}");
    let none = after(&text, "none");
    assert!(none.contains("warn  docker") && none.contains("install docker"), "{text}");
    let dry = after(&text, "dry");
    assert!(dry.contains("would write /etc/docker/daemon.json"), "{text}");
    assert_eq!(dry.matches("oci-runtime").count(), 1, "only shown: {text}");
    let installed = after(&text, "install");
    assert!(installed.contains("proved: a container under a policy was refused egress"), "{text}");
    assert!(installed.ends_with("\nstarted"), "{text}");
    let proof = after(&text, "proof");
    assert!(
        proof.contains(r#"{"error":{"type":"host_denied","message":"192.0.2.1 port 80"#),
        "{text}"
    );
    let doctor = after(&text, "doctor");
    assert!(doctor.contains("in force: interceptor, interceptor-agent"), "{text}");
    let unnamed = after(&text, "unnamed");
    assert!(unnamed.contains("has no policy") && !unnamed.contains("started\n"), "{text}");
    let again = after(&text, "again");
    assert!(again.contains("has the runtimes already") && again.contains("proved:"), "{text}");
    let config = after(&text, "config");
    assert!(config.contains("\"bridge\": \"none\"") && !config.contains("proof"), "{text}");
    assert_eq!(
        after(&text, "left"),
        "/etc/interceptor/policies:\nagent.json\n\n/run/interceptor/oci:\n1",
        "{text}"
    );
    assert!(after(&text, "records").contains(r#""type":"host_denied""#), "{text}");
    let moved = after(&text, "moved");
    assert!(moved.contains("does not exist") && moved.contains("refused 1"), "{text}");
    assert!(!moved.contains("\nstarted"), "{text}");
    let uninstalled = after(&text, "uninstalled");
    assert!(uninstalled.contains("removed the runtimes"), "{text}");
    assert!(!uninstalled.contains("oci-runtime") && uninstalled.contains("unconfined"), "{text}");
    let stopped = after(&text, "stopped");
    assert!(stopped.contains("NOT proved") && stopped.contains("Docker does not run"), "{text}");
    assert!(stopped.ends_with("unproved 1"), "{text}");
}

#[test]
fn containerd_as_the_page_says_has_the_handler_and_shows_it() {
    let [install, doctor] =
        blocks("docs/containers.md", "containerd and Kubernetes").try_into().unwrap();
    let script = format!(
        "start() {{ containerd > \"$place/daemon.log\" 2>&1 & ready 'ctr version'; }}
         # In place of systemd, which does not run here.
         systemctl() {{
             [ \"$*\" = 'restart containerd' ] || exit 9
             kill $daemon; wait $daemon || true; start; daemon=$!
         }}
         printf 'version = 2\\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\\nbin_dir = \"/x\"\\n' \
         > /etc/containerd/config.toml
         start; daemon=$!
         echo '-- none'; target/release/interceptor doctor | grep -A1 containerd
         sudo() {{ [ \"$1\" != -E ] || shift; \"$@\"; }}
         echo '-- install'; {}
         echo '-- stale'; touch -d '+1 hour' /etc/containerd/config.toml
         interceptor doctor | grep containerd
         echo '-- restarted'; {}
         {doctor}
         echo '-- dump'; containerd config dump | grep -e BinaryName -e bin_dir
         echo '-- again'; interceptor install containerd
         echo '-- left'; ls /run/interceptor/oci /etc/interceptor/policies; ctr namespaces ls -q
         echo '-- uninstalled'; interceptor install containerd --uninstall
         cat /etc/containerd/config.toml; interceptor doctor | grep containerd
         echo '-- old'; echo 'version = 1' > /etc/containerd/config.toml
         interceptor install containerd || echo ended $?
         kill $daemon
         echo '-- end'",
        install.lines().filter(|line| !line.contains("systemctl")).collect::<Vec<_>>().join("\n"),
        "touch -d '-1 minute' /etc/containerd/config.toml; sudo systemctl restart containerd",
    );
    assert!(install.contains("sudo systemctl restart containerd"), "{install}");
    let (success, text) = on_a_host_of_daemons(&script);
    assert!(success, "{text}");
    let none = after(&text, "none");
    assert!(none.contains("no runtime handler") && none.contains("install containerd"), "{text}");
    let installed = after(&text, "install");
    assert!(installed.contains("writing /etc/containerd/config.toml:\nversion = 2\n"), "{text}");
    assert!(installed.contains("proved: a container under a policy was refused egress"), "{text}");
    let stale = after(&text, "stale");
    assert!(stale.contains("warn") && stale.contains("after containerd was started"), "{text}");
    assert!(after(&text, "restarted").contains("in force: the handler interceptor"), "{text}");
    let dump = after(&text, "dump");
    assert!(dump.contains("BinaryName = \"/usr/local/bin/interceptor-runtime\""), "{text}");
    assert!(dump.contains("bin_dir = \"/x\""), "{text}");
    let again = after(&text, "again");
    assert!(again.contains("has the handler interceptor already"), "{text}");
    assert!(again.contains("proved:"), "{text}");
    assert_eq!(
        after(&text, "left"),
        "/etc/interceptor/policies:\n\n/run/interceptor/oci:",
        "{text}"
    );
    let uninstalled = after(&text, "uninstalled");
    assert!(uninstalled.contains("removed the handler"), "{text}");
    assert!(!uninstalled.contains("BinaryName"), "{text}");
    assert!(uninstalled.contains("no runtime handler is installed"), "{text}");
    let old = after(&text, "old");
    assert!(old.contains("not of version 2 or later") && old.contains("ended 2"), "{text}");
}
