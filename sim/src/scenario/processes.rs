//! How processes pause and end, and what those with leases owe then.

use super::director::Check;
use super::{Pause, Scenario, StepCrash, Stop};
use crate::plan::MS;

impl Scenario {
    /// Votes leave within leases, without the disk (R3).
    pub fn leases(mut self) -> Scenario {
        self.leases = true;
        self
    }

    /// Votes leave without the disk, and without a promise: `durability = none` (R5).
    pub fn without_durability(mut self) -> Scenario {
        self.careless = true;
        self
    }

    /// A replica's process is stopped cleanly, and starts again `down_ms` after its end.
    pub fn stop_for_ms(mut self, node: usize, down_ms: u64) -> Scenario {
        self.stops.push(Stop {
            node,
            at_ns: self.now_ns,
            down_ns: down_ms * MS,
        });
        self
    }

    /// Now this replica is up and silent, or up and not.
    pub fn expect_silent(self, node: usize, silent: bool) -> Scenario {
        self.check(Check::Silent(node, silent))
    }

    /// Disks are so slow that a write of this length is what a process loses at its end.
    pub fn writes_take_us(mut self, us: u64) -> Scenario {
        self.write_us = us;
        self
    }

    /// In its next call with more than one effect the process ends after a part of them; it starts
    /// again after `down_ms`.
    pub fn crash_between_effects(
        mut self,
        node: usize,
        keep_per_mille: u64,
        down_ms: u64,
    ) -> Scenario {
        self.steps.push(StepCrash {
            node,
            at_ns: self.now_ns,
            keep_per_mille,
            down_ns: down_ms * MS,
        });
        self
    }

    /// A process is stopped for a while; what arrives waits.
    pub fn pause_for_ms(mut self, node: usize, ms: u64) -> Scenario {
        self.pauses.push(Pause {
            node,
            from_ns: self.now_ns,
            until_ns: self.now_ns + ms * MS,
        });
        self
    }
}
