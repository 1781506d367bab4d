//! A pattern and a path, on a line each: no panic, and a pattern without a wildcard is a prefix on
//! a segment boundary.
#![no_main]

use interceptor_policy::{CanonicalPath, PathPattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (pattern, path) = text.split_once('\n').unwrap_or((text, "/"));
    let (Ok(compiled), Ok(path)) = (PathPattern::parse(pattern), CanonicalPath::parse(path)) else {
        return;
    };
    let matches = compiled.matches(&path);
    if pattern == "/." {
        assert_eq!(matches, path.as_str() == "/", "{path:?}");
    }
    if !compiled.is_glob()
        && let Ok(prefix) = CanonicalPath::parse(pattern)
    {
        let (prefix, path) = (prefix.as_str(), path.as_str());
        let bounded = path == prefix || path.starts_with(&format!("{prefix}/"));
        let expected = if prefix.ends_with('/') { path.starts_with(prefix) } else { bounded };
        assert_eq!(matches, expected, "{pattern:?} {path:?}");
    }
    // A pattern without a wildcard matches its own text.
    if let Ok(own) = CanonicalPath::parse(pattern)
        && !compiled.is_glob()
    {
        assert!(compiled.matches(&own));
    }
});
