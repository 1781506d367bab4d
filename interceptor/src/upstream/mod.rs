//! Resolve, guard, dial, pool.
