//! Blocks whose bytes rotted in a log that is whole but for them (R5): they are named, in any number
//! and combination, and nothing else is passed over.

use storage::record::{HEADER_BYTES, Kind, SECTOR_BYTES};
use storage::wal::{Hole, recover_around};
use storage::{Damaged, Recovery, recover};
use wire::ids::Position;

use crate::log::{Disk, Log, Written, geometry, identity};
use crate::rot::{STORY, tell};

/// Starts of the records that were read, and the holes between them.
type Around = (Result<Recovery, Damaged>, Vec<Position>, Vec<Hole>);

fn around(disk: &mut Disk) -> Around {
    let (mut read, mut holes) = (Vec::new(), Vec::new());
    let recovery = recover_around(disk, &geometry(), &identity(), &mut |found| match found {
        Ok(entry) => read.push(entry.position),
        Err(hole) => holes.push(hole),
    });
    (recovery, read, holes)
}

/// Records from the low-water mark on that later ones show to have been acknowledged.
fn shown(log: &Log, whole: &Recovery) -> Vec<Written> {
    let floor = log.history.iter().map(|record| record.durable_before).max();
    let kept = log
        .history
        .iter()
        .filter(|record| record.start >= whole.tail.low() && Some(record.start) < floor);
    kept.cloned().collect()
}

fn flip(disk: &mut Disk, record: &Written, byte: usize) {
    let at = record.offset as usize + byte;
    disk.segments[record.segment as usize][at] ^= 0x10;
}

fn is_block(record: &Written) -> bool {
    matches!(record.kind, Kind::Block | Kind::FetchedBlock)
}

fn whole(log: &Log) -> (Recovery, Vec<Position>) {
    let (recovery, read, holes) = around(&mut log.disk.clone());
    assert!(holes.is_empty());
    let plain = recover(&mut log.disk.clone(), &geometry(), &identity(), &mut |_| {});
    assert_eq!(recovery, plain);
    (recovery.unwrap(), read)
}

#[test]
fn any_blocks_that_rotted_are_named_and_the_rest_is_read() {
    let log = tell(STORY, 2, |_| {});
    let (undamaged, read) = whole(&log);
    let blocks = shown(&log, &undamaged).into_iter().filter(is_block);
    let blocks = blocks.collect::<Vec<_>>();
    assert!(blocks.len() >= 3);
    for subset in 0_u32..1 << blocks.len() {
        let mut disk = log.disk.clone();
        let hurt = (0..blocks.len()).filter(|at| subset & (1 << at) != 0);
        let hurt = hurt.map(|at| &blocks[at]).collect::<Vec<_>>();
        for record in &hurt {
            flip(&mut disk, record, HEADER_BYTES + record.body.len() / 2);
        }
        let (recovery, found, holes) = around(&mut disk);
        let recovery = recovery.unwrap();
        assert_eq!(
            (&recovery.tail, recovery.verdict),
            (&undamaged.tail, undamaged.verdict)
        );
        assert_eq!(recovery.flushed(), undamaged.flushed());
        let rest = read
            .iter()
            .filter(|start| hurt.iter().all(|record| record.start != **start));
        assert_eq!(found, rest.copied().collect::<Vec<_>>());
        assert_eq!(holes.len(), hurt.len());
        for (hole, record) in holes.iter().zip(&hurt) {
            assert_eq!((hole.position, hole.end), (record.start, record.end));
        }
    }
}

#[test]
fn a_bad_sector_in_a_block_is_a_hole_and_elsewhere_an_end() {
    let log = tell(STORY, 2, |_| {});
    let (undamaged, _) = whole(&log);
    for record in shown(&log, &undamaged) {
        let first = record.offset / SECTOR_BYTES as u64;
        let bytes = HEADER_BYTES + record.body.len();
        for sector in 0..bytes.div_ceil(SECTOR_BYTES) as u64 {
            let mut disk = log.disk.clone();
            disk.unreadable.push((record.segment, first + sector));
            let (recovery, _, holes) = around(&mut disk);
            let what = format!("{:?} at {}, sector {sector}", record.kind, record.start);
            if is_block(&record) && sector > 0 {
                assert!(recovery.is_ok(), "{what}: {recovery:?}");
                assert_eq!(holes.len(), 1, "{what}");
            } else {
                assert!(recovery.is_err(), "{what}");
            }
        }
    }
}

/// Every byte of every record: only bodies of blocks are passed over, and only below what was
/// acknowledged.
#[test]
fn nothing_else_is_passed_over() {
    let log = tell(STORY, 2, |_| {});
    let (undamaged, _) = whole(&log);
    let shown = shown(&log, &undamaged);
    let live = log
        .history
        .iter()
        .filter(|record| record.start >= undamaged.tail.low());
    for record in live {
        let is_shown = shown.iter().any(|other| other.start == record.start);
        for byte in 0..HEADER_BYTES + record.body.len() {
            let mut disk = log.disk.clone();
            flip(&mut disk, record, byte);
            let (recovery, _, holes) = around(&mut disk);
            let what = format!("{:?} at {}, byte {byte}", record.kind, record.start);
            let in_block = is_block(record) && byte >= HEADER_BYTES;
            assert_eq!(holes.len(), usize::from(in_block && is_shown), "{what}");
            if holes.is_empty() {
                let plain = recover(&mut disk, &geometry(), &identity(), &mut |_| {});
                assert_eq!(recovery, plain, "{what}");
                assert_eq!(recovery.is_err(), is_shown, "{what}");
            }
        }
    }
}
