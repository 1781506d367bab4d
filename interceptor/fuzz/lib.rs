//! The policy, as the fuzz targets see it.

#[allow(dead_code, unreachable_pub, unused_imports, reason = "a target uses a part")]
#[path = "../src/policy/mod.rs"]
pub mod policy;
