//! Crashes and restarts: what is durable is all that is left (R2), and a leader never proposes again
//! where it may have proposed (R4).

use consensus::{Core, Effect, Input, Outbox, Record, Recovered};
use wire::ids::{Instant, NodeId, View};
use wire::seal::Statement;

use crate::disk::Entry;
use crate::world::{ALL, FOUR, MS, Message, SECOND, SEVEN, SIX, STRICT, World, genesis};

#[test]
fn each_replica_restarts_at_random_points() {
    for shape in ALL {
        for seed in 0..4 {
            let mut world = World::new(shape, 20 + seed);
            world.overdue = 40 * MS;
            world.load = true;
            for id in world.ids() {
                let pause = world.random(20 * MS);
                world.run(pause);
                world.restart(id);
            }
            world.expect_progress(20, 60 * SECOND);
        }
    }
}

#[test]
fn all_restart_at_once_and_the_leader_resigns() {
    for shape in ALL {
        for seed in 0..4 {
            let mut world = World::new(shape, 30 + seed);
            world.load = true;
            let pause = world.random(40 * MS);
            world.run(5 * MS + pause);
            let proposed = world.judge.headers.len();
            for id in world.ids() {
                world.crash(id);
            }
            for id in world.ids() {
                world.start(id);
            }
            world.load = false;
            let moved = |w: &World| w.correct().all(|id| w.view_of(id) == View(1));
            assert!(
                world.run_until(3 * SECOND, moved),
                "Y5: {}",
                world.describe()
            );
            let after = world.judge.headers.len();
            assert_eq!(
                after, proposed,
                "R4: nothing is proposed in view 0 any more"
            );
            world.expect_progress(20, 60 * SECOND);
        }
    }
}

#[test]
fn a_leader_restarts_on_an_idle_cluster() {
    let mut world = World::new(FOUR, 40);
    world.expect_progress(10, SECOND);
    world.load = false;
    world.run(SECOND);
    world.restart(NodeId(0));
    world.run(200 * MS);
    assert!(
        world.correct().all(|id| world.view_of(id) == View(1)),
        "{}",
        world.describe()
    );
    world.expect_progress(10, SECOND);
}

#[test]
fn a_leader_that_lost_its_first_block_proposes_no_other() {
    // A26: one follower has the block, the leader's log does not.
    for seed in 0..8 {
        let mut world = World::new(FOUR, 50 + seed);
        world.net.cut = vec![(NodeId(0), NodeId(2)), (NodeId(0), NodeId(3))];
        world.load = true;
        world.run_until(SECOND, |w| !w.judge.headers.is_empty());
        world.restart(NodeId(0));
        world.heal();
        // The judge knows every header that a correct leader signed.
        world.expect_progress(10, 10 * SECOND);
        assert!(world.view_of(NodeId(0)) >= View(1));
    }
}

#[test]
fn replicas_restart_inside_a_view_change() {
    for shape in [FOUR, SEVEN, SIX] {
        for seed in 0..10 {
            let mut world = World::new(shape, 60 + seed);
            world.expect_progress(70, 5 * SECOND);
            world.crash(NodeId(0));
            let entered = |w: &World| w.correct().any(|id| w.stage_of(id) > w.view_of(id));
            assert!(world.run_until(5 * SECOND, entered));
            let pause = world.random(3 * MS);
            world.run(pause);
            if seed % 2 == 0 {
                let id = NodeId(1 + world.random(shape.n as u64 - 1) as u16);
                world.restart(id);
            } else {
                for id in world.ids().skip(1) {
                    world.crash(id);
                }
                for id in world.ids().skip(1) {
                    world.start(id);
                }
            }
            world.expect_progress(20, 120 * SECOND);
        }
    }
}

#[test]
fn a_restarted_replica_repeats_its_commit() {
    let mut world = World::new(STRICT, 75);
    world.crash(NodeId(3));
    world.depth = 1;
    // One block, and every COMMIT is lost until replica 1 restarted.
    world.filter = Some(|_, _, message| {
        let commit = matches!(message, Message::Signed(signed)
            if matches!(signed.statement, Statement::Commit { .. }));
        !commit
    });
    world.load = true;
    assert!(world.run_until(SECOND, |w| !w.judge.headers.is_empty()));
    world.load = false;
    let committed = |w: &World| {
        let disk = &w.replicas[1].disk;
        let mut entries = disk.entries();
        entries.any(|entry| matches!(entry, Entry::Record(Record::Commit(_))))
            && disk.durable == disk.end()
    };
    assert!(world.run_until(200 * MS, committed), "{}", world.describe());
    world.run(5 * MS);
    assert_eq!(world.highest(), 0, "one COMMIT decides nothing");
    world.restart(NodeId(1));
    world.filter = None;
    assert!(
        world.run_until(300 * MS, |w| w.lowest() == 1),
        "{}",
        world.describe()
    );
    assert!(world.correct().all(|id| world.stage_of(id) == View(0)));
}

/// A log may tell of a stage whose view change was owed when the process ended: it is said now.
#[test]
fn an_owed_view_change_is_written_after_a_restart() {
    let world = World::new(FOUR, 410);
    let recovered = Recovered {
        stage: View(1),
        ..Recovered::blank(genesis())
    };
    let seal = world.seals[3].clone();
    let mut core = Core::new(world.config(3), seal, recovered, Instant(1));
    let mut out = Outbox::new();
    core.handle(Instant(2), Input::Tick, &mut out);
    let mut effects = out.drain();
    assert!(effects.any(|effect| matches!(effect, Effect::Record(Record::ViewChange(_)))));
}
