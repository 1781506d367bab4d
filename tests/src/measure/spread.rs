//! Repeated measurements of one quantity: their median and spread.

use serde::Serialize;

/// The median, minimum and maximum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// All samples, in order.
    pub samples: Vec<f64>,
}

impl Spread {
    /// The spread of these samples; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Spread> {
        let (min, max) = (percentile(samples, 0.0)?, percentile(samples, 1.0)?);
        Some(Spread { median: percentile(samples, 0.5)?, min, max, samples: samples.to_vec() })
    }
}

/// The value below which this fraction of the samples lies, interpolated between two samples.
pub fn percentile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle_or_between_two() {
        let odd = Spread::of(&[9.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 9.0));
        assert_eq!(odd.samples, [9.0, 1.0, 2.0]);
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn percentiles_lie_between_samples() {
        let samples: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.99), Some(99.0));
        assert_eq!(percentile(&[1.0, 2.0], 0.25), Some(1.25));
    }
}
