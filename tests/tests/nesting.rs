//! A sandbox inside the sandbox (`run --nesting`): it starts, and nothing that the root of a user
//! namespace can do leads out of this one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use interceptor_tests::Lab;
use interceptor_tests::cage::PYTHON;
use interceptor_tests::sandbox::Sandbox;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

fn nested<'lab>(lab: &'lab Lab, policy: &Value) -> Sandbox<'lab> {
    lab.sandbox(policy).quiet_log().option("--nesting").at_origin(HOST).at_forbidden("evil.test")
}

/// The prelude of every attempt below: system calls that no library offers, and a child as the root
/// of a user namespace.
const ROOT: &str = r"
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
BIND, REC, DETACH = 4096, 16384, 2
def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def mount(source, target, kind=None, flags=0, data=None):
    code = lambda text: text.encode() if text else None
    check(libc.mount(code(source), code(target), code(kind), ctypes.c_ulong(flags), code(data)))
def umount(target, flags=0): check(libc.umount2(target.encode(), flags))
def attempt(name, do, fine=False):
    try: result = do()
    except OSError as e: result = None; fine = True
    if not fine: print(name, 'WENT', result, flush=True)
def as_root(flags, do):
    uid, gid = os.getuid(), os.getgid()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            check(libc.unshare(NEWUSER | flags))
            open('/proc/self/setgroups', 'w').write('deny')
            open('/proc/self/uid_map', 'w').write(f'0 {uid} 1')
            open('/proc/self/gid_map', 'w').write(f'0 {gid} 1')
            assert os.getuid() == 0
            do()
        except BaseException as e: print('FAILED', repr(e), flush=True)
        sys.stdout.flush(); os._exit(0)
    os.waitpid(child, 0)
";

#[test]
fn an_agents_own_sandbox_starts_inside_and_uses_the_key() {
    Lab::test_on_both_roads(|lab| {
        let policy = policy(lab);
        let bubblewrap = "bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-user \
                          --unshare-pid --unshare-ipc --unshare-uts --hostname x";
        let ask = format!(
            "curl -sS -o /dev/null -w '%{{http_code}} ' \
             -H \"authorization: Bearer $LAB_API_KEY\" https://{HOST}/x"
        );
        let script = format!(
            "{bubblewrap} sh -c \"$0; ls /proc | grep -c ^1\\$\"
             {bubblewrap} --unshare-net --unshare-cgroup sh -c \"$0\" >/dev/null || echo none"
        );
        let outcome = nested(lab, &policy).run(&["sh", "-c", &script, &ask]);
        let text = outcome.success().out();
        assert!(
            text.starts_with("200 1\n") && text.ends_with("none\n"),
            "{text}{}",
            outcome.tail()
        );
        assert_eq!(lab.seen().len(), 1);
        for seen in lab.seen() {
            assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
        }
        // Without the flag it is still refused.
        let refused = lab
            .sandbox(&policy)
            .quiet_log()
            .shell(&format!("{bubblewrap} echo inner; echo status $?"));
        assert_eq!(refused.out(), "status 1\n");
        assert!(refused.err().contains("ermi"), "{}", refused.err());
    });
}

#[test]
fn options_that_cannot_work_are_rejected_before_the_start() {
    Lab::test(|lab| {
        let outcome = lab
            .sandbox(&policy(lab))
            .quiet_log()
            .bare()
            .option("--nesting")
            .user("root")
            .run(&["true"]);
        assert_eq!(outcome.code(), Some(125));
        assert!(outcome.err().contains("choose another --user"), "{}", outcome.err());
    });
}

