//! Random faults over many seeds: always agreement, and progress once the faults end.

use wire::ids::NodeId;

use crate::liars::Twist;
use crate::world::{FOUR, MS, SAFETY, SECOND, SEVEN, SIX, STRICT, Shape, World};

/// Seeds of each committee; `SEEDS` asks for more, `SEED` for one.
const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One story: a healthy start, then faults that come and go, then peace.
fn story(shape: Shape, seed: u64) {
    let mut world = World::new(shape, seed);
    world.overdue = 25 * MS;
    world.load = true;
    // Buffers last in half of the stories.
    world.scarce = [0, 0, 3, 50][world.random(4) as usize];
    world.net.delay = (MS / 10, MS);
    let warm = world.random(90);
    world.run_until(2 * SECOND, |world| world.lowest() >= warm);
    let n = shape.n as u64;
    // At most u faulty at a time, of which at most b lie.
    let liars = if shape.u == 0 {
        0
    } else {
        world.random(shape.b.min(shape.u) as u64 + 1)
    };
    let first = world.random(n);
    let liars = (0..liars)
        .map(|step| NodeId(((first + step) % n) as u16))
        .collect::<Vec<_>>();
    let percent = 5 + world.random(60);
    for id in &liars {
        world.twist(*id, Twist::all(percent));
    }
    for _ in 0..1 + world.random(4) {
        world.net.loss = [0, 0, 5, 20][world.random(4) as usize];
        world.net.duplicates = world.random(20);
        world.net.delay = [(MS / 10, MS), (MS / 10, 8 * MS)][world.random(2) as usize];
        match world.random(7) {
            0 => {
                let id = NodeId(world.random(n) as u16);
                world.isolate(id);
            }
            1 => {
                let half = (0..shape.n as u16 / 2).map(NodeId).collect::<Vec<_>>();
                world.partition(&half);
            }
            2 | 3 => {
                let id = NodeId(world.random(n) as u16);
                if !liars.contains(&id) {
                    world.crash(id);
                }
            }
            4 => {
                // The leader of the highest view.
                let views = world.live().map(|id| {
                    world.replicas[id.index()]
                        .core
                        .as_ref()
                        .unwrap()
                        .summary()
                        .stage
                });
                let leader = world.leader(views.max().unwrap());
                if !liars.contains(&leader) {
                    world.crash(leader);
                }
            }
            5 if world.random(4) == 0 => {
                for id in world.ids().filter(|id| !liars.contains(id)) {
                    world.crash(id);
                }
            }
            _ => {}
        }
        let pause = world.random(80) * MS;
        world.run(pause);
        for id in world.ids() {
            if world.replicas[id.index()].core.is_none() {
                world.start(id);
            }
        }
        world.heal();
        let pause = world.random(30) * MS;
        world.run(pause);
    }
    world.heal();
    world.net.delay = (MS / 10, MS);
    if seed.is_multiple_of(2) {
        // Silent now; in the other half of the stories they go on lying.
        for id in &liars {
            world.replicas[id.index()].core = None;
        }
    }
    world.expect_progress(12, 120 * SECOND);
}

fn stories(shape: Shape) {
    if let Some(seed) = number("SEED") {
        return story(shape, seed);
    }
    let first = number("FIRST").unwrap_or(0);
    for seed in first..first + number("SEEDS").unwrap_or(SEEDS) {
        let told = std::panic::catch_unwind(|| story(shape, seed));
        if let Err(cause) = told {
            eprintln!("SEED={seed} of {shape:?}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn four() {
    stories(FOUR);
}

#[test]
fn seven() {
    stories(SEVEN);
}

#[test]
fn six() {
    stories(SIX);
}

#[test]
fn strict() {
    stories(STRICT);
}

#[test]
fn safety_heavy() {
    stories(SAFETY);
}
