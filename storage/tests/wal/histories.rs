//! Random histories, random power cuts, random rot.

use proptest::prelude::*;
use storage::record::{HEADER_BYTES, SECTOR_BYTES};
use storage::{Kind, Verdict};

use crate::log::{Dice, Disk, Log, geometry, read_back};

#[derive(Clone, Debug)]
enum Step {
    Seal { kind: usize, body_bytes: usize },
    Start,
    Finish,
    Hear,
    Drain,
    Release(u64),
    Grant,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..Kind::ALL.len(), body_bytes())
            .prop_map(|(kind, body_bytes)| Step::Seal { kind, body_bytes }),
        6 => Just(Step::Start),
        5 => Just(Step::Finish),
        5 => Just(Step::Hear),
        4 => Just(Step::Drain),
        2 => any::<u64>().prop_map(Step::Release),
        1 => Just(Step::Release(u64::MAX)),
        1 => Just(Step::Grant),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

fn body_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..200_usize, 2 => 0..9000_usize, 1 => 0..40_000_usize, 1 => Just(4096 - 128)]
}

fn run(steps: &[Step], dice: &mut Dice) -> Log {
    let mut log = Log::new(2);
    for step in steps {
        match *step {
            Step::Seal { kind, body_bytes } => {
                let byte = dice.roll(256) as u8;
                log.seal(Kind::ALL[kind], &vec![byte; body_bytes]);
            }
            Step::Start => log.start_write(),
            Step::Finish => log.finish_write(),
            Step::Hear => log.hear(),
            Step::Drain => log.drain(),
            Step::Release(choice) => log.release(choice),
            Step::Grant => {
                let wanted = log.writer.segments_wanted();
                let blank = vec![0; geometry().segment_bytes as usize];
                log.disk.segments.resize(wanted as usize, blank);
                log.writer.grant(wanted);
            }
            Step::Crash(seed) => {
                log.tear(&mut Dice(seed));
                log.restart();
            }
        }
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any history with any torn batches: recovery returns a prefix that holds every acknowledged
    /// record, and the log goes on from there.
    #[test]
    fn torn_tail_keeps_every_acknowledged_record(
        steps in prop::collection::vec(step(), 1..250),
        seed in any::<u64>(),
    ) {
        let mut dice = Dice(seed);
        let mut log = run(&steps, &mut dice);
        log.start_write();
        log.tear(&mut dice);
        log.restart();
        // Reading again changes nothing.
        let first = read_back(&mut log.disk);
        prop_assert_eq!(first, read_back(&mut log.disk));
    }

    /// One flipped bit in what was written and acknowledged: exact data, or damage reported, or,
    /// only where no header proves the acknowledgement, a cut that is reported as one.
    #[test]
    fn a_flipped_bit_is_never_silent(
        steps in prop::collection::vec(step(), 20..250),
        seed in any::<u64>(),
    ) {
        let mut dice = Dice(seed);
        let mut log = run(&steps, &mut dice);
        log.drain();
        let (before, recovery) = read_back(&mut log.disk);
        prop_assert!(recovery.is_ok());
        if before.is_empty() {
            return Ok(());
        }
        let at = before[dice.roll(before.len() as u64) as usize].1;
        let index = log.history.iter().position(|record| record.start == at).unwrap();
        let record = log.history[index].clone();
        let guarded = HEADER_BYTES + record.body.len();
        let bit = dice.roll(guarded as u64 * 8);
        let byte = record.offset as usize + bit as usize / 8;
        log.disk.segments[record.segment as usize][byte] ^= 1 << (bit % 8);

        let proven = log.history[index + 1..].iter().any(|later| later.durable_before > at);
        // Where the next record was not found, if it is the first one of a segment.
        let gap = index.checked_sub(1).map(|previous| log.history[previous].end);
        let (after, recovery) = read_back(&mut log.disk);
        let intact = before.iter().take_while(|(_, position, _)| *position < at).count();
        match recovery {
            Err(damaged) => {
                prop_assert!(damaged.position == at || Some(damaged.position) == gap);
                // The proof may also be the remains of a record that was cut.
                prop_assert!(damaged.floor > damaged.position);
            }
            Ok(recovery) => {
                prop_assert!(!proven, "proven damage was cut");
                let cut = matches!(
                    recovery.verdict, Verdict::CutTail { from, .. } if from == at || Some(from) == gap
                );
                prop_assert!(cut, "{:?}", recovery.verdict);
            }
        }
        // When the flip hits the newest header, an older low-water mark may count again, and more
        // old records come first.
        let skipped = after.iter().position(|record| Some(record) == before.first());
        let skipped = skipped.unwrap_or(after.len());
        prop_assert_eq!(&after[skipped..], &before[..intact]);
    }

    /// Whatever happens to the sectors: no panic, and every record delivered is one that was
    /// written, in its order and without a gap.
    #[test]
    fn any_damage_yields_exact_records_or_none(
        steps in prop::collection::vec(step(), 20..250),
        seed in any::<u64>(),
        hits in 1..12_u32,
    ) {
        let mut dice = Dice(seed);
        let mut log = run(&steps, &mut dice);
        log.drain();
        let sectors = geometry().segment_bytes / SECTOR_BYTES as u64;
        let any_sector = |dice: &mut Dice, disk: &Disk| {
            let segment = dice.roll(disk.segments.len() as u64) as u32;
            (segment, dice.roll(sectors) as usize)
        };
        for _ in 0..hits {
            let (segment, sector) = any_sector(&mut dice, &log.disk);
            match dice.roll(5) {
                0 => log.disk.sector(segment, sector).fill(0),
                1 => log.disk.sector(segment, sector).fill_with(|| dice.roll(256) as u8),
                2 => {
                    let (from, at) = any_sector(&mut dice, &log.disk);
                    let moved = log.disk.sector(from, at).to_vec();
                    log.disk.sector(segment, sector).copy_from_slice(&moved);
                }
                3 => log.disk.unreadable.push((segment, sector as u64)),
                _ => {
                    let from = dice.roll(log.disk.segments.len() as u64) as usize;
                    log.disk.segments[segment as usize] = log.disk.segments[from].clone();
                }
            }
        }
        let (delivered, _) = read_back(&mut log.disk);
        if let Some((_, start, _)) = delivered.first() {
            let from = log.history.iter().position(|record| record.start == *start).unwrap();
            for (found, written) in delivered.iter().zip(&log.history[from..]) {
                prop_assert_eq!(found, &(written.kind, written.start, written.body.clone()));
            }
        }
    }
}
