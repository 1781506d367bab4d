//! The protocol of a connection by its first bytes: further bytes never change a verdict of TLS or
//! HTTP/2, and no wait is endless.

#[allow(dead_code, reason = "the target uses a part")]
#[path = "../src/accept/classify.rs"]
mod classify;

use classify::{Spoken, classify};

/// Checks the first bytes of one connection.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let data = &data[..data.len().min(600)];
    let told: Vec<Spoken> = (0..=data.len()).filter_map(|end| classify(&data[..end])).collect();
    let Some(last) = told.last() else {
        // Only the beginning of a request line makes the proxy wait.
        assert!(!data.contains(&0), "{}", data.escape_ascii());
        return;
    };
    match last {
        Spoken::Tls => assert!(data.starts_with(&[0x16, 3])),
        Spoken::Http2 => assert!(data.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        Spoken::Http1 | Spoken::Other => {}
    }
    let framed = |spoken: &Spoken| matches!(spoken, Spoken::Tls | Spoken::Http2);
    let first = told[0];
    assert!(!told.iter().any(framed) || told.iter().all(|spoken| *spoken == first), "{told:?}");
    if first == Spoken::Other {
        // Only a complete line counts as HTTP after all, so that the refusal can say why.
        let after_all = told.contains(&Spoken::Http1);
        assert!(!after_all || memchr::memmem::find(data, b"HTTP/").is_some(), "{told:?}");
    }
}
