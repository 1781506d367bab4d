//! Parts of a file: real clients resume and read at random offsets, and no way of cutting a file
//! reveals a key in it.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::{Answer, Plan};
use interceptor_tests::origin::listen::Listener;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const HOST: &str = "files.example.test";
const OTHER: &str = "mirror.example.test";
const BOTH: [&str; 2] = [HOST, OTHER];

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["network"]["allow"] = json!(BOTH);
    policy
}

/// 95 kB of numbered lines; around the middle, the key.
fn file(key: &str) -> Vec<u8> {
    let lines: String = (0..5000).map(|line| format!("line {line:013}\n")).collect();
    let (before, behind) = lines.split_at(50_000);
    format!("{before}{key}{behind}").into_bytes()
}

/// An origin with one file that supports ranges like most servers.
fn origin(lab: &Lab, key: &str) -> Listener {
    let file = file(key);
    lab.talking(move |head, mut stream| {
        let file = file.clone();
        async move {
            let field =
                |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let current = field("if-range:").is_none_or(|tag| tag == "\"v1\"");
            let range = field("range: bytes=")
                .filter(|_| current)
                .and_then(|range| part(range, file.len()));
            let body = head.starts_with("GET ");
            let (status, range, content) = match range {
                None => ("200 OK", String::new(), &file[..]),
                Some((first, last)) if first > last => (
                    "416 Range Not Satisfiable",
                    format!("content-range: bytes */{}\r\n", file.len()),
                    &[][..],
                ),
                Some((first, last)) => {
                    let range = format!("content-range: bytes {first}-{last}/{}\r\n", file.len());
                    ("206 Partial Content", range, &file[first..=last])
                }
            };
            let head = format!(
                "HTTP/1.1 {status}\r\n{range}etag: \"v1\"\r\naccept-ranges: \
                 bytes\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                content.len()
            );
            stream.write_all(head.as_bytes()).await?;
            if body {
                stream.write_all(content).await?;
            }
            stream.shutdown().await
        }
    })
}

/// The first and last byte of `a-b`, `a-` or `-n`. The first is beyond the last if the range is
/// empty.
fn part(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        return Some((length.saturating_sub(last.parse().ok()?), length - 1));
    }
    let first: usize = first.parse().ok()?;
    let last =
        if last.is_empty() { length - 1 } else { last.parse::<usize>().ok()?.min(length - 1) };
    Some(if first >= length { (1, 0) } else { (first, last) })
}

#[test]
fn curl_resumes_and_asks_for_parts() {
    for (host, key) in
        BOTH.into_iter().flat_map(|host| [(host, None), (host, Some("tiny-CANARY-key"))])
    {
        Lab::test(|lab| {
            let mut policy = policy(lab);
            if let Some(key) = key {
                policy["credentials_v2"]["lab"]["key"] =
                    json!({ "file": lab.secret_file("tiny", key) });
            }
            let key = key.unwrap_or(lab.key());
            let origin = origin(lab, key);
            let script = format!(
                "url=https://{host}/f; curl -sS $url -o whole; head -c 30000 whole > part; curl \
                 -sS -C - -o part $url; cmp whole part && echo resumed; curl -sS -r 10-19 $url | \
                 od -An -c | tr -d ' \\n'; echo; curl -sS -r 90000- $url | wc -c; curl -sS -r -7 \
                 $url | tail -c 7; curl -sSI $url | grep -i '^accept-ranges'; curl -sS -o \
                 /dev/null -w '%{{http_code}} ' -r 200000-200010 $url; curl -sS -o /dev/null -w \
                 '%{{http_code}} ' -r 0-1,5-6 $url; curl -sS -o /dev/null -w '%{{http_code}} ' -r \
                 0-1 -H 'if-range: \"v0\"' $url; curl -sS -o /dev/null -w '%{{http_code}}\\n' -r \
                 0-1 -H 'if-range: \"v1\"' $url"
            );
            let sandbox = lab.sandbox(&policy).resolve(host, origin.address());
            let outcome = sandbox.shell(&script);
            let whole = file(key);
            let length = whole.len();
            let tail = String::from_utf8(whole[length - 7..].to_vec()).unwrap();
            let text = outcome.success().out().replace("\r\n", "\n");
            let expected = format!(
                "resumed\n00000000\\nl\n{}\n{tail}accept-ranges: bytes\n416 200 200 206\n",
                length - 90_000
            );
            assert_eq!(text, expected, "{}", outcome.tail());
        });
    }
}

