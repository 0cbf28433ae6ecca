//! `result.json`: what a run measured, under which conditions. Others rely on these names; the
//! schema is `docs/result.schema.json`.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::histograms::{self, base64_v2};

pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    pub schema_version: u32,
    pub valid: bool,
    pub invalid_reasons: Vec<String>,
    /// The command line, so that the run can be repeated.
    pub command: String,
    /// Version and commit of the generator that measured.
    pub commit: String,
    pub started_unix_ns: u64,
    pub environment: Environment,
    pub cluster: Cluster,
    pub load: Load,
    pub offered_tps: f64,
    pub achieved_tps: f64,
    pub errors: Errors,
    pub latency_ns: Percentiles,
    pub service_time_ns: Percentiles,
    pub generator_lag_ns: Lag,
    pub nodes: Vec<Node>,
    /// CPU time of all nodes and the generator in the measured window, per answered transaction.
    pub cpu_us_per_tx: f64,
    pub generator_cpu_seconds: f64,
    /// Heap allocations of the generator threads in the measured window.
    pub generator_allocations: u64,
    pub slo: Option<Slo>,
    /// One entry per repetition; the figures above are the median (rates) and the merged
    /// histograms (times) of all.
    pub runs: Vec<Repetition>,
    pub histograms: Histograms,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// `loopback` or `network`.
    pub network: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cluster {
    pub nodes: usize,
    pub b: usize,
    pub u: usize,
    pub p: usize,
    /// Votes that decide on the fast path.
    pub fast_quorum: usize,
    pub durability: String,
    pub request_auth: String,
    pub vote_auth: String,
    pub state_machine: String,
    pub backend: String,
    pub flush: String,
    pub idle: String,
    pub layout: String,
    pub datagram_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// `open` (arrivals never wait) or `closed` (saturation).
    pub loop_kind: String,
    pub rate_tps: f64,
    pub duration_s: f64,
    pub warmup_s: f64,
    pub clients: usize,
    pub threads: usize,
    pub value_bytes: usize,
    pub key_bytes: usize,
    pub keys: u64,
    pub key_distribution: String,
    pub ratio_put_get: String,
    pub bundle_max: usize,
    /// Transactions that a request really carried, on average.
    pub bundle_mean: f64,
    pub linger_ns: u64,
    pub max_in_flight: usize,
    pub arrival: String,
    pub seed: u64,
    pub backend: String,
    pub idle: String,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Errors {
    pub timeout: u64,
    pub rejected: u64,
    pub wrong_reply: u64,
    /// Arrivals that were never sent.
    pub dropped: u64,
    /// Sent again; not an error by itself.
    pub retransmissions: u64,
    /// Busy answers; not an error by themselves.
    pub busy: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub p9999: u64,
    pub max: u64,
    pub mean: f64,
}

impl Percentiles {
    pub fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |percentile| histograms::percentile(histogram, percentile);
        Percentiles {
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            max: histogram.max(),
            mean: histogram.mean(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Lag {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct MedianTail {
    /// None without samples.
    pub p50: Option<u64>,
    pub p99: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    pub id: u16,
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    /// Transactions committed in the measured window.
    pub committed: u64,
    pub fast: u64,
    pub slow: u64,
    pub view_changes: u64,
    pub wal_flush_ns: MedianTail,
    pub decide_ns: MedianTail,
    /// Heap allocations on the hot stages in the measured window.
    pub hot_allocations: BTreeMap<String, u64>,
    pub rejects: BTreeMap<String, u64>,
    pub is_leader: bool,
    pub restarted: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slo {
    pub objective: String,
    pub measured_ns: u64,
    pub met: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repetition {
    pub valid: bool,
    pub offered_tps: f64,
    pub achieved_tps: f64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
    pub lag_p99_ns: u64,
    pub cpu_us_per_tx: f64,
}

/// V2 histograms in base64, nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Histograms {
    pub latency_ns: String,
    pub service_time_ns: String,
    pub generator_lag_ns: String,
}

impl Histograms {
    pub fn of(
        latency: &Histogram<u64>,
        service_time: &Histogram<u64>,
        lag: &Histogram<u64>,
    ) -> Histograms {
        Histograms {
            latency_ns: base64_v2(latency),
            service_time_ns: base64_v2(service_time),
            generator_lag_ns: base64_v2(lag),
        }
    }
}

/// One second of a run, merged over threads: a line of `timeseries.ndjson`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Second {
    /// Seconds from the start of the load, warm-up included, to the end of this interval.
    pub at_s: f64,
    pub warmup: bool,
    pub offered_tps: f64,
    pub achieved_tps: f64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
    pub lag_p99_ns: u64,
    pub timeouts: u64,
    pub dropped: u64,
    pub retransmissions: u64,
    pub busy: u64,
}

/// The middle of an odd number of figures, the mean of the two middle ones of an even number.
pub fn median(figures: &mut [f64]) -> f64 {
    if figures.is_empty() {
        return 0.0;
    }
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        (figures[middle - 1] + figures[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
