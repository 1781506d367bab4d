//! Keys on the wire: how HTTP/2 encodes them, and what reaches an HTTP/1.1 origin from every place
//! in which a key or placeholder could hide.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::origin::listen::{Listener, h2_frames};
use interceptor_tests::origin::record::Seen;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// How HPACK encodes a field (RFC 7541 section 6), and the index of its name, 0 for a literal name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Indexed(usize),
    Incremental(usize),
    NotIndexed(usize),
    NeverIndexed(usize),
}

/// An integer with a prefix of `bits` (RFC 7541 section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> usize {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(block[0]) & most;
    *block = &block[1..];
    if value == most {
        for shift in (0..).step_by(7) {
            let byte = block[0];
            *block = &block[1..];
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    value
}

fn skip_string(block: &mut &[u8]) {
    let length = integer(block, 7);
    *block = &block[length..];
}

fn fields(mut block: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    while let Some(&first) = block.first() {
        let (field, literal): (fn(usize) -> Field, bool) = match first {
            0x80.. => (Field::Indexed, false),
            0x40.. => (Field::Incremental, true),
            0x20.. => {
                integer(&mut block, 5);
                continue;
            }
            0x10.. => (Field::NeverIndexed, true),
            _ => (Field::NotIndexed, true),
        };
        let bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            _ => 4,
        };
        let index = integer(&mut block, bits);
        if literal {
            if index == 0 {
                skip_string(&mut block);
            }
            skip_string(&mut block);
        }
        fields.push(field(index));
    }
    fields
}

#[test]
fn c14_a_key_is_a_literal_never_indexed_on_the_wire() {
    /// `authorization` in the static table (RFC 7541 appendix A).
    const AUTHORIZATION: usize = 23;
    for (inject, expected) in [
        (json!({ "header": "authorization", "format": "Bearer {key}" }), AUTHORIZATION),
        (json!({ "basic": { "username": "me" } }), AUTHORIZATION),
        (json!({ "header": "x-billing-key" }), 0),
    ] {
        Lab::test(|lab| {
            let (origin, received) = Listener::h2(lab.handle(), lab.ca().clone());
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["inject"] = inject;
            let plan =
                Plan::https(HOST, "h2").ask_with("GET", "/v1/x", &[("x-other", "value")], "");
            let reports = lab.sandbox(&policy).resolve(HOST, origin.address()).fetch(&plan);
            assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
            let received = received.lock().unwrap().clone();
            let frames = h2_frames(&received);
            let (_, flags, block) = frames.iter().find(|(kind, ..)| *kind == 1).unwrap();
            assert_eq!(flags & 0x2c, 0x04, "a whole header block, without padding and priority");
            let fields = fields(block);
            let never: Vec<_> =
                fields.iter().filter(|field| matches!(field, Field::NeverIndexed(_))).collect();
            assert_eq!(never, [&Field::NeverIndexed(expected)], "{fields:?}");
            let other = |field: &Field| {
                matches!(
                    field,
                    Field::Incremental(AUTHORIZATION) | Field::NotIndexed(AUTHORIZATION)
                )
            };
            assert!(!fields.iter().any(other), "{fields:?}");
            // Tell the oracle what the origin parsed, because it keeps bytes and no records.
            lab.shared().records.push(Seen {
                connection: 0,
                tls: true,
                sni: None,
                client: None,
                protocol: "h2",
                host: HOST.to_owned(),
                method: "GET".to_owned(),
                path: "/v1/x".to_owned(),
                query: None,
                headers: vec![],
                body_bytes: None,
                body_sha256: None,
                trailers: vec![],
            });
        });
    }
}

/// Sends each row as a request on its own connection and prints its status. In a row's texts `@PH`
/// is the placeholder; others are forms of it.
const ROWS: &str = r#"
import base64, hashlib, json, os, socket, ssl, sys
ph = os.environ['LAB_API_KEY']; half = len(ph) // 2
b64 = lambda text: base64.b64encode(text.encode()).decode()
forms = {
    '@PHUPPER': ph.upper(), '@PHLOWER': ph.lower(), '@PH': ph,
    '@PCT': ''.join('%%%02x' % ord(c) for c in ph),
    '@JSON': ''.join('\\u%04x' % ord(c) for c in ph),
    '@PASSWORD': b64('user:' + ph), '@USER': b64(ph + ':'), '@B64': b64(ph),
    '@FIRST': ph[:half], '@SECOND': ph[half:], '@REVERSED': ph[::-1],
}
def dressed(text):
    for name, value in forms.items(): text = text.replace(name, value)
    return text
