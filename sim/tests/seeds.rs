//! Short seeds: they hold, they repeat, and planted bugs are found.

use sim::canaries::Canary;
use sim::plan::{Options, Plan, Scenario};
use sim::seals::Profile;
use sim::shapes::SHAPES;
use sim::world;

const SEEDS: u64 = 30;

#[test]
fn seeds_hold_and_repeat() {
    for seed in 0..SEEDS {
        let first = world::run(seed, Options::default());
        assert_eq!(first.violation, None, "seed {seed:#x}");
        let second = world::run(seed, Options::default());
        assert_eq!(first.digest, second.digest, "seed {seed:#x}");
        assert_eq!(first.events, second.events, "seed {seed:#x}");
    }
}

/// What was found once is looked at for ever: votes for a state that was taken over, a claim that was
/// dropped, blocks decided before they were written, a COMMIT after silence, a lease below a state
/// that was taken over, claims that nobody looked at, a checkpoint that nobody shows; and false
/// alarms, as by repeated votes beside what is final, decisions that wait for room in the log, or two
/// silent replicas of four, one for a state that nobody kept.
#[test]
fn seeds_that_found_something_hold() {
    for (name, seed) in [
        ("4", 0x18a7f),
        ("4", 0x331eb),
        ("4", 0x3215a),
        ("4", 0x49899),
        ("4", 0x4be75),
        ("4", 0x4c691),
        ("4", 0x5258c),
        ("4", 0x53497),
        ("4", 0x65691),
        ("4", 0x97cbe),
        ("4", 0x9d628),
        ("4", 0x9d77e),
        ("4", 0x1cc85cd),
        ("7", 0x42),
        ("10", 0xad5a3),
    ] {
        let shape = SHAPES.iter().position(|shape| shape.name == name);
        let shape = shape.expect("it has a name");
        let nodes = SHAPES[shape].n;
        let options = Options {
            nodes,
            shape,
            ..Options::default()
        };
        assert_eq!(world::run(seed, options).violation, None, "seed {seed:#x}");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    let digests = (0..8).map(|seed| world::run(seed, Options::default()).digest);
    let digests = digests.collect::<std::collections::BTreeSet<_>>();
    assert_eq!(digests.len(), 8);
}

#[test]
fn seeds_hold_with_real_signatures() {
    let options = Options {
        profile: Profile::Full,
        ..Options::default()
    };
    for seed in 0..6 {
        assert_eq!(world::run(seed, options).violation, None, "seed {seed:#x}");
    }
}

#[test]
fn seeds_hold_with_five_replicas() {
    let options = Options {
        nodes: 5,
        shape: SHAPES.iter().position(|shape| shape.name == "5").unwrap(),
        ..Options::default()
    };
    for seed in 0..10 {
        assert_eq!(world::run(seed, options).violation, None, "seed {seed:#x}");
    }
}

/// A simulator that makes no progress, or no faults, proves nothing.
#[test]
fn seeds_make_progress_and_faults() {
    let outcomes = (0..SEEDS).map(|seed| world::run(seed, Options::default()));
    let (mut idle, mut calm, mut scenarios) = (0, 0, Vec::new());
    for outcome in outcomes {
        let faults = outcome.crashes + outcome.network.lost + outcome.network.doubled;
        idle += u64::from(outcome.acknowledged == 0);
        calm += u64::from(faults == 0);
        scenarios.push(Plan::new(outcome.seed, Options::default()).scenario);
    }
    assert!(idle <= SEEDS / 5, "{idle} seeds acknowledged nothing");
    assert!(calm <= SEEDS / 5, "{calm} seeds had no fault");
    for scenario in [Scenario::Followers, Scenario::Everyone, Scenario::Leader] {
        assert!(scenarios.contains(&scenario), "{scenario:?}");
    }
}

fn found_within(canary: Canary, seeds: u64) -> Option<(u64, String)> {
    let options = Options {
        canary: Some(canary),
        ..Options::default()
    };
    (0..seeds).find_map(|seed| {
        let violation = world::run_caught(seed, options).violation?;
        Some((seed, violation))
    })
}

#[test]
fn disks_that_do_not_flush_are_found() {
    let (seed, violation) = found_within(Canary::Nosync, 20).expect("found");
    assert!(
        ["log", "durab", "R4"]
            .iter()
            .any(|word| violation.contains(word)),
        "{seed}: {violation}"
    );
}

#[test]
fn a_lowered_quorum_is_found() {
    let (seed, violation) = found_within(Canary::Lowquorum, 20).expect("found");
    assert!(violation.contains("G1"), "{seed}: {violation}");
}

#[test]
fn a_replica_that_lost_its_disk_and_goes_on_is_found() {
    let (seed, violation) = found_within(Canary::Blankvotes, 60).expect("found");
    assert!(
        [
            "R3",
            "R4",
            "I9",
            "V1",
            "N2",
            "fenced read",
            "its log does not know"
        ]
        .iter()
        .any(|rule| violation.contains(rule)),
        "{seed}: {violation}"
    );
}

/// R6 from the first boot on: whoever finds an empty disk is told of its own votes by others.
#[test]
fn an_emptied_disk_is_noticed_by_its_owner() {
    let options = Options {
        canary: Some(Canary::Blankvotes),
        ..Options::default()
    };
    let noticed = (0..20).any(|seed| {
        let violation = world::run_caught(seed, options).violation;
        violation.is_some_and(|violation| violation.contains("its log does not know"))
    });
    assert!(noticed);
}

/// BYZ19: one liar more than the committee bears. Honest replicas stay up within their memory, or
/// halt because what they see contradicts itself (I7, I10).
#[test]
fn too_many_liars_take_nobody_down() {
    for seed in 0..SEEDS {
        let options = Options {
            beyond: true,
            ..Options::default()
        };
        let outcome = world::run_caught(seed, options);
        assert_eq!(outcome.violation, None, "seed {seed:#x}");
    }
}