#[test]
fn a_reader_at_random_gets_the_file_and_in_no_cut_the_key() {
    for host in BOTH {
        Lab::test(|lab| {
            let origin = origin(lab, lab.key());
            // Like fsspec: a length from HEAD, then blocks; here small ones across the key, at
            // every offset.
            let program = format!(
                "import os, urllib.request as r\n\
                 def get(a, b):\n\
                 \x20   wanted = f'bytes={{a}}-{{b}}'\n\
                 \x20   q = r.Request('https://{host}/f', headers={{'range': wanted}})\n\
                 \x20   with r.urlopen(q) as f:\n\
                 \x20       d = f.read()\n\
                 \x20       assert f.status == 206, f.status\n\
                 \x20       length = int(f.headers['content-length'])\n\
                 \x20       assert len(d) == length == b - a + 1, len(d)\n\
                 \x20       got = f.headers['content-range']\n\
                 \x20       assert got == f'bytes {{a}}-{{b}}/{{size}}', got\n\
                 \x20       return d\n\
                 head = r.urlopen(r.Request('https://{host}/f', method='HEAD'))\n\
                 size = int(head.headers['content-length'])\n\
                 key = os.environ['LAB_API_KEY'].encode()\n\
                 whole = r.urlopen('https://{host}/f').read()\n\
                 assert len(whole) == size and whole[50000:50000 + len(key)] == key\n\
                 for n in (1, 7, 33):\n\
                 \x20   got = b''.join(get(a, a + n - 1) for a in range(49990, 49990 + 66, n))\n\
                 \x20   assert got == whole[49990:49990 + len(got)], (n, got)\n\
                 assert get(0, 70000) + get(70001, size - 1) == whole\n\
                 print('same')\n"
            );
            let sandbox = lab.sandbox(&policy(lab)).resolve(host, origin.address());
            let outcome = sandbox.python(&program);
            assert_eq!(outcome.success().out(), "same\n");
            let asked = |record: &&interceptor_tests::audit::Record| record.key_echoed.is_some();
            assert!(outcome.requests("allow").iter().filter(|record| asked(record)).count() > 60);
        });
    }
}

#[test]
fn an_origin_that_lies_about_a_part_is_refused_or_cut_off() {
    let encoded = "content-range: bytes 0-4/5\r\ncontent-encoding: gzip\r\n\r\nhello";
    let lies = [
        "content-range: bytes 10-19/100\r\n\r\n0123456789",
        "content-range: bytes 5-4/100\r\n\r\n0123456789",
        "content-range: bytes 0-18446744073709551615/18446744073709551615\r\n\r\nx",
        "content-range: bytes 0-99/50\r\n\r\nx",
        "content-range: bytes 0-4/5\r\ncontent-length: 4\r\n\r\nhell",
        "content-range: bytes 0-4/5\r\ncontent-range: bytes 0-4/5\r\n\r\nhello",
        "content-range: items 0-4/5\r\n\r\nhello",
        "content-type: multipart/byteranges; boundary=x\r\n\r\n--x--",
        "content-length: 5\r\n\r\nhello",
        encoded,
    ];
    for host in BOTH {
        for lie in lies {
            Lab::test(|lab| {
                let answer = format!("HTTP/1.1 206 Partial Content\r\n{lie}");
                let got = ask(lab, host, answer, "bytes=10-19");
                let refusal = got.refusal();
                assert_eq!(
                    (refusal.status, refusal.reason.as_str()),
                    (502, "upstream_protocol"),
                    "{lie}"
                );
            });
        }
    }
    // Only the body shows that it is longer or shorter than declared.
    for body in ["0123456789", &"x".repeat(200)] {
        Lab::test(|lab| {
            let answer = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-99/100\r\n\r\n{body}"
            );
            let got = ask(lab, OTHER, answer, "bytes=10-99");
            assert!(got.error.is_some(), "{got:?}");
        });
    }
}

/// The outcome of a request for this part.
fn ask(lab: &Lab, host: &str, answer: String, range: &str) -> Answer {
    let origin = lab.scripted(answer.into_bytes().leak());
    let sandbox = lab.sandbox(&policy(lab)).resolve(host, origin.address());
    let plan = Plan::https(host, "http/1.1").ask_with("GET", "/f", &[("range", range)], "");
    sandbox.fetch(&plan).remove(0).answers.remove(0)
}

#[test]
fn what_lies_beyond_the_end_is_said_to() {
    for range in ["bytes=5-9", "bytes=-0", "bytes=5-"] {
        Lab::test(|lab| {
            let answer = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes \
                          0-4/5\r\ncontent-length: 5\r\n\r\nhello";
            let got = ask(lab, OTHER, answer.to_owned(), range);
            assert_eq!(
                (got.status, got.header("content-range"), got.body_bytes),
                (416, Some("bytes */5"), 0)
            );
        });
    }
}

