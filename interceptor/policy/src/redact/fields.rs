//! Takes keys out of header fields and trailers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::scan::Scanner;

/// Redacts the values of fields, and removes those whose *name* is a key. Gives how many it found.
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
            // The replacement is made of the placeholder's visible characters, so this holds; if ever not, the header goes.
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
