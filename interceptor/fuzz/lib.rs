//! What the fuzz targets check, where it is more than a call.

pub mod redact;
