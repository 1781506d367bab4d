//! A lock-free histogram of durations: fixed buckets, one atomic counter each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds in microseconds: a local proxy adds 50 µs to a few ms.
const BOUNDS_US: [u64; 12] =
    [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// Counts of durations per bucket.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last bucket has no upper bound.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(super) fn observe(&self, duration: Duration) {
        let range = BOUNDS_US.partition_point(|bound| u128::from(*bound) < duration.as_micros());
        self.counts[range].fetch_add(1, Relaxed);
        // Wraps after 584 years in total, as a counter may.
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The sum in seconds, the count, and each bucket's upper bound in seconds with its count.
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
