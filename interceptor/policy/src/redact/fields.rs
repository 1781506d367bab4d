//! Takes keys out of header fields and trailers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::scan::Scanner;

/// Redacts the values of fields, and removes fields whose *name* is a key. Returns the number of
/// keys found.
pub fn redact_fields(scanner: &Scanner, headers: &mut HeaderMap) -> u64 {
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| scanner.names_a_key(name.as_str())).cloned().collect();
    let mut found = named.len() as u64;
    for name in named {
        headers.remove(name);
    }
    let mut unsayable = Vec::new();
    for (name, value) in headers.iter_mut() {
        if let Some(clean) = scanner.replace(value.as_bytes()) {
            found += 1;
            // The replacement has only visible characters of the placeholder, so this succeeds;
            // should it fail, the header is removed.
            match HeaderValue::from_bytes(&clean) {
                Ok(clean) => *value = clean,
                Err(_) => unsayable.push(name.clone()),
            }
        }
    }
    for name in unsayable {
        headers.remove(name);
    }
    found
}
