//! Support for sandboxed Python programs that send what no client sends: raw connections, with or
//! without TLS, and HTTP/2 frame by frame.

/// The beginning of such a program. `HOST` must be set before it.
pub const PYTHON: &str = r"
import socket, ssl, struct, sys, time
def tcp(port=443, patience=20):
    s = socket.create_connection((HOST, port), patience)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
def tls(alpn='http/1.1', patience=20, trusting=True):
    context = ssl.create_default_context() if trusting else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([alpn])
    return context.wrap_socket(tcp(patience=patience), server_hostname=HOST)
def rest(s):
    'Everything until the other side closes.'
    got = b''
    try:
        while part := s.recv(65536): got += part
    except OSError: pass
    return got
def answer(s):
    'The status line of the next answer.'
    return s.recv(4096).split(b'\r\n')[0].decode()
def whole(f):
    'The status line of the next answer, which has a length, once all of it was read.'
    status, length = f.readline().decode().strip(), 0
    while (line := f.readline().lower()) not in (b'\r\n', b''):
        if line.startswith(b'content-length:'): length = int(line.split(b':')[1])
    f.read(length)
    return status
def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + struct.pack('>BBI', kind, flags, stream) + payload
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
def varint(number, bits):
    most = (1 << bits) - 1
    if number < most: return bytes([number])
    out, number = bytes([most]), number - most
    while number >= 128: out += bytes([number & 127 | 128]); number >>= 7
    return out + bytes([number])
def text(value): return varint(len(value), 7) + value
def field(name, value): return b'\x00' + text(name) + text(value)
def block(method, path, fields=()):
    pairs = [(b':method', method), (b':scheme', b'https'), (b':authority', HOST.encode()),
             (b':path', path)]
    return b''.join(field(*pair) for pair in [*pairs, *fields])
class H2:
    'One connection; streams are numbered by whoever uses it.'
    def __init__(self, patience=20):
        self.s, self.buffer = tls('h2', patience), b''
        self.s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(SETTINGS, 0, 0))
    def head(self, stream, head, end=False):
        pieces = [head[at:at + 16384] for at in range(0, len(head), 16384)]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            flags = (1 if end and number == 0 else 0) | (4 if last else 0)
            self.s.sendall(frame(CONTINUATION if number else HEADERS, flags, stream, piece))
    def data(self, stream, data, end=False): self.s.sendall(frame(DATA, int(end), stream, data))
    def next(self):
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], 'big'):
            part = self.s.recv(65536)
            if not part: return None
            self.buffer += part
        length = int.from_bytes(self.buffer[:3], 'big')
        head, data = self.buffer[:9], self.buffer[9:9 + length]
        self.buffer = self.buffer[9 + length:]
        return head[3], head[4], int.from_bytes(head[5:9], 'big'), data
    def answer(self, stream):
        'How a stream ended, and the data that came on it.'
        got = b''
        while True:
            try: came = self.next()
            except OSError: return 'closed', got
            if came is None or came[0] == GOAWAY: return 'closed', got
            kind, flags, number, data = came
            if kind == SETTINGS and not flags & 1: self.s.sendall(frame(SETTINGS, 1, 0))
            if kind == PING and not flags & 1: self.s.sendall(frame(PING, 1, 0, data))
            if number != stream: continue
            if kind == RST: return 'reset', got
            if kind == DATA: got += data
            if kind in (DATA, HEADERS) and flags & 1: return 'ended', got
";

/// A program that begins with [`PYTHON`] for this host.
pub fn program(host: &str, rest: &str) -> String {
    format!("HOST = {host:?}\n{PYTHON}\n{rest}")
}