context = ssl.create_default_context()
for target, headers, body in json.load(sys.stdin):
    body = dressed(body).encode()
    head = ''.join(dressed(line) + '\r\n' for line in headers)
    method = 'POST' if body else 'GET'
    length = f'content-length: {len(body)}\r\n' if body else ''
    s = context.wrap_socket(socket.create_connection(('HOST', 443)), server_hostname='HOST')
    s.settimeout(20)
    head = f'{method} {dressed(target)} HTTP/1.1\r\nhost: HOST\r\n{length}{head}\r\n'
    s.sendall(head.encode() + body)
    print(s.recv(4096).split(b' ')[1].decode(), hashlib.sha256(body).hexdigest(), flush=True)
    s.close()
"#;

/// Target, fields and body of a request, and its status.
type Row = (&'static str, &'static [&'static str], &'static str, u16);

const PLACES: [Row; 44] = [
    ("/v1/x", &["authorization: Bearer @PH"], "", 200),
    ("/v1/x", &["Authorization: bearer @PH"], "", 200),
    ("/v1/x", &["AUTHORIZATION: BEARER   @PH  "], "", 200),
    ("/v1/x", &["authorization: @PH"], "", 200),
    ("/v1/x", &["authorization: token @PH"], "", 200),
    ("/v1/x", &["authorization: Basic @PASSWORD"], "", 200),
    ("/v1/x", &["authorization: basic @USER"], "", 200),
    ("/v1/x", &["authorization: Bearer @PH, Bearer @PH"], "", 200),
    ("/v1/x", &["authorization: Bearer @PH", "authorization: Bearer @PH"], "", 200),
    ("/v1/x", &["authorization: Bearer sk-own", "authorization: Bearer @PH"], "", 200),
    ("/v1/x", &["authorization: Bearer @PH", "authorization: Bearer sk-own"], "", 200),
    ("/v1/x", &["proxy-authorization: Bearer @PH"], "", 200),
    ("/v1/x", &["x-api-key: @PH"], "", 200),
    ("/v1/x", &["api-key: @PH", "x-goog-api-key: @PH"], "", 200),
    ("/v1/x", &["x-anything: @PH"], "", 200),
    ("/v1/x", &["x-anything: a@PHz"], "", 200),
    ("/v1/x", &["x-anything: @PH,@PH"], "", 200),
    ("/v1/x", &["x-anything: @PHUPPER"], "", 200),
    ("/v1/x", &["x-anything: @PHLOWER"], "", 200),
    ("/v1/x", &["x-anything: @PCT"], "", 200),
    ("/v1/x", &["x-anything: @JSON"], "", 200),
    ("/v1/x", &["x-anything: @B64"], "", 200),
    ("/v1/x", &["x-anything: @REVERSED"], "", 200),
    ("/v1/x", &["x-first: @FIRST", "x-second: @SECOND"], "", 200),
    ("/v1/x", &["@PH: value"], "", 200),
    ("/v1/x", &["cookie: a=b; session=@PH"], "", 200),
    ("/v1/x", &["referer: https://HOST/@PH"], "", 200),
    ("/v1/x", &["user-agent: client/1 (@PH)"], "", 200),
    ("/v1/x", &["connection: @PH"], "", 200),
    ("/v1/x", &["te: @PH"], "", 200),
    ("/v1/x", &["content-type: multipart/form-data; boundary=@PH"], "--@PH--", 200),
    ("/v1/x", &["sec-websocket-key: @PH"], "", 200),
    ("/v1/x", &["sec-websocket-protocol: chat, @PH"], "", 200),
    ("/v1/x", &["x-forwarded-for: @PH", "via: 1.1 @PH"], "", 200),
    ("/v1/@PH", &[], "", 200),
    ("/v1/@PCT/x", &[], "", 200),
    ("/v1/x?key=@PH", &[], "", 200),
    ("/v1/x?@PH", &[], "", 200),
    ("/v1/x?a=1&b=@PCT&c=2", &[], "", 200),
    ("/v1/x?a=@FIRST&b=@SECOND", &[], "", 200),
    ("/v1/x", &[], "a prompt with @PH in it", 200),
    ("/v1/x", &["content-type: application/json"], "{\"env\": \"@JSON @PH\"}", 200),
    ("/v1/x", &["content-type: application/x-www-form-urlencoded"], "key=@PCT&b=@B64", 200),
    ("/v1/x#@PH", &[], "", 400),
];

#[test]
fn c4_wherever_a_placeholder_stands_the_key_goes_to_its_one_place() {
    Lab::test(|lab| {
        let rows: Vec<_> =
            PLACES.iter().map(|(target, headers, body, _)| (target, headers, body)).collect();
        let outcome = lab
            .sandbox(&policy(lab))
            .at_origin(HOST)
            .stdin(serde_json::to_string(&rows).unwrap())
            .python(&ROWS.replace("HOST", HOST));
        let text = outcome.success().out();
        let lines: Vec<(&str, &str)> =
            text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(lines.len(), PLACES.len(), "{text}\n{}", outcome.tail());
        let mut seen = lab.seen().into_iter();
        for ((target, headers, body, expected), (status, hash)) in PLACES.iter().zip(lines) {
            let row = format!("{target} {headers:?} {body:?}");
            assert_eq!(status, expected.to_string(), "{row}");
            if *expected != 200 {
                continue;
            }
            let seen = seen.next().unwrap();
            assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())], "{row}");
            let everything =
                format!("{:?}", (&seen.path, &seen.query, &seen.headers, &seen.trailers));
            assert_eq!(everything.matches(lab.key()).count(), 1, "{row}");
            assert!(!everything.contains("sk-own"), "{row}");
            // Bodies are forwarded unchanged.
            assert_eq!(seen.body_sha256.as_deref(), Some(hash), "{row}");
        }
        assert!(seen.next().is_none());
    });
}

