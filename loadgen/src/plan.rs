//! What all threads of a run share: the plan, the clock, the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wire::ids::Instant;

use crate::units::{Arrival, KeyDistribution, Ratio};

/// The load, resolved from the command line.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Transactions a second of all threads together.
    pub rate_tps: f64,
    pub arrival: Arrival,
    pub warmup_ns: u64,
    pub duration_ns: u64,
    pub timeout_ns: u64,
    pub connect_timeout_ns: u64,
    pub clients: usize,
    pub threads: usize,
    pub in_flight_per_thread: usize,
    pub preload: bool,
    pub preload_in_flight: usize,
    pub bundle_max: usize,
    pub linger_ns: u64,
    pub value_bytes: usize,
    pub keys: u64,
    pub key_distribution: KeyDistribution,
    pub ratio: Ratio,
    pub saturate: bool,
    pub seed: u64,
}

/// The machine's monotonic clock: one for all threads, and for other processes of this machine.
pub fn now() -> Instant {
    Instant(platform::clock::now_ns())
}

/// Start and stop, seen by all threads.
#[derive(Debug)]
pub struct Control {
    start: AtomicU64,
    /// Nanoseconds after the start at which the load ends, if that is sooner than planned.
    end: AtomicU64,
    stop: AtomicBool,
    /// A signal asks for the end.
    interrupted: Arc<AtomicBool>,
}

impl Control {
    pub fn new(interrupted: Arc<AtomicBool>) -> Control {
        Control {
            start: AtomicU64::new(0),
            end: AtomicU64::new(u64::MAX),
            stop: AtomicBool::new(false),
            interrupted,
        }
    }

    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Ends the load of all threads this long after its start, which must not be past.
    pub fn end_at(&self, elapsed_ns: u64) {
        self.end.store(elapsed_ns, Ordering::Relaxed);
    }

    /// When the load ends after its start; never if it ends as planned.
    pub fn end_ns(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Lets every thread begin its load at the same instant.
    pub fn start_at(&self, at: Instant) {
        self.start.store(at.0, Ordering::Release);
    }

    pub fn start(&self) -> Option<Instant> {
        match self.start.load(Ordering::Acquire) {
            0 => None,
            at => Some(Instant(at)),
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
