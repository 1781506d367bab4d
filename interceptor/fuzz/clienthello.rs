//! The name in a ClientHello: the same however it is cut, and the bytes stay unchanged.

#[allow(dead_code, reason = "the target uses a part")]
#[path = "../src/tls/hello.rs"]
mod hello;

use bytes::BytesMut;
use interceptor_policy::Host;

use crate::pieces::{self, Stream};

/// Checks one beginning of a connection.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let Some((lengths, text)) = pieces::read(data) else { return };
    let runtime = pieces::runtime();
    let read = |lengths: &[usize]| {
        let mut buffer = BytesMut::new();
        let mut stream = Stream::new(pieces::cut(text, lengths));
        let name = runtime.block_on(hello::server_name(&mut stream, &mut buffer));
        assert!(text.starts_with(&buffer));
        name.map_err(|error| error.kind())
    };
    let name = read(&[usize::MAX]);
    assert_eq!(name, read(&lengths));
    assert_eq!(name, read(&[1]));
    if let Ok(Some(name)) = name {
        assert!(name.is_ascii() && !name.is_empty());
        // The policy can read or refuse every name it is given.
        let _ = Host::parse(&name);
    }
}
