//! A log in use is read for damage: all that is needed, and nothing else.

use proptest::prelude::*;
use storage::Kind;
use storage::record::{HEADER_BYTES, SECTOR_BYTES};
use storage::wal::{Cause, Scrubbed, scrub};
use wire::ids::Position;

use crate::log::{Dice, Disk, Log, geometry, identity};
use crate::rot::{STORY, body, tell};

fn read(disk: &Disk) -> Scrubbed {
    scrub(&mut disk.clone(), &geometry(), &identity())
}

/// Something that happens to a log in use.
fn act(log: &mut Log, dice: &mut Dice) {
    match dice.roll(16) {
        0..8 => {
            let sectors = 1 + dice.roll(4) as usize;
            let tag = dice.roll(200) as u8;
            log.seal(
                Kind::Block,
                &body(tag, sectors, 50 * usize::from(tag) % 3900),
            );
        }
        8..10 => log.start_write(),
        10..12 => log.finish_write(),
        12 => log.hear(),
        13 => log.release(dice.roll(u64::MAX)),
        14 => log.drain(),
        _ if dice.roll(8) == 0 => {
            log.tear(dice);
            log.restart();
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_sound_log_is_never_found_damaged(seed in any::<u64>()) {
        let (mut log, mut dice) = (Log::new(2), Dice(seed));
        for _ in 0..400 {
            act(&mut log, &mut dice);
            if log.writer.segments_wanted() > log.disk.segments.len() as u32 {
                let bytes = geometry().segment_bytes as usize;
                log.disk.segments.push(vec![0; bytes]);
                log.writer.grant(log.disk.segments.len() as u32);
            }
            let scrubbed = read(&log.disk);
            prop_assert_eq!(scrubbed.rot, []);
        }
    }
}

/// Every byte, of those that are summed, of every record that is needed and known to be acknowledged.
#[test]
fn rot_is_found_where_it_is() {
    let log = tell(STORY, 2, |_| {});
    let clean = read(&log.disk);
    assert_eq!((clean.damaged, &clean.rot[..]), (0, &[][..]));
    let floor = log.history.iter().map(|record| record.durable_before).max();
    let needed = log
        .history
        .iter()
        .filter(|record| record.start >= log.released && Some(record.end) <= floor);
    let mut records = 0;
    for record in needed.clone() {
        records += 1;
        for at in (0..HEADER_BYTES + record.body.len()).step_by(37) {
            let mut disk = log.disk.clone();
            disk.segments[record.segment as usize][record.offset as usize + at] ^= 1 << (at % 8);
            let scrubbed = read(&disk);
            assert_eq!(scrubbed.damaged, 1, "{} {at}", record.start);
            assert_eq!(scrubbed.rot[0].position, record.start, "{at}");
        }
        let mut disk = log.disk.clone();
        let sector = record.offset / SECTOR_BYTES as u64;
        disk.unreadable.push((record.segment, sector));
        assert_eq!(read(&disk).rot[0].position, record.start);
    }
    assert!(records > 3 && clean.records >= records);
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let mut log = Log::new(3);
    for tag in 0..7 {
        assert!(log.seal(Kind::Block, &body(tag, 4, 0)));
        log.drain();
    }
    assert_eq!(read(&log.disk).damaged, 0);
    let second = log.history[3].segment as usize;
    log.disk.segments[second].fill(0);
    let rot = read(&log.disk).rot;
    assert_eq!(rot[0].position, Position(geometry().segment_bytes));
    assert_eq!(rot[0].cause, Cause::SegmentMissing);
}
