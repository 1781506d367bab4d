//! Raw and passthrough connections.
