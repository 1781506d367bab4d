//! A machine that systemd manages: systemd as the first process of a process namespace, on a file
//! system of its own. Nothing of it is written outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::Cgroup;
use crate::sandbox::binary;

/// The time limit for the start, in which other tests may take the processors.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time limit for a command inside, in seconds.
const COMMAND: &str = "120";

/// Makes the file system and starts systemd. Units of the system's that are about hardware, or
/// write to what the namespace shares with the host, are masked.
const BOOT: &str = r#"
set -e
place=$1 program=$2
mount -t tmpfs tmpfs "$place"
root=$place/root
mkdir "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
for name in etc home mnt opt proc root run sys tmp usr var/lib var/log var/tmp dev; do
    mkdir -p "$root/$name"
done
ln -s /run "$root/var/run"
for name in bin sbin lib lib32 lib64 libx32; do
    [ ! -L /$name ] || ln -s usr/$name "$root/$name"
done
mount --bind -o ro /usr "$root/usr"
mkdir "$place/upper" "$place/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$place/upper,workdir=$place/work" "$root/etc"
for name in run tmp; do mount -t tmpfs tmpfs "$root/$name"; done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
cp "$program" "$root/opt/interceptor"
units=$root/etc/systemd/system
rm -rf "$units"/*.wants
for unit in dev-hugepages.mount dev-mqueue.mount kmod-static-nodes.service \
    proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount systemd-binfmt.service \
    systemd-modules-load.service systemd-random-seed.service systemd-remount-fs.service \
    systemd-sysctl.service systemd-tmpfiles-clean.timer systemd-tmpfiles-setup-dev.service \
    systemd-tmpfiles-setup.service systemd-udev-trigger.service systemd-udevd.service
do
    ln -sf /dev/null "$units/$unit"
done
printf '[Unit]\nDescription=a machine\n' > "$units/machine.target"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec unshare --cgroup --pid --fork --kill-child --mount-proc sh -c '
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=machine.target --log-target=null'
"#;

/// A machine that runs. Dropping it ends all of it.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    cgroup: Cgroup,
    /// Of the first process, outside.
    init: String,
    _place: tempfile::TempDir,
}

impl Machine {
    /// Where the interceptor is.
    pub const INTERCEPTOR: &str = "/opt/interceptor";

    /// Starts one.
    ///
    /// # Panics
    /// If systemd does not run.
    #[track_caller]
    pub fn start() -> Machine {
        let place = tempfile::tempdir().expect("a directory");
        let cgroup = Cgroup::new();
        let mut command = cgroup.command("unshare");
        command.args(["--mount", "--propagation", "private", "--net", "--uts", "--ipc"]);
        command.args(["sh", "-c", BOOT, "boot"]).arg(place.path()).arg(binary("interceptor"));
        let process = command.stdin(Stdio::null()).spawn().expect("unshare(1)");
        let mut machine = Machine { process, cgroup, init: String::new(), _place: place };
        let deadline = Instant::now() + PATIENCE;
        while !machine.is_up() {
            let ended = machine.process.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "systemd does not run: {ended:?}"
            );
            thread::sleep(Duration::from_millis(50));
        }
        machine
    }

    fn is_up(&mut self) -> bool {
        let first = self.cgroup.path().join("init.scope/cgroup.procs");
        let Ok(first) = fs::read_to_string(first) else { return false };
        let Some(init) = first.lines().next() else { return false };
        init.clone_into(&mut self.init);
        let state = self.run(&["systemctl", "is-system-running"]);
        ["running\n", "degraded\n"].iter().any(|up| state.stdout == up.as_bytes())
    }

    /// Runs a command inside as root.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        let inside = self.cgroup.path().join("outside");
        fs::create_dir_all(&inside).expect("a cgroup");
        let mut enter = Command::new("sh");
        enter.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(inside);
        enter.args(["timeout", COMMAND, "nsenter", "--target", &self.init]);
        enter.args(["--mount", "--pid", "--net", "--cgroup", "--uts", "--ipc", "--wdns=/"]);
        enter.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]);
        enter.args(command).stdin(Stdio::null()).output().expect("nsenter(1)")
    }

    /// Runs a script inside as a user, in the user's home.
    #[track_caller]
    pub fn script(&self, user: &str, script: &str) -> Output {
        self.run(&["runuser", "-l", user, "-s", "/bin/sh", "-c", script])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.path().join("cgroup.kill"), "1");
        let _ = self.process.wait();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !remove_below(self.cgroup.path()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Removes the cgroups below one, from the bottom up. Returns whether none is left.
fn remove_below(cgroup: &Path) -> bool {
    let Ok(entries) = fs::read_dir(cgroup) else { return true };
    let below = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let below: Vec<PathBuf> = below.collect();
    below.iter().fold(true, |all, path| (remove_below(path) && fs::remove_dir(path).is_ok()) & all)
}
