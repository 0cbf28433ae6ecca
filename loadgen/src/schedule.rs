//! When transactions are meant to leave. The schedule never looks at replies: the load is open.
//!
//! Constant arrivals are computed from their number, so that no rounding error adds up: `n`
//! seconds at rate `r` hold exactly `r * n` of them. Poisson arrivals are exponential gaps; their
//! number varies around that by its square root.

use std::collections::VecDeque;

use crate::random::Random;
use crate::units::Arrival;

/// How far ahead the schedule can be read.
pub const AHEAD_MAX: usize = wire::limits::BUNDLE_MAX;

/// Intended send times of one thread, in nanoseconds from the start of the run.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrival: Arrival,
    /// Mean gap between two arrivals of this thread.
    gap_ns: f64,
    /// Where this thread's first arrival lies, as a part of a gap: threads interleave.
    phase: f64,
    /// Arrivals drawn so far.
    drawn: u64,
    drawn_ns: f64,
    /// The next arrivals; always `AHEAD_MAX` of them.
    upcoming: VecDeque<u64>,
    random: Random,
}

impl Schedule {
    /// The schedule of thread `thread` of `threads`, which together send `rate` a second.
    pub fn new(arrival: Arrival, rate: f64, thread: usize, threads: usize, seed: u64) -> Schedule {
        assert!(rate > 0.0 && thread < threads);
        let mut schedule = Schedule {
            arrival,
            gap_ns: 1e9 * threads as f64 / rate,
            phase: thread as f64 / threads as f64,
            drawn: 0,
            drawn_ns: 0.0,
            upcoming: VecDeque::with_capacity(AHEAD_MAX + 1),
            random: Random::new(seed),
        };
        while schedule.upcoming.len() < AHEAD_MAX {
            schedule.draw();
        }
        schedule
    }

    fn draw(&mut self) {
        self.drawn_ns = match self.arrival {
            Arrival::Constant => (self.drawn as f64 + self.phase) * self.gap_ns,
            Arrival::Poisson => self.drawn_ns - (1.0 - self.random.unit()).ln() * self.gap_ns,
        };
        self.drawn += 1;
        self.upcoming.push_back(self.drawn_ns as u64);
    }

    /// The next intended time.
    pub fn peek_ns(&self) -> u64 {
        self.ahead_ns(0)
    }

    /// The intended time `ahead` arrivals after the next one; `ahead` is below [`AHEAD_MAX`].
    pub fn ahead_ns(&self, ahead: usize) -> u64 {
        self.upcoming[ahead]
    }

    /// Takes the next intended time.
    pub fn take_ns(&mut self) -> u64 {
        self.draw();
        self.upcoming.pop_front().expect("the schedule never ends")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(arrival: Arrival, rate: f64, threads: usize, seconds: u64, seed: u64) -> u64 {
        (0..threads)
            .map(|thread| {
                let mut schedule =
                    Schedule::new(arrival, rate, thread, threads, seed + thread as u64);
                let mut count = 0;
                while schedule.take_ns() < seconds * 1_000_000_000 {
                    count += 1;
                }
                count
            })
            .sum()
    }

    #[test]
    fn constant_arrivals_are_exact() {
        for threads in [1, 2, 3] {
            assert_eq!(count(Arrival::Constant, 1000.0, threads, 5, 1), 5000);
        }
        assert_eq!(count(Arrival::Constant, 100_000.0, 2, 10, 1), 1_000_000);
    }

    #[test]
    fn constant_arrivals_of_all_threads_are_evenly_spaced() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|thread| {
                let mut schedule = Schedule::new(Arrival::Constant, 1000.0, thread, 4, 1);
                (0..100)
                    .map(move |_| schedule.take_ns())
                    .collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
    }

    #[test]
    fn looking_ahead_tells_what_will_be_taken() {
        for arrival in [Arrival::Constant, Arrival::Poisson] {
            let mut schedule = Schedule::new(arrival, 1e6, 0, 1, 9);
            let last = schedule.ahead_ns(AHEAD_MAX - 1);
            let taken: Vec<u64> = (0..AHEAD_MAX).map(|_| schedule.take_ns()).collect();
            assert_eq!(taken[AHEAD_MAX - 1], last);
            assert!(taken.is_sorted());
        }
    }

    #[test]
    fn poisson_arrivals_follow_the_seed_and_the_rate() {
        let total = count(Arrival::Poisson, 10_000.0, 2, 10, 7);
        assert_eq!(total, count(Arrival::Poisson, 10_000.0, 2, 10, 7));
        assert_ne!(total, count(Arrival::Poisson, 10_000.0, 2, 10, 8));
        // 100,000 expected, standard deviation 316.
        assert!((98_000..102_000).contains(&total), "{total}");
    }

    #[test]
    fn poisson_gaps_vary_as_much_as_they_are_long() {
        let mut schedule = Schedule::new(Arrival::Poisson, 1e6, 0, 1, 3);
        let times: Vec<f64> = (0..20_000).map(|_| schedule.take_ns() as f64).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.9..1.1).contains(&(variance.sqrt() / mean)));
    }
}