#[test]
fn k25_no_cover_comes_off_for_the_root_of_a_user_namespace() {
    Lab::test_on_both_roads(|lab| {
        // A key that only the cover keeps from the sandbox's user, beside files that it may change.
        let key = lab.work().join("readable.key");
        fs::write(&key, lab.key()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        // Uncovered files are visible, so the attempts can find something.
        fs::write(lab.work().join("visible"), "x").unwrap();
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["key"] = json!({ "file": key });
        // Without sudo, what no policy names is the member's to read.
        fs::remove_file(lab.directory().join("key")).unwrap();
        let program = format!(
            r#"{ROOT}
DIR, KEY = {work:?}, {key:?}
before = os.open(DIR, os.O_RDONLY)
def look(name, *paths):
    for path in paths:
        for directory in None, before:
            try: descriptor = os.open(path, os.O_RDONLY, dir_fd=directory)
            except OSError: continue
            if os.read(descriptor, 100): print(name, 'LEAK', path, flush=True)
            os.close(descriptor)
def everywhere(name):
    look(name, KEY, 'readable.key', '/tmp/x/readable.key', '/tmp/y/readable.key', 'alias', 'moved',
         DIR + '/moved', '/proc/1/root' + KEY)
os.makedirs('/tmp/x', exist_ok=True); os.makedirs('/tmp/y', exist_ok=True)
everywhere('plain')
if os.read(os.open(DIR + '/visible', os.O_RDONLY), 100): print('seen', flush=True)
def covers():
    for path in KEY, '/run', '/proc', '/sys', '/dev', '/etc/resolv.conf', '/run/.hidden':
        for flags in 0, DETACH, 8:
            hidden = path == '/run/.hidden'
            attempt(f'umount {{path}} {{flags}}', lambda: umount(path, flags), hidden)
            everywhere(f'umount {{path}}')
def bound():
    attempt('bind of one mount', lambda: mount(DIR, '/tmp/x', None, BIND)); everywhere('bind')
    mount(DIR, '/tmp/x', None, BIND | REC); everywhere('rbind')
    attempt('umount in a copy', lambda: umount('/tmp/x/readable.key', DETACH))
    everywhere('umount in a copy')
    attempt('bind over', lambda: mount('/dev/null', KEY, None, BIND), True); everywhere('bind over')
    attempt('umount over', lambda: umount(KEY, DETACH), True); everywhere('umount over')
    attempt('umount below', lambda: umount(KEY, DETACH)); everywhere('umount below')
    attempt('move', lambda: mount(KEY, '/tmp/y', None, 8192)); everywhere('move')
def layered():
    mount('tmpfs', '/tmp/y', 'tmpfs'); os.mkdir('/tmp/y/u'); os.mkdir('/tmp/y/w')
    def overlay(layers): return lambda: mount('overlay', '/tmp/x', 'overlay', 0, layers)
    attempt('overlay', overlay(f'lowerdir={{DIR}},upperdir=/tmp/y/u,workdir=/tmp/y/w'), True)
    everywhere('overlay')
    attempt('overlay of two', overlay(f'lowerdir={{DIR}}:/etc'), True)
    everywhere('overlay of two')
def moved_roots():
    mount('tmpfs', '/tmp/x', 'tmpfs'); os.mkdir('/tmp/x/old')
    os.chdir('/tmp/x')
    check(libc.syscall(41 if os.uname().machine == 'aarch64' else 155, b'.', b'old'))
    umount('/old', DETACH); os.chdir('/')
    everywhere('pivot_root')
    # This namespace no longer covers the file: who may write its directory may rename it.
    def by(call, old, new): return lambda: call(old, new, src_dir_fd=before, dst_dir_fd=before)
    attempt('link', by(os.link, 'readable.key', 'alias')); everywhere('link')
    attempt('rename', by(os.rename, 'readable.key', 'moved'), True); everywhere('rename')
    attempt('rename back', by(os.rename, 'moved', 'readable.key'), True)
    everywhere('rename back')
for do in covers, bound, layered, moved_roots:
    as_root(NEWNS, do); everywhere('after ' + do.__name__)
    as_root(NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP, do)
    everywhere('after ' + do.__name__)
    as_root(NEWNS, lambda: as_root(NEWNS, do)); everywhere('after ' + do.__name__)
print('done')
"#,
            work = lab.work().display().to_string(),
            key = key.display().to_string(),
        );
        let outcome = nested(lab, &policy).run(&[PYTHON, "-c", &program]);
        let text = outcome.success().out();
        // The oracles look for keys in what the sandbox wrote.
        let content = fs::read_to_string(&key);
        fs::remove_file(&key).unwrap();
        assert_eq!(
            (text.as_str(), content.unwrap().as_str()),
            ("seen\ndone\n", lab.key()),
            "{}",
            outcome.tail()
        );
    });
}

#[test]
fn k25_no_namespace_inside_has_a_way_out() {
    Lab::test_on_both_roads(|lab| {
        let program = format!(
            r#"{ROOT}
import subprocess
V6 = socket.AF_INET6
def ways(expected):
    for name, do in (
        ('tcp', lambda: socket.create_connection(('203.0.113.9', 80), 5)),
        ('tcp6', lambda: socket.create_connection(('2001:db8::9', 80), 5)),
        ('udp', lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.9', 443))),
        ('udp6', lambda: socket.socket(V6, socket.SOCK_DGRAM).sendto(b'x', ('2001:db8::9', 443))),
        ('raw', lambda: socket.socket(type=socket.SOCK_RAW, proto=255)),
        ('icmp', lambda: socket.socket(type=socket.SOCK_DGRAM, proto=1)),
        ('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        ('packet by its old name', lambda: socket.socket(socket.AF_INET, 10)),
        ('vsock', lambda: socket.socket(40, socket.SOCK_STREAM)),
        ('netfilter', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)),
        ('xfrm', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)),
        ('tun', lambda: os.open('/dev/net/tun', os.O_RDWR)),
        ('tun made', lambda: os.mknod('/tmp/tun', 0o20666, os.makedev(10, 200))),
    ): attempt(name, do, name in expected)
def network(flags):
    def do():
        subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        # Devices of its own lead nowhere: both of their ends are here.
        for line in ('link add a type veth peer name b', 'address add 203.0.113.1/24 dev a',
                     'link set a up', 'link set b up', 'route add default via 203.0.113.2 dev a'):
            subprocess.run(['ip', *line.split()])
        given = subprocess.run(['ip', 'link', 'set', 'b', 'netns', '1'], capture_output=True)
        if given.returncode == 0: print('a device WENT to another namespace')
        ways(())
    return do
# In the sandbox's own network TCP is intercepted, as ever.
as_root(0, lambda: ways(('tcp', 'tcp6')))
as_root(NEWNS, lambda: ways(('tcp', 'tcp6')))
for flags in NEWNET, NEWNET | NEWNS | NEWIPC | NEWUTS | NEWCGROUP:
    as_root(flags, network(flags))
    as_root(flags, lambda: as_root(flags, network(flags)))
print('done')
"#
        );
        for host_net in [false, true] {
            let sandbox = nested(lab, &policy(lab));
            let sandbox = if host_net { sandbox.host_net() } else { sandbox };
            let outcome = sandbox.run(&[PYTHON, "-c", &program]);
            assert_eq!(outcome.success().out(), "done\n", "{}", outcome.tail());
        }
    });
}

#[test]
fn k25_the_kernels_switches_stay_out_of_reach_of_the_root_of_a_user_namespace() {
    Lab::test_on_both_roads(|lab| {
        let program = format!(
            r#"{ROOT}
import glob, stat
ALL = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP
arm = os.uname().machine == 'aarch64'
def read(path): return lambda: os.read(os.open(path, os.O_RDONLY), 1)
def write(path, text): return lambda: os.write(os.open(path, os.O_WRONLY), text.encode())
def kernel():
    os.makedirs('/tmp/m', exist_ok=True)
    mount('tmpfs', '/tmp/m', 'tmpfs')
    # The cgroup file system shows this cgroup as its root, and all of it is the host's root's.
    for version, kind, data in ((2, 'cgroup2', None), (1, 'cgroup', 'pids'),
                                (1, 'cgroup', 'memory'), (1, 'cgroup', 'none,name=x')):
        directory = f'/tmp/m/{{kind}}{{data or ""}}'.replace('=', '').replace(',', '')
        os.makedirs(directory)
        try: mount('none', directory, kind, 0, data)
        except OSError: continue
        if os.path.exists(directory + '/interceptor'): print('the tree above is SHOWN', directory)
        attempt('new cgroup', lambda: os.mkdir(directory + '/new'))
        for file in glob.glob(directory + '/**/*', recursive=True):
            text = str(os.getpid()) if file.endswith(('procs', 'tasks', 'threads')) else 'max'
            attempt('write ' + file, write(file, text))
    for kind in 'bpf', 'debugfs', 'tracefs', 'securityfs', 'devtmpfs', 'configfs', 'nfsd':
        directory = '/tmp/m/' + kind; os.makedirs(directory)
        # An empty bpffs of one's own holds no pins of anybody's; there is no bpf(2) to use it.
        try: mount(kind, directory, kind)
        except OSError: continue
        for name in os.listdir(directory): print(kind, 'SHOWS', name)
    for name, kind, major, minor in (('mem', stat.S_IFCHR, 1, 1), ('kmsg', stat.S_IFCHR, 1, 11),
                                     ('disk', stat.S_IFBLK, 254, 0), ('vda', stat.S_IFBLK, 8, 0)):
        device = os.makedev(major, minor)
        attempt('mknod ' + name, lambda: os.mknod('/tmp/m/' + name, kind | 0o666, device))
    os.makedirs('/tmp/m/proc')
    try: mount('proc', '/tmp/m/proc', 'proc')
    except OSError: pass
    for proc in '/proc', '/tmp/m/proc':
        for name in ('sys/kernel/core_pattern', 'sys/kernel/modprobe', 'sysrq-trigger',
                     'sys/vm/overcommit_memory', 'sys/kernel/randomize_va_space',
                     'sys/kernel/unprivileged_bpf_disabled'):
            attempt(f'write {{proc}}/{{name}}', write(f'{{proc}}/{{name}}', '0'))
        for name in 'kcore', 'kmsg', 'kpagecount':
            attempt(f'read {{proc}}/{{name}}', read(f'{{proc}}/{{name}}'))
    for name in 'environ', 'mem', 'root/etc/passwd', 'ns/net', 'ns/mnt':
        attempt(f'read /proc/1/{{name}}', read(f'/proc/1/{{name}}'))
    buffer = ctypes.create_string_buffer(4096)
    for name, number, *arguments in (
        ('bpf', 280 if arm else 321, 0, buffer, 128),
        ('perf', 241 if arm else 298, buffer, 0, -1, -1, 0),
        ('io_uring', 425, 8, buffer),
        ('keyctl', 219 if arm else 250, 1, 0),
        ('setns', 268 if arm else 308, 0, 0),
        ('module', 105 if arm else 175, buffer, 1, buffer),
        ('ptrace', 117 if arm else 101, 16, 1, 0, 0),
        ('userfaultfd', 282 if arm else 323, 0),
        ('handle', 265 if arm else 304, 0, buffer, 0),
        ('swapon', 224 if arm else 167, buffer, 0),
        ('reboot', 142 if arm else 169, 0xfee1dead, 672274793, 0x89abcdef, 0),
        ('settime', 170 if arm else 164, buffer, 0),
        ('newtime', 97 if arm else 272, 0x80),
        ('fsopen', 430, b'tmpfs', 0),
        ('quota', 60 if arm else 179, 0, 0, 0, 0),
    ): attempt(name, lambda: check(libc.syscall(number, *arguments)))
as_root(NEWNS, kernel)
as_root(ALL, kernel)
def second(): # The first process of a PID namespace.
    child = os.fork()
    if child == 0:
        try: kernel()
        except BaseException as e: print('FAILED', repr(e), flush=True)
        sys.stdout.flush(); os._exit(0)
    os.waitpid(child, 0)
as_root(ALL & ~NEWPID, lambda: as_root(ALL, second))
status = dict(line.split(':\t') for line in open('/proc/self/status') if ':\t' in line)
print(status['NoNewPrivs'].strip(), status['Seccomp'].strip(), 'done')
"#
        );
        for host_net in [false, true] {
            let sandbox = nested(lab, &policy(lab));
            let sandbox = if host_net { sandbox.host_net() } else { sandbox };
            let outcome = sandbox.run(&[PYTHON, "-c", &program]);
            assert_eq!(outcome.success().out(), "1 2 done\n", "{}", outcome.tail());
        }
    });
}
