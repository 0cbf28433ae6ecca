//! Every fault of the repertoire does something, and what the product cannot bear is found.

use sim::faults::{Fault, FaultSet};
use sim::plan::{Options, Plan, Tables};
use sim::probes::Probe;
use sim::world::{self, Outcome};

fn only(fault: Fault) -> Options {
    let mut faults = FaultSet::NONE.with(fault);
    if fault == Fault::CrashMidWrite {
        faults = faults.with(Fault::Crash);
    }
    Options {
        faults,
        ..Options::default()
    }
}

fn outcomes(fault: Fault, seeds: u64) -> Vec<Outcome> {
    (0..seeds)
        .map(|seed| world::run_caught(seed, only(fault)))
        .collect()
}

/// Whether a run shows that this fault struck; those that change times only show nothing.
fn struck(fault: Fault, outcome: &Outcome) -> bool {
    let hit = |probe| outcome.probes.count(probe) > 0;
    match fault {
        Fault::Loss => outcome.network.lost > 0,
        Fault::Burst => hit(Probe::LostInBurst),
        Fault::Duplicate => hit(Probe::Doubled),
        Fault::Cut | Fault::OneWay | Fault::Partial => hit(Probe::LostToCut),
        Fault::Partition | Fault::Flap | Fault::Swizzle => hit(Probe::LostToCut),
        Fault::SlowLink => hit(Probe::LostToQueue),
        Fault::Corrupt => hit(Probe::CorruptRefused),
        Fault::Crash => outcome.crashes > 0,
        Fault::CrashMidWrite => hit(Probe::CrashMidWrite),
        Fault::CrashLoop => outcome.crashes >= 20,
        Fault::CrashStep => hit(Probe::CrashBetweenEffects),
        Fault::RestartAll => hit(Probe::AllDown),
        Fault::Pause => hit(Probe::InputsHeld),
        Fault::ClockJump => hit(Probe::ClockJumped),
        Fault::DiskError => hit(Probe::WriteFailed),
        Fault::Stop => hit(Probe::StoppedCleanly),
        Fault::LiarSilent | Fault::LiarMutator => hit(Probe::Lied),
        _ => true,
    }
}

/// Standard faults hold each for itself, and are seen to strike within a few seeds.
#[test]
fn standard_faults_strike_and_are_borne() {
    for fault in FaultSet::standard().iter() {
        let mut seen = false;
        for seed in 0..80 {
            let outcome = world::run_caught(seed, only(fault));
            assert_eq!(outcome.violation, None, "{} seed {seed:#x}", fault.name());
            seen |= struck(fault, &outcome);
            if seen && seed >= 3 {
                break;
            }
        }
        assert!(seen, "{} does nothing", fault.name());
    }
}

/// Nothing is drawn when nothing is allowed.
#[test]
fn without_faults_nothing_goes_wrong() {
    let options = Options {
        faults: FaultSet::NONE,
        ..Options::default()
    };
    for seed in 0..10 {
        let outcome = world::run(seed, options);
        assert_eq!(outcome.violation, None);
        let network = outcome.network;
        let wrong = network.lost + network.doubled + network.corrupted + outcome.crashes;
        assert_eq!(wrong, 0, "{:?}", Plan::new(seed, options));
    }
}

/// Processes go on from the state in the table's own copy on disk, and memory holds a part of it.
#[test]
fn tables_on_disk_hold_the_same_state() {
    let options = Options {
        table: Tables::Disk,
        ..Options::default()
    };
    let outcomes: Vec<_> = (0..40).map(|seed| world::run(seed, options)).collect();
    for outcome in &outcomes {
        assert_eq!(outcome.violation, None);
    }
    let reached = |probe| {
        outcomes
            .iter()
            .any(|outcome| outcome.probes.count(probe) > 0)
    };
    assert!(reached(Probe::SnapshotWritten) && reached(Probe::FromSnapshot));
}

/// Off because the product cannot repair them; the judge sees that.
#[test]
fn damaged_disks_are_noticed() {
    for fault in [Fault::Rot, Fault::Misdirect, Fault::Blank] {
        let outcomes = outcomes(fault, 20);
        let noticed = outcomes.iter().filter(|o| o.violation.is_some()).count();
        assert!(noticed > 0, "{}", fault.name());
    }
    let borne = outcomes(Fault::Full, 5);
    assert!(borne.iter().all(|outcome| outcome.violation.is_none()));
}

/// Everything that ran has an order of its own, apart from the decided log.
#[test]
fn histories_are_checked_at_the_end_of_every_seed() {
    for seed in 0..10 {
        let outcome = world::run(seed, Options::default());
        let checked = outcome.checked;
        // A transaction that was refused may say nothing of any key.
        let nearly = outcome.acknowledged - outcome.acknowledged / 10;
        assert!(checked.operations >= nearly, "{checked:?}");
        assert_eq!(checked.unknown, 0, "{checked:?}");
    }
}
