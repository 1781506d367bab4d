//! The policy and the search for keys, as the fuzz targets see them.

#[allow(dead_code, unreachable_pub, unused_imports, reason = "a target uses a part")]
#[path = "../src/policy/mod.rs"]
pub mod policy;

pub mod redact;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the target uses a part")]
#[path = "../src/http/redact/scan/mod.rs"]
mod scan;
