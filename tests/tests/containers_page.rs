//! Containers exactly as in docs/containers.md and `examples/`, on a separate host. The documented
//! commands must put the wall up, and the documented checks must fail if it is not.

use std::path::Path;

use interceptor_tests::host::{after, blocks, on_a_host};

/// The page's blocks for Podman: installation, and a check that it works.
fn podman() -> (String, String) {
    let [install, proof] = blocks("docs/containers.md", "Podman").try_into().unwrap();
    assert!(install.contains("podman run") && proof.contains("curl"), "{install}{proof}");
    (install.replace("COMMAND", "sh -c 'echo started'"), proof)
}

#[test]
fn podman_as_the_page_says_is_under_enforcement_and_shows_it() {
    let (install, proof) = podman();
    let script = format!(
        "echo '-- install'; {install}
         echo '-- proof'; {proof}
         echo '-- doctor'; interceptor doctor | grep -A1 podman
         echo '-- unknown'; podman run --network none --annotation io.interceptor.policy=other \
         image echo started || echo refused $?
         echo '-- unset'; unset=/etc/interceptor/policies/unset.json
         echo '{{\"credentials_v2\":{{\"openai\":{{\"key\":{{\"env\":\"NO_SUCH_KEY\"}}}}}}}}' > \
         $unset
         podman run --network none --annotation io.interceptor.policy=unset image echo started || \
         rm $unset
         echo '-- again'; interceptor install podman
         echo '-- left'; ls /run/interceptor/oci /etc/interceptor/policies
         echo '-- records'; cat /var/log/interceptor/containers.jsonl
         echo '-- end'"
    );
    let (success, text) = on_a_host(&script);
    assert!(success, "{text}");
    let installed = after(&text, "install");
    assert!(installed.contains("proved: a container under a policy was refused egress"), "{text}");
    assert!(
        installed.contains("writing /usr/share/containers/oci/hooks.d/interceptor.json"),
        "{text}"
    );
    assert!(installed.ends_with("\nstarted"), "{text}");
    assert!(
        after(&text, "proof")
            .contains(r#"{"error":{"type":"host_denied","message":"192.0.2.1 port 80"#),
        "{text}"
    );
    assert!(after(&text, "doctor").contains("the hook is in force"), "{text}");
    let unknown = after(&text, "unknown");
    assert!(
        unknown.contains("Error: ") && unknown.contains("refused") && !unknown.contains("started"),
        "{text}"
    );
    let line = unknown.lines().find(|line| line.starts_with("Error: ")).unwrap();
    assert!(line.contains("refuses this container") && line.contains("unknown policy `"), "{line}");
    let unset = after(&text, "unset");
    assert!(
        unset.contains("is not set; policies for containers name keys by file")
            && !unset.contains("started"),
        "{unset}"
    );
    assert!(after(&text, "again").contains("is already installed"), "{text}");
    assert_eq!(
        after(&text, "left"),
        "/etc/interceptor/policies:\nagent.json\n\n/run/interceptor/oci:",
        "{text}"
    );
    assert!(after(&text, "records").contains(r#""type":"host_denied""#), "{text}");
    assert!(
        !Path::new("/etc/interceptor/policies/agent.json").exists(),
        "the machine's own was changed"
    );
}

#[test]
fn where_the_hook_has_no_effect_everything_says_so() {
    let (_, proof) = podman();
    let script = format!(
        "shown() {{ {proof} }}
         install -m 755 target/release/interceptor /usr/local/bin/
         echo '-- none'; interceptor doctor | grep -A1 podman
         shown || echo nothing answered
         echo '-- dry'; interceptor install podman --dry-run; ls /usr/share/containers/oci \
         /etc/interceptor || true
         interceptor install podman > /dev/null
         directory=/etc/containers/oci/hooks.d; mkdir -p $directory; mv \
         /usr/share/containers/oci/hooks.d/interceptor.json $directory
         echo '-- elsewhere'; interceptor doctor | grep -A1 podman
         shown || echo nothing answered
         sed -i 's,\\[engine\\],[engine]\\nhooks_dir = [\"'$directory'\"],' \
         /etc/containers/containers.conf
         echo '-- configured'; interceptor doctor | grep podman
         interceptor install podman
         mv /usr/local/bin/interceptor /usr/local/bin/i
         echo '-- moved'; i doctor | grep podman
         shown || echo nothing answered
         echo '-- own'; chmod 777 . && target/release/interceptor install podman || echo refused
         mv /usr/local/bin/i /usr/local/bin/interceptor
         echo '-- uninstalled'; interceptor install podman --uninstall; ls $directory
         echo '-- broken'; printf '#!/bin/sh\\nexec /usr/bin/cat > /dev/null\\n' > \
         /usr/local/bin/quiet; chmod 755 /usr/local/bin/quiet
         printf \
         '{{\"version\":\"1.0.0\",\"hook\":{{\"path\":\"/usr/local/bin/quiet\",\"args\":[\"x\",\"\
         oci-hook\"]}},\"when\":{{\"always\":true}},\"stages\":[\"createRuntime\"]}}' > \
         $directory/quiet.json
         interceptor install podman || echo unproved $?
         echo '-- end'"
    );
    let (success, text) = on_a_host(&script);
    assert!(success, "{text}");
    let none = after(&text, "none");
    assert!(
        none.contains("warn  podman")
            && none.contains("unconfined")
            && none.contains("interceptor install podman"),
        "{text}"
    );
    assert!(none.contains("nothing answered"), "{text}");
    let dry = after(&text, "dry");
    assert!(
        dry.contains("would write /usr/share/containers/oci/hooks.d/interceptor.json"),
        "{text}"
    );
    assert_eq!(dry.matches("No such file or directory").count(), 2, "{text}");
    let elsewhere = after(&text, "elsewhere");
    assert!(elsewhere.contains("podman does not read /etc/containers/oci/hooks.d"), "{text}");
    assert!(elsewhere.contains("nothing answered") && !elsewhere.contains("host_denied"), "{text}");
    let configured = after(&text, "configured");
    assert!(
        configured.contains("in force: /etc/containers/oci/hooks.d")
            && configured.contains("proved:"),
        "{text}"
    );
    // Podman ignores a hook whose program is missing.
    let moved = after(&text, "moved");
    assert!(moved.contains("does not exist") && moved.contains("nothing answered"), "{text}");
    assert!(after(&text, "own").contains("users other than root can change"), "{text}");
    assert_eq!(
        after(&text, "uninstalled"),
        "removed /etc/containers/oci/hooks.d/interceptor.json",
        "{text}"
    );
    // A program that looks like the hook but does nothing is detected.
    let broken = after(&text, "broken");
    assert!(broken.contains("was not intercepted") && broken.contains("unproved 1"), "{text}");
}

#[test]
fn the_podman_example_runs_its_agent_under_enforcement() {
    let script = "install -m 755 target/release/interceptor /usr/local/bin/
         interceptor install podman > /dev/null
         printf sk-example > /etc/interceptor/openai
         install -m 600 examples/podman/agent.json /etc/interceptor/policies/agent.json
         sed -i 's,/v1/responses,/v1/models,' /etc/interceptor/policies/agent.json
         sed -i 's|\"oci-hook\"|\"oci-hook\", \"--resolve\", \"api.openai.com:192.0.2.1\"|' \
                  /usr/share/containers/oci/hooks.d/interceptor.json
         echo '-- agent'; IMAGE=image examples/podman/run-agent.sh || echo ended $?
         echo '-- end'";
    let (success, text) = on_a_host(script);
    assert!(success, "{text}");
    let agent = after(&text, "agent");
    assert!(agent.contains("POST /v1/responses was refused by the endpoint rules"), "{text}");
    assert!(agent.ends_with("ended 1"), "{text}");
}

/// Runs a script as [`on_a_host`] does, with a cgroup for the containers of `docker`, and waits for
/// their end.
fn with_docker(script: &str) -> String {
    let made = "export DOCKER_CGROUP=; [ -z \"$quirks\" ] || \
                DOCKER_CGROUP=/sys/fs/cgroup/docker-$$
         [ -z \"$DOCKER_CGROUP\" ] || mkdir $DOCKER_CGROUP
         ended() {
             podman rm --force --all > /dev/null 2>&1 || true
             [ -n \"$DOCKER_CGROUP\" ] || return 0
             echo 1 > $DOCKER_CGROUP/cgroup.kill
             while ! rmdir $DOCKER_CGROUP 2> /dev/null; do sleep 0.05; done
         }
         trap ended EXIT
         install -m 755 target/release/interceptor /usr/local/bin/";
    let (success, text) = on_a_host(&format!("{made}\n{script}\necho '-- end'"));
    assert!(success, "{text}");
    text
}

#[test]
fn docker_without_the_runtime_as_the_page_says_is_under_enforcement() {
    let [narrow] = blocks("docs/containers.md", "CRI-O by the hook").try_into().unwrap();
    let [attach] = blocks("docs/containers.md", "Docker without the runtime").try_into().unwrap();
    let text = with_docker(&format!(
        "cp /usr/share/containers/seccomp.json profile.json
         {narrow}
         mkfifo ready; \
         {{ {} }} > ready & exec 3< ready
         while read -r line <&3; do case $line in '{{'*) break;; \
         esac; done
         echo '-- agent'; docker exec agent curl -sS http://192.0.2.1/ || echo ended $?
         echo '-- sockets'; docker exec agent python3 -c 'import socket; socket.socket(40, 1)' \
         2>&1 | tail -n 1
         kill $!",
        attach.replace("COMMAND", "sleep infinity")
    ));
    assert!(after(&text, "agent").contains(r#"{"error":{"type":"host_denied""#), "{text}");
    // AF_VSOCK: the profile is narrowed.
    assert!(after(&text, "sockets").contains("Error"), "{text}");
}

#[test]
fn the_docker_example_runs_its_agent_under_enforcement() {
    let text = with_docker(
        "printf sk-example > key; chmod 600 key
         sed \"s,/etc/interceptor/openai,$PWD/key,; s,/v1/responses,/v1/models,\" \
         examples/podman/agent.json > agent.json
         echo '-- agent'; IMAGE=image examples/docker/run-agent.sh agent.json --resolve \
         api.openai.com:192.0.2.1 || echo ended $?",
    );
    let agent = after(&text, "agent");
    assert!(agent.contains("POST /v1/responses was refused by the endpoint rules"), "{text}");
    assert!(agent.ends_with("ended 1"), "{text}");
}
