//! A histogram of durations without a lock: fixed bounds, one atomic number each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds, in microseconds: what a proxy on the same machine adds is between 50 µs and a few ms.
const BOUNDS_US: [u64; 12] =
    [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// How often durations were in which range.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last is for all beyond the bounds.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(super) fn observe(&self, duration: Duration) {
        let range = BOUNDS_US.partition_point(|bound| u128::from(*bound) < duration.as_micros());
        self.counts[range].fetch_add(1, Relaxed);
        // Beyond 584 years in all it starts again, as a counter may.
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The sum in seconds, how many there were, and how many in each range, with its upper bound in seconds.
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::MAX]);
        let ranges: Vec<_> =
            bounds.zip(&self.counts).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        let count = ranges.iter().map(|(_, count)| count).sum();
        (self.sum_ns.load(Relaxed) as f64 / 1e9, count, ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_range_up_to_its_bound() {
        let histogram = Histogram::default();
        for us in [1, 50, 51, 2_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let (sum, count, ranges) = histogram.read();
        assert_eq!((count, ranges[0].1, ranges[1].1, ranges[12].1), (4, 2, 1, 1));
        assert!((sum - 2.000_102).abs() < 1e-9, "{sum}");
    }
}