#[test]
fn a_part_that_nobody_asked_for_is_refused() {
    let parts = [
        "206 Partial Content\r\ncontent-range: bytes 5-16/100\r\ncontent-length: \
         12\r\n\r\n0123456789ab",
        "200 OK\r\ncontent-range: bytes 5-16/100\r\ncontent-length: 12\r\n\r\n0123456789ab",
        "200 OK\r\ncontent-type: multipart/byteranges; boundary=x\r\ncontent-length: \
         5\r\n\r\n--x--",
        "226 IM Used\r\nim: range\r\ncontent-length: 12\r\n\r\n0123456789ab",
    ];
    for host in BOTH {
        for part in parts {
            Lab::test(|lab| {
                let origin = lab.scripted(format!("HTTP/1.1 {part}").into_bytes().leak());
                let sandbox = lab.sandbox(&policy(lab)).resolve(host, origin.address());
                let plan = Plan::https(host, "http/1.1").ask("GET", "/f");
                let got = sandbox.fetch(&plan).remove(0).answers.remove(0);
                let refusal = got.refusal();
                assert_eq!(
                    (refusal.status, refusal.reason.as_str()),
                    (502, "upstream_protocol"),
                    "{part}"
                );
            });
        }
    }
}

#[test]
fn an_objects_only_part_is_searched_and_passed_on() {
    for host in BOTH {
        Lab::test(|lab| {
            let origin = lab.scripted(
                b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-11/12\r\n\
                  content-length: 12\r\n\
                  x-amz-mp-parts-count: 1\r\n\r\n0123456789ab",
            );
            let sandbox = lab.sandbox(&policy(lab)).resolve(host, origin.address());
            let plan = Plan::https(host, "http/1.1").ask("GET", "/f?partNumber=1");
            let got = sandbox.fetch(&plan).remove(0).answers.remove(0);
            assert_eq!((got.status, got.body.as_str()), (206, "0123456789ab"));
            assert_eq!(got.header("content-range"), Some("bytes 0-11/12"));
        });
    }
}

#[test]
fn no_other_name_asks_for_a_part() {
    for (host, protocol) in BOTH.into_iter().flat_map(|host| [(host, "http/1.1"), (host, "h2")]) {
        Lab::test(|lab| {
            lab.unordered();
            // The answer shows the fields that requested a part.
            let origin = lab.talking(move |head, mut stream| async move {
                let asked: String = head.lines().filter(|line| line.contains("5-16")).collect();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{asked}",
                    asked.len()
                );
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            });
            let mut plan = Plan::https(host, protocol);
            for name in [
                "request-range",
                "request_range",
                "request.range",
                "if_range",
                "accept_encoding",
                "a-im",
            ] {
                plan = plan.ask_with("GET", "/f", &[(name, "bytes=5-16")], "");
            }
            let sandbox = lab.sandbox(&policy(lab)).resolve(host, origin.address());
            let answers = sandbox.fetch(&plan).remove(0).answers;
            assert_eq!(answers.len(), 6);
            for answer in answers {
                assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{answer:?}");
            }
        });
    }
}

#[test]
fn a_part_comes_without_a_digest_of_what_borders_it() {
    Lab::test(|lab| {
        let answer = format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-4999/5000\r\ncontent-length: \
             5000\r\netag: \"v1\"\r\ncontent-md5: x\r\ncontent-digest: x\r\nx-ms-content-crc64: \
             x\r\nx-amz-checksum-sha256: x\r\nx-goog-hash: x\r\n\r\n{}",
            "0123456789".repeat(500)
        );
        let got = ask(lab, OTHER, answer, "bytes=10-19");
        assert_eq!((got.status, got.body.as_str()), (206, "0123456789"));
        assert_eq!(got.header("content-range"), Some("bytes 10-19/5000"));
        assert_eq!(got.header("etag"), Some("\"v1\""));
        let told = |name: &&str| got.header(name).is_some();
        let digests = [
            "content-md5",
            "content-digest",
            "x-ms-content-crc64",
            "x-amz-checksum-sha256",
            "x-goog-hash",
        ];
        assert!(!digests.iter().any(told), "{:?}", got.headers);
    });
}

#[test]
fn where_the_whole_length_is_unknown_no_end_is_taken_for_the_last() {
    for (range, expected) in
        [("bytes=10-", Some("bytes 10-2951/*")), ("bytes=2952-", None), ("bytes=-20", None)]
    {
        Lab::test(|lab| {
            let answer = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-4999/*\r\ncontent-length: \
                 5000\r\n\r\n{}",
                "0123456789".repeat(500)
            );
            let got = ask(lab, OTHER, answer, range);
            match expected {
                Some(part) => {
                    assert_eq!(
                        (got.status, got.header("content-range"), got.body_bytes),
                        (206, Some(part), 2942)
                    );
                }
                None => assert_eq!(got.refusal().reason, "upstream_protocol", "{range}"),
            }
        });
    }
}
