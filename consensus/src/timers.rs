//! T1 and T5: how long to wait for progress, measured rather than configured.

use crate::image::image;
use wire::ids::Instant;

/// Until so many decisions were measured, patience is [`START_NS`].
const MEASURED_MIN: u64 = 64;
const START_NS: u64 = 1_000_000_000;
/// A view change takes at least this long to be given up.
const CHANGE_NS_MIN: u64 = 100_000_000;
/// Decisions in one view that take a doubling back.
const FORGIVEN_EVERY: u64 = 64;
/// Doublings at most: beyond, sums of nanoseconds could overflow.
const DOUBLINGS_MAX: u32 = 24;

/// Measured patience.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    /// Patience is never below this.
    floor_ns: u64,
    /// Smoothed commit latency and its mean deviation.
    mean_ns: u64,
    deviation_ns: u64,
    measured: u64,
    last_decision: Instant,
    /// k: views left by T1 or T5 without a decision in them.
    doublings: u32,
    decisions_in_view: u64,
    /// When the view being entered is given up.
    pub change_deadline: Option<Instant>,
}
image!(Timers {
    floor_ns,
    mean_ns,
    deviation_ns,
    measured,
    last_decision,
    doublings,
    decisions_in_view,
    change_deadline
});

impl Timers {
    pub fn new(floor_ns: u64, now: Instant) -> Timers {
        Timers {
            floor_ns,
            mean_ns: 0,
            deviation_ns: 0,
            measured: 0,
            last_decision: now,
            doublings: 0,
            decisions_in_view: 0,
            change_deadline: None,
        }
    }

    /// Takes a decision and the time since its block was linked into account. One sample counts no
    /// more than the patience of a beginner: a healed partition, or a leader that dawdles before it
    /// falls silent, must not stretch patience by hours. A network slower than that gets its time by
    /// doublings.
    pub fn decided(&mut self, now: Instant, latency_ns: u64) {
        let latency_ns = latency_ns.min(START_NS);
        self.last_decision = now;
        self.decisions_in_view += 1;
        if self.decisions_in_view.is_multiple_of(FORGIVEN_EVERY) {
            self.doublings = self.doublings.saturating_sub(1);
        }
        if self.measured == 0 {
            (self.mean_ns, self.deviation_ns) = (latency_ns, latency_ns / 2);
        } else {
            let off = self.mean_ns.abs_diff(latency_ns);
            self.deviation_ns = (15 * self.deviation_ns + off) / 16;
            self.mean_ns = (15 * self.mean_ns + latency_ns) / 16;
        }
        self.measured += 1;
    }

    /// T_prog: eight times what nearly every commit needs. A mean and four deviations stand for the
    /// 99th percentile; both shrink as readily as they grow.
    pub fn progress_ns(&self) -> u64 {
        if self.measured < MEASURED_MIN {
            return START_NS.max(self.floor_ns);
        }
        (8 * (self.mean_ns + 4 * self.deviation_ns)).max(self.floor_ns)
    }

    /// What nearly every commit takes, with the floor of T_prog: T_prog / 8. None until enough were
    /// measured.
    pub fn commit_ns(&self) -> Option<u64> {
        (self.measured >= MEASURED_MIN).then(|| self.progress_ns() / 8)
    }

    /// T1: when patience with the leader ends, given the oldest pending work.
    pub fn progress_deadline(&self, pending_since: Instant) -> Instant {
        let since = self.last_decision.max(pending_since);
        since.after_ns(self.progress_ns() << self.doublings)
    }

    /// For how long a wish of another replica counts (Y2).
    pub fn wish_lifetime_ns(&self) -> u64 {
        START_NS.max(self.progress_ns() << self.doublings)
    }

    /// A view is entered; `in_vain`: T1 or T5 ended the one before.
    pub fn entered(&mut self, now: Instant, in_vain: bool) {
        if in_vain && self.decisions_in_view == 0 {
            self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        }
        self.decisions_in_view = 0;
        self.change_deadline = Some(now.after_ns(self.change_ns()));
    }

    /// T_v = max(100 ms, 8 T_prog) 2^k.
    pub fn change_ns(&self) -> u64 {
        (8 * self.progress_ns()).max(CHANGE_NS_MIN) << self.doublings
    }

    /// V5: a view is installed, its leader gets its time.
    pub fn installed(&mut self, now: Instant) {
        self.last_decision = now;
        self.change_deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn patience_follows_the_latency_both_ways() {
        let mut timers = Timers::new(10 * MS, Instant(0));
        assert_eq!(timers.progress_ns(), START_NS);
        for _ in 0..200 {
            timers.decided(Instant(1), 5 * MS);
        }
        let slow = timers.progress_ns();
        assert!((40 * MS..60 * MS).contains(&slow), "{slow}");
        for _ in 0..200 {
            timers.decided(Instant(1), MS / 10);
        }
        assert_eq!(timers.progress_ns(), 10 * MS, "it shrinks to its floor");
        for _ in 0..50 {
            timers.decided(Instant(1), 20 * MS);
        }
        assert!(timers.progress_ns() > 100 * MS, "and grows again");
    }

    #[test]
    fn one_late_decision_does_not_make_patience_endless() {
        let mut timers = Timers::new(10 * MS, Instant(0));
        for _ in 0..100 {
            timers.decided(Instant(1), MS);
        }
        // An hour of partition, then a leader that dawdles.
        timers.decided(Instant(1), 3600 * START_NS);
        assert!(timers.progress_ns() < 4 * START_NS);
        for _ in 0..100 {
            timers.decided(Instant(1), 3600 * START_NS);
        }
        assert!(timers.progress_ns() < 16 * START_NS);
    }

    #[test]
    fn views_without_decisions_double_patience_and_decisions_forgive() {
        let mut timers = Timers::new(10 * MS, Instant(0));
        let once = timers.change_ns();
        timers.decided(Instant(1), MS);
        timers.entered(Instant(2), true);
        assert_eq!(timers.change_ns(), once, "something was decided");
        timers.entered(Instant(3), true);
        timers.entered(Instant(4), false);
        assert_eq!(timers.change_ns(), 2 * once);
        for at in 0..64 {
            timers.decided(Instant(at), MS);
        }
        assert!(timers.change_ns() < 2 * once);
        for _ in 0..100 {
            timers.entered(Instant(5), true);
            timers.decisions_in_view = 0;
        }
        assert!(timers.progress_deadline(Instant(5)) > Instant(5));
    }
}