#[test]
fn h11_no_key_is_ever_in_a_websocket_field() {
    Lab::test(|lab| {
        let program = "import os, socket, ssl\nph = os.environ['LAB_API_KEY']\nfor fields in \
                       (f'sec-websocket-key: {ph}\\r\\n', f'sec-websocket-key: \
                       dGhlIHNhbXBsZSBub25jZQ==\\r\\nsec-websocket-protocol: realtime, \
                       openai-insecure-api-key.{ph}, x.{ph}\\r\\nsec-websocket-extensions: x; \
                       y=\"{ph}\"\\r\\n'):\n\x20   s = \
                       ssl.create_default_context().wrap_socket(socket.create_connection(('HOST', \
                       443)), server_hostname='HOST')\n\x20   s.settimeout(20)\n\x20   \
                       s.sendall(f'GET /ws HTTP/1.1\\r\\nhost: HOST\\r\\nconnection: \
                       Upgrade\\r\\nupgrade: websocket\\r\\nsec-websocket-version: \
                       13\\r\\n{fields}\\r\\n'.encode())\n\x20   \
                       print(s.recv(4096).split(b'\\r\\n')[0].decode())\n\x20   s.close()\n";
        let outcome =
            lab.sandbox(&policy(lab)).at_origin(HOST).python(&program.replace("HOST", HOST));
        assert_eq!(outcome.success().out().matches(" 101 ").count(), 2, "{}", outcome.out());
        assert_eq!(lab.seen().len(), 2);
        for seen in lab.seen() {
            for (name, value) in &seen.headers {
                assert_eq!(value.contains(lab.key()), name == "authorization", "{name}");
            }
            assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
            let protocols = seen.values("sec-websocket-protocol").join(",");
            assert!(!protocols.contains("insecure-api-key"), "{protocols}");
        }
    });
}

#[test]
fn h13_trailers_of_a_request_become_no_headers() {
    Lab::test(|lab| {
        let bytes = format!(
            "POST /v1/x HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\nte: \
             trailers\r\ntrailer: authorization, x-api-key, x-late, grpc-status\r\nconnection: \
             close\r\n\r\n5\r\nhello\r\n0\r\nauthorization: Bearer sk-own\r\nx-api-key: \
             sk-own\r\nx-late: 1\r\ngrpc-status: 0\r\n\r\n"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).send(
            &format!("{HOST}:443"),
            Some(HOST),
            bytes.as_bytes(),
        );
        assert!(outcome.out().starts_with("HTTP/1.1 200 "), "{}", outcome.out());
        let seen = &lab.seen()[0];
        assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
        assert_eq!(seen.values("x-late"), Vec::<&str>::new());
        let names: Vec<&str> = seen.trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| ["x-late", "grpc-status"].contains(name)), "{names:?}");
        assert_eq!(names.len(), 2);
        assert_eq!(seen.body_bytes, Some(5));
    });
}
