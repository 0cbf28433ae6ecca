//! Histograms that hot threads record into: fixed log-linear buckets, one relaxed add each.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of each octave.
const SUB_BUCKETS_LOG2: u32 = 3;
const SUB_BUCKETS: usize = 1 << SUB_BUCKETS_LOG2;
/// Values from 2^42 on (73 minutes in nanoseconds) share the last bucket.
const OCTAVE_MAX: u32 = 41;
const BUCKETS: usize = SUB_BUCKETS + (OCTAVE_MAX - SUB_BUCKETS_LOG2 + 1) as usize * SUB_BUCKETS;

/// Fixed log-linear buckets, eight to the octave: a value is known within 12.5%.
#[derive(Debug)]
#[repr(align(128))]
pub struct Histogram {
    sum: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            sum: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Histogram {
    pub fn record(&self, value: u64) {
        self.counts[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut buckets = Vec::new();
        for (index, count) in self.counts.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let (lower, upper) = bounds_of(index);
                buckets.push((lower, upper, count));
            }
        }
        HistogramSnapshot {
            sum: self.sum.load(Ordering::Relaxed),
            buckets,
        }
    }
}

fn bucket_of(value: u64) -> usize {
    if value < SUB_BUCKETS as u64 {
        return value as usize;
    }
    let octave = value.ilog2();
    if octave > OCTAVE_MAX {
        return BUCKETS - 1;
    }
    let sub = (value >> (octave - SUB_BUCKETS_LOG2)) as usize & (SUB_BUCKETS - 1);
    SUB_BUCKETS + (octave - SUB_BUCKETS_LOG2) as usize * SUB_BUCKETS + sub
}

/// Smallest value of a bucket, and the smallest of the one after it.
fn bounds_of(index: usize) -> (u64, u64) {
    let lower = |index: usize| {
        if index < SUB_BUCKETS {
            return index as u64;
        }
        let octave = (index / SUB_BUCKETS - 1) as u32;
        let sub = (index % SUB_BUCKETS) as u64;
        (SUB_BUCKETS as u64 + sub) << octave
    };
    (lower(index), lower(index + 1))
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    pub sum: u64,
    /// (lower, upper, count), ascending, without empty buckets; `lower <= value < upper`.
    pub buckets: Vec<(u64, u64, u64)>,
}

impl HistogramSnapshot {
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, _, count)| count).sum()
    }

    /// Upper bound of the bucket of a quantile in 0..=1; none when nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((quantile * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (_, upper, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return Some(*upper);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_numbers() {
        for index in 0..BUCKETS - 1 {
            let (lower, upper) = bounds_of(index);
            assert!(lower < upper);
            assert_eq!(bucket_of(lower), index);
            assert_eq!(bucket_of(upper - 1), index);
            assert_eq!(bounds_of(index + 1).0, upper);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bounds_of(BUCKETS - 1).1, 1 << (OCTAVE_MAX + 1));
    }

    #[test]
    fn buckets_are_narrow() {
        for value in [9, 1000, 123_456, 5_000_000_000] {
            let (lower, upper) = bounds_of(bucket_of(value));
            assert!(lower <= value && value < upper);
            assert!((upper - lower) as f64 <= 0.125 * lower as f64 + 1.0);
        }
    }

    #[test]
    fn snapshot_counts_and_quantiles() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        for value in 1..=100 {
            histogram.record(value * 1000);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 100);
        assert_eq!(snapshot.sum, 5_050_000);
        let median = snapshot.quantile(0.5).unwrap();
        assert!((50_000..=57_000).contains(&median), "{median}");
        assert!(snapshot.quantile(1.0).unwrap() >= 100_000);
    }
}
