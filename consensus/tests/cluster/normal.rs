//! Views that last: agreement under loss, the fast and the slow path.

use wire::ids::NodeId;

use crate::world::{ALL, FOUR, MS, SECOND, SEVEN, SIX, STRICT, World};

/// Links of nearly equal length: three of them take longer than two.
pub const STEADY: (u64, u64) = (MS, MS + MS / 10);

impl World {
    pub fn decided(&self, id: NodeId) -> u64 {
        self.replicas[id.index()].chain.len() as u64 - 1
    }

    pub fn lowest(&self) -> u64 {
        self.correct().map(|id| self.decided(id)).min().unwrap_or(0)
    }

    pub fn highest(&self) -> u64 {
        self.correct().map(|id| self.decided(id)).max().unwrap_or(0)
    }

    /// G1: what everyone decided is what the messages show, and is one chain.
    pub fn check(&self) {
        let finals = self.judge.finals(&self.shape);
        for replica in &self.replicas {
            if replica.lies {
                continue;
            }
            for (slot, digest) in replica.chain.iter().enumerate() {
                let known = finals.get(&wire::ids::Slot(slot as u64));
                assert_eq!(known, Some(digest), "slot {slot} was never final");
            }
        }
    }

    pub fn describe(&self) -> String {
        let one = |id: NodeId| {
            let replica = &self.replicas[id.index()];
            let summary = replica.core.as_ref().map(|core| core.summary());
            format!(
                "{id} boot {} lies {}: {summary:?}\n",
                replica.boot, replica.lies
            )
        };
        format!(
            "t={} ms\n{}",
            self.now / MS,
            self.ids().map(one).collect::<String>()
        )
    }

    /// Liveness: every correct replica decides `more` blocks above the highest of now.
    pub fn expect_progress(&mut self, more: u64, within: u64) {
        self.load = true;
        let goal = self.highest() + more;
        let reached = self.run_until(within, |world| world.lowest() >= goal);
        assert!(reached, "no progress to {goal}:\n{}", self.describe());
        self.check();
    }
}

#[test]
fn every_committee_decides_fast_when_nothing_is_wrong() {
    for shape in ALL {
        let mut world = World::new(shape, 1);
        world.net.delay = STEADY;
        world.expect_progress(100, 5 * SECOND);
        for id in world.ids() {
            let ways = world.replicas[id.index()].ways;
            assert_eq!((ways[1], ways[2]), (0, 0), "{shape:?} {ways:?}");
            assert_eq!(
                world.replicas[id.index()]
                    .core
                    .as_ref()
                    .unwrap()
                    .summary()
                    .stage
                    .0,
                0
            );
        }
    }
}

#[test]
fn loss_duplicates_and_reordering_change_nothing() {
    for shape in ALL {
        for seed in 0..6 {
            let mut world = World::new(shape, seed);
            world.net.loss = 5 * seed;
            world.net.duplicates = 20;
            world.net.delay = (MS / 10, 5 * MS);
            world.expect_progress(40, 60 * SECOND);
        }
    }
}

#[test]
fn the_slow_path_decides_without_the_fast_quorum() {
    for shape in [SEVEN, SIX, STRICT] {
        let mut world = World::new(shape, 3);
        world.expect_progress(5, SECOND);
        // One more is missing than the fast path stands.
        for id in (0..shape.n as u16).rev().take(shape.p + 1) {
            world.crash(NodeId(id));
        }
        let before = world.replicas[0].ways;
        world.expect_progress(30, 5 * SECOND);
        let after = world.replicas[0].ways;
        assert!(after[1] - before[1] >= 29, "{shape:?} {before:?} {after:?}");
        let view = world.replicas[0].core.as_ref().unwrap().summary().view;
        assert_eq!(view.0, 0, "and needs no view change");
    }
}

#[test]
fn one_replica_less_costs_no_fast_decision() {
    for shape in [FOUR, SEVEN, SIX] {
        let mut world = World::new(shape, 4);
        world.net.delay = STEADY;
        world.crash(NodeId(shape.n as u16 - 1));
        world.expect_progress(40, 5 * SECOND);
        assert_eq!(world.replicas[0].ways[1], 0);
    }
}
