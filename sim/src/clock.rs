//! The clock that a replica sees: monotonic, at its own rate, with jumps forward.

use wire::ids::Instant;

use crate::faults::draw::ClockPlan;
use crate::plan::BEGIN_NS;

/// A stretch of constant rate.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    world_ns: u64,
    local_ns: u64,
}

/// One replica's clock; it outlives the process.
#[derive(Clone, Debug)]
pub struct Clock {
    rate_per_mille: u64,
    stretches: Vec<Stretch>,
    wall_offset_ns: u64,
}

impl Clock {
    /// A clock that shows the time of the world.
    pub fn exact() -> Clock {
        Clock::new(&ClockPlan {
            rate_per_mille: 1000,
            jumps: Vec::new(),
            wall_offset_ns: 0,
        })
    }

    /// A clock as planned.
    pub fn new(plan: &ClockPlan) -> Clock {
        let rate_per_mille = plan.rate_per_mille.max(1);
        let mut clock = Clock {
            rate_per_mille,
            stretches: vec![Stretch {
                world_ns: BEGIN_NS,
                local_ns: BEGIN_NS,
            }],
            wall_offset_ns: plan.wall_offset_ns,
        };
        let mut jumps = plan.jumps.clone();
        jumps.sort_unstable();
        for (at_ns, by_ns) in jumps {
            let world_ns = at_ns.max(BEGIN_NS);
            let local_ns = clock.local(world_ns).0 + by_ns;
            clock.stretches.push(Stretch { world_ns, local_ns });
        }
        clock
    }

    /// What is added to the monotonic clock to get the time of day.
    pub fn wall_offset_ns(&self) -> u64 {
        self.wall_offset_ns
    }

    /// What the replica reads at a time of the world.
    pub fn local(&self, world_ns: u64) -> Instant {
        let stretch = self.stretches.iter().rfind(|s| s.world_ns <= world_ns);
        let stretch = stretch.unwrap_or(&self.stretches[0]);
        let passed = u128::from(world_ns.saturating_sub(stretch.world_ns));
        let local = passed * u128::from(self.rate_per_mille) / 1000;
        Instant(stretch.local_ns + local as u64)
    }

    /// The first time of the world at which the replica reads at least this.
    pub fn world(&self, local: Instant) -> u64 {
        for (index, stretch) in self.stretches.iter().enumerate() {
            let ahead = u128::from(local.0.saturating_sub(stretch.local_ns));
            let takes = (ahead * 1000).div_ceil(u128::from(self.rate_per_mille));
            let world = u128::from(stretch.world_ns) + takes;
            let next = self.stretches.get(index + 1);
            if next.is_none_or(|next| world < u128::from(next.world_ns)) {
                return u64::try_from(world).unwrap_or(u64::MAX);
            }
        }
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MS;

    #[test]
    fn clocks_run_forward_and_wake_ups_are_neither_early_nor_late() {
        let clock = Clock::new(&ClockPlan {
            rate_per_mille: 1333,
            jumps: vec![(BEGIN_NS + 20 * MS, 5 * MS), (BEGIN_NS + 10 * MS, 7 * MS)],
            wall_offset_ns: 0,
        });
        let mut before = Instant(0);
        for step in 0..400 {
            let world = BEGIN_NS + step * 100_003;
            let local = clock.local(world);
            assert!(local > before);
            before = local;
            let due = clock.world(local);
            assert!(due <= world && clock.local(due) >= local);
            assert!(due == BEGIN_NS || clock.local(due - 1) < local, "{step}");
        }
        let exact = Clock::exact();
        assert_eq!(exact.local(BEGIN_NS + 5), Instant(BEGIN_NS + 5));
        assert_eq!(exact.world(Instant(BEGIN_NS + 5)), BEGIN_NS + 5);
        assert_eq!(exact.world(Instant(u64::MAX)), u64::MAX);
    }
}
