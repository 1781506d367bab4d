//! A host for the commands in documents: a mount namespace that hides the machine's engine and hook
//! files, with Podman, an image, and a checkout with the built program. Podman is also available as
//! Docker, whose commands it accepts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sandbox::binary;

/// Makes the host: writable copies of directories that commands install into, empty state
/// directories, an image, and a checkout with the built program.
const HOST: &str = r#"
set -e
export place=$1; program=$2; shift 2
mount -t tmpfs tmpfs "$place"
for directory in /etc /usr/local/bin /usr/share/containers /var/lib /var/log; do
    copy=$place/layers$directory; mkdir -p "$copy/upper" "$copy/work"
    layers=lowerdir=$directory,upperdir=$copy/upper,workdir=$copy/work
    mount -t overlay overlay -o "$layers" $directory
done
rm -rf /etc/interceptor
mkdir -p /var/lib/containers
for directory in /run /var/lib/containers /dev/shm; do mount -t tmpfs tmpfs $directory; done
export quirks=
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    # Engines know cgroup v2 at its usual place only; there no controllers are left for them.
    ! mountpoint -q /sys/fs/cgroup || umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    quirks='cgroups = "disabled"'
fi
cat > /etc/containers/containers.conf <<END
[containers]
volumes = ["/usr:/usr:ro"]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
$quirks
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
END
cat > /etc/containers/storage.conf <<END
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
END
root=$place/root
for name in etc usr tmp proc sys dev run; do mkdir -p "$root/$name"; done
for name in bin sbin lib lib32 lib64 libx32; do
    [ ! -L /$name ] || ln -s usr/$name "$root/$name"
done
tar -C "$root" -cf "$place/image.tar" .
podman import --quiet "$place/image.tar" image > /dev/null
mkdir -p "$place/bin" "$place/checkout/target/release"
printf '#!/bin/sh\n[ "$1" != -E ] || shift\nexec "$@"\n' > "$place/bin/sudo"
chmod 755 "$place/bin/sudo"
# Containers that get no cgroup of their own share this one, and nobody else does.
cat > "$place/bin/docker" <<'END'
#!/bin/sh
if { [ "$1" = run ] || [ "$1" = exec ]; } && [ -n "$DOCKER_CGROUP" ]; then
    echo $$ > "$DOCKER_CGROUP/cgroup.procs"
fi
exec podman "$@"
END
chmod 755 "$place/bin/docker"
cp -r "$1" "$place/checkout/examples"; shift
cp "$program" "$place/checkout/target/release/interceptor"
cd "$place/checkout"; PATH=$place/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
printf '{"network":{"allow":["api.example.com"]}}' > policy.json
exec sh -ec "$1"
"#;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The scripts in a section of a page, with `IMAGE` replaced by the host's image.
///
/// # Panics
/// If there is no such page or section.
#[track_caller]
pub fn blocks(page: &str, section: &str) -> Vec<String> {
    let text = fs::read_to_string(repository(page)).expect("a page");
    let section = text.split_once(&format!("\n## {section}\n")).expect("a section").1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().replace("IMAGE", "image"))
        .collect()
}

/// The output of a script on such a host, and whether it succeeds.
///
/// # Panics
/// When the host cannot be made.
pub fn on_a_host(script: &str) -> (bool, String) {
    run_on_a_host(&[], script)
}

/// The same with a PID namespace, whose processes end with the script, daemons too. `docker` is
/// Docker's own; `image`, an archive with curl, is at `$place/curl.tar`.
///
/// # Panics
/// As [`on_a_host`].
pub fn on_a_host_of_daemons(script: &str) -> (bool, String) {
    let own = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    run_on_a_host(&own, &format!("{DAEMONS}\n{script}"))
}

/// What only hosts of daemons need.
const DAEMONS: &str = r#"rm "$place/bin/docker"
root=$place/curl; mkdir -p "$root/bin" "$root/tmp" "$root/etc"
for program in curl sh; do
    file=$(command -v $program); cp -L "$file" "$root/bin/"
    ldd "$file" | grep -o '/[^ )]*' | while read -r library; do
        cp -L --parents "$library" "$root/"
    done
done
tar -C "$root" -cf "$place/curl.tar" .
# $1: a command that succeeds once a daemon is ready.
ready() {
    for i in $(seq 600); do ! sh -c "$1" > /dev/null 2>&1 || return 0; sleep 0.1; done
    echo "never ready: $1"; cat "$place/daemon.log"; exit 1
}
group=/interceptor-page-$(basename "$place"); mkdir "/sys/fs/cgroup$group"
ended() {
    echo 1 > "/sys/fs/cgroup$group/cgroup.kill"
    for i in $(seq 600); do
        find "/sys/fs/cgroup$group" -depth -type d -exec rmdir {} + 2> /dev/null || true
        [ -d "/sys/fs/cgroup$group" ] || return 0
        sleep 0.05
    done
}
trap ended EXIT
"#;

fn run_on_a_host(namespaces: &[&str], script: &str) -> (bool, String) {
    let place = tempfile::tempdir().expect("a directory");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(namespaces)
        .args(["sh", "-c", HOST, "host"])
        .arg(place.path())
        .arg(binary("interceptor"))
        .arg(repository("examples"))
        .arg(format!("exec 2>&1; {script}"))
        .stdin(Stdio::null())
        .output()
        .expect("unshare(1)");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Everything after a line that the script has printed, up to the next such line.
///
/// # Panics
/// If it has not been printed.
#[track_caller]
pub fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    let (_, rest) =
        text.split_once(&format!("-- {mark}\n")).unwrap_or_else(|| panic!("no {mark} in:\n{text}"));
    rest.split("\n-- ").next().unwrap_or_default()
}
