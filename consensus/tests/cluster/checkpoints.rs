//! Checkpoints move the window; whoever lags gets blocks, or the state.

use wire::ids::NodeId;

use crate::normal::STEADY;
use crate::world::{ALL, FOUR, K, Message, SECOND, SEVEN, STRICT, World};

#[test]
fn the_window_moves_with_checkpoints() {
    for shape in ALL {
        let mut world = World::new(shape, 80);
        world.expect_progress(12 * K, 10 * SECOND);
        for id in world.ids() {
            let low = world.replicas[id.index()]
                .core
                .as_ref()
                .unwrap()
                .summary()
                .low
                .0;
            assert!(low.is_multiple_of(K) && low >= 10 * K, "{low}");
            let held = world.replicas[id.index()].bytes.len() as u64;
            assert!(held <= 5 * K, "{held} blocks are held");
        }
    }
}

#[test]
fn a_replica_that_lags_a_little_fetches_blocks() {
    for shape in [FOUR, SEVEN] {
        let mut world = World::new(shape, 81);
        world.expect_progress(10, 5 * SECOND);
        world.isolate(NodeId(2));
        let goal = world.highest() + 12;
        assert!(world.run_until(5 * SECOND, |w| w.highest() >= goal));
        world.heal();
        world.expect_progress(10, 5 * SECOND);
        assert_eq!(world.replicas[2].transfers, 0);
    }
}

#[test]
fn a_replica_far_behind_takes_the_state_over_and_votes_again() {
    for (shape, missing) in [(FOUR, 3), (SEVEN, 6)] {
        let mut world = World::new(shape, 82);
        world.expect_progress(10, 5 * SECOND);
        world.isolate(NodeId(2));
        let goal = world.highest() + 100;
        assert!(world.run_until(5 * SECOND, |w| w.highest() >= goal));
        world.heal();
        world.expect_progress(30, 5 * SECOND);
        assert!(world.replicas[2].transfers >= 1);
        // N2: it jumped, and its votes count again.
        world.crash(NodeId(missing));
        world.net.delay = STEADY;
        let before = world.replicas[0].ways[0];
        world.expect_progress(30, 5 * SECOND);
        let fast = world.replicas[0].ways[0] - before;
        assert!(fast >= 15, "{shape:?}: {fast} {}", world.describe());
        world.restart(NodeId(2));
        world.expect_progress(30, 5 * SECOND);
    }
}

/// A state that comes too late is waited for no longer: while it is, nobody judges the leader (T4).
#[test]
fn blocks_are_faster_than_a_state() {
    let mut world = World::new(FOUR, 83);
    world.transfer_beyond = 4;
    world.install_ns = 60 * SECOND;
    world.crash(NodeId(2));
    world.restart(NodeId(2));
    world.expect_progress(10, 5 * SECOND);
    world.isolate(NodeId(2));
    let goal = world.highest() + K + K / 2;
    assert!(world.run_until(5 * SECOND, |w| w.highest() >= goal));
    world.heal();
    world.expect_progress(30, 5 * SECOND);
    assert!(world.replicas[2].transfers >= 1);
    assert!(!world.replicas[2].core.as_ref().unwrap().is_transferring());
}

#[test]
fn a_replica_restarts_right_after_it_took_the_state_over() {
    for seed in 0..10 {
        let shape = if seed % 2 == 0 { FOUR } else { STRICT };
        let mut world = World::new(shape, 90 + seed);
        world.expect_progress(10, 5 * SECOND);
        world.isolate(NodeId(2));
        let goal = world.highest() + 100;
        assert!(world.run_until(5 * SECOND, |w| w.highest() >= goal));
        world.heal();
        assert!(world.run_until(5 * SECOND, |w| !w.replicas[2].disk.snapshot.is_empty()));
        let pause = world.random(crate::world::MS);
        world.run(pause);
        world.restart(NodeId(2));
        world.expect_progress(30, 10 * SECOND);
    }
}

#[test]
fn the_state_may_come_before_the_view_that_made_it() {
    // V6: the state's last block is of the new view itself, and no reason to refuse its base.
    for shape in [FOUR, SEVEN] {
        let mut world = World::new(shape, 95);
        world.expect_progress(10, 5 * SECOND);
        world.isolate(NodeId(2));
        world.replicas[0].core.as_mut().unwrap().set_stopping();
        let goal = world.highest() + 100;
        assert!(world.run_until(5 * SECOND, |w| w.highest() >= goal));
        world.heal();
        world.filter = Some(|_, to, message| {
            !(to == NodeId(2) && matches!(message, Message::NewViewCertificate(_)))
        });
        let taken = |w: &World| w.replicas[2].executed > 90;
        assert!(world.run_until(5 * SECOND, taken), "{}", world.describe());
        world.filter = None;
        world.expect_progress(20, 5 * SECOND);
        assert_eq!(world.view_of(NodeId(2)), world.view_of(NodeId(1)));
        world.crash(NodeId(3));
        world.expect_progress(20, 10 * SECOND);
    }
}
