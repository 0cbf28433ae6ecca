//! Whether a run measured what it claims to have measured.
//!
//! A run is INVALID when the generator was late, when arrivals were dropped, when anything went
//! wrong, or when less than 99% of the offered load was answered. Lag is how much later than its
//! schedule says the generator closed a transaction's bundle. It is late when its
//! 99th percentile exceeds both [`LAG_BOUND_NS`] and [`LAG_SHARE`] of the latency's: latency
//! counts from the intended send, so a lag is never hidden in it, but above that share the
//! figures speak of the generator more than of the cluster.

use crate::units::{human_ns, with_commas};

/// Generator lag below this is never held against a run.
pub const LAG_BOUND_NS: u64 = 1_000_000;
/// Largest part of the latency's p99 that the lag's p99 may be.
pub const LAG_SHARE: f64 = 0.10;
/// Least part of the offered load that must be answered inside the measured window.
pub const ACHIEVED_SHARE: f64 = 0.99;

/// What the verdict rests on.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub offered_tps: f64,
    pub achieved_tps: f64,
    pub lag_p99_ns: u64,
    pub latency_p99_ns: u64,
    /// Arrivals that found no room and were never sent.
    pub dropped: u64,
    pub timeouts: u64,
    pub rejected: u64,
    pub wrong_replies: u64,
    pub answered: u64,
    /// A closed loop offers what is answered: lag and share mean nothing.
    pub closed_loop: bool,
}

/// Why the run is INVALID; none: it is VALID.
pub fn reasons(evidence: &Evidence) -> Vec<String> {
    let mut reasons = Vec::new();
    if evidence.answered == 0 {
        reasons.push("no transaction was answered in the measured window".to_string());
    }
    let bound = LAG_BOUND_NS.max((evidence.latency_p99_ns as f64 * LAG_SHARE) as u64);
    if !evidence.closed_loop && evidence.lag_p99_ns > bound {
        reasons.push(format!(
            "the generator was late: lag p99 {} is above {} (the larger of {} and {:.0}% of latency p99); \
             give it more threads or cores of its own, or lower the rate",
            human_ns(evidence.lag_p99_ns as f64),
            human_ns(bound as f64),
            human_ns(LAG_BOUND_NS as f64),
            LAG_SHARE * 100.0,
        ));
    }
    if evidence.dropped > 0 {
        reasons.push(format!(
            "{} arrivals were dropped because too many transactions were in flight; \
             raise --max-in-flight or --clients, or lower the rate",
            with_commas(evidence.dropped as f64)
        ));
    }
    let errors = [
        (evidence.timeouts, "timed out, their outcome is unknown"),
        (evidence.rejected, "were answered with an error"),
        (
            evidence.wrong_replies,
            "replies contradicted the accepted result",
        ),
    ];
    for (count, what) in errors {
        if count > 0 {
            reasons.push(format!("{} {what}", with_commas(count as f64)));
        }
    }
    if !evidence.closed_loop && evidence.achieved_tps < evidence.offered_tps * ACHIEVED_SHARE {
        reasons.push(format!(
            "achieved {}/s is below {:.0}% of the offered {}/s: the cluster is saturated",
            with_commas(evidence.achieved_tps),
            ACHIEVED_SHARE * 100.0,
            with_commas(evidence.offered_tps)
        ));
    }
    reasons
}

/// Exit codes of `hippo-load`.
pub mod exit {
    pub const OK: u8 = 0;
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 2;
    /// No quorum answered, or a timeout.
    pub const NO_QUORUM: u8 = 3;
    /// The run is INVALID.
    pub const INVALID: u8 = 10;
    /// The service-level objective was missed.
    pub const SLO_MISSED: u8 = 99;
}

/// The exit code of a finished measurement: an INVALID run proves nothing about its objective.
pub fn exit_code(valid: bool, slo_met: bool) -> u8 {
    match (valid, slo_met) {
        (false, _) => exit::INVALID,
        (true, false) => exit::SLO_MISSED,
        (true, true) => exit::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evidence {
        Evidence {
            offered_tps: 100_000.0,
            achieved_tps: 99_990.0,
            lag_p99_ns: 12_000,
            latency_p99_ns: 2_900_000,
            answered: 1_000_000,
            ..Evidence::default()
        }
    }

    #[test]
    fn a_clean_run_is_valid() {
        assert_eq!(reasons(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_named() {
        type Spoil = fn(&mut Evidence);
        let cases: [(&str, Spoil); 7] = [
            ("late", |e| e.lag_p99_ns = 1_100_000),
            ("dropped", |e| e.dropped = 1),
            ("timed out", |e| e.timeouts = 1),
            ("error", |e| e.rejected = 1),
            ("contradicted", |e| e.wrong_replies = 1),
            ("saturated", |e| e.achieved_tps = 98_000.0),
            ("no transaction", |e| e.answered = 0),
        ];
        for (word, spoil) in cases {
            let mut evidence = good();
            spoil(&mut evidence);
            let reasons = reasons(&evidence);
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            assert!(reasons[0].contains(word), "{reasons:?}");
        }
    }

    #[test]
    fn lag_is_judged_against_latency() {
        let mut evidence = good();
        evidence.lag_p99_ns = 1_900_000;
        evidence.latency_p99_ns = 20_000_000;
        assert!(reasons(&evidence).is_empty());
        evidence.lag_p99_ns = 2_100_000;
        assert_eq!(reasons(&evidence).len(), 1);
        evidence.closed_loop = true;
        assert!(reasons(&evidence).is_empty());
    }

    #[test]
    fn exit_codes() {
        assert_eq!(exit_code(true, true), 0);
        assert_eq!(exit_code(false, false), 10);
        assert_eq!(exit_code(true, false), 99);
    }
}
