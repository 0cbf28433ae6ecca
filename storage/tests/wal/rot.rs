//! Every flipped bit of a small log and of its superblock (DISK4).

use std::sync::Mutex;

use storage::record::{HEADER_BYTES, SECTOR_BYTES};
use storage::superblock::{Loaded, SuperblockError, Twin};
use storage::wal::Cause;
use storage::{Kind, Superblock};

use crate::log::{Log, identity, in_parallel};
use crate::oracle::{Expected, Oracle, Outcome};
use crate::rows::superblock;

const SECTORS: usize = 12;

/// So many sectors of a record, less some bytes.
pub fn body(tag: u8, sectors: usize, less: usize) -> Vec<u8> {
    let bytes = sectors * SECTOR_BYTES - HEADER_BYTES - less;
    (0..bytes).map(|at| tag ^ (at / 7) as u8 | 1).collect()
}

/// What happens to the small log.
pub enum Event {
    /// Records in one write, each of so many sectors: acknowledged.
    Write(&'static [(Kind, usize)]),
    /// Everything before the segment that is being written is let go.
    Release,
    /// Records in one write, of which these sectors reach the disk before the power goes.
    Torn(&'static [(Kind, usize)], u32),
}

/// Two files, each used twice but for the end of the second one; three processes; records of 1 to 4
/// sectors, alone and several in a write; a mark, a reused file, remains of a torn write, some of
/// them in the unused end of a segment.
pub const STORY: &[Event] = &[
    Event::Write(&[(Kind::Start, 1)]),
    Event::Write(&[(Kind::Block, 2)]),
    Event::Write(&[(Kind::Ack, 1), (Kind::Block, 3)]),
    Event::Write(&[(Kind::ViewChange, 2)]),
    Event::Write(&[(Kind::Lease, 1)]),
    // Does not fit into the two sectors that are left.
    Event::Write(&[(Kind::Block, 3)]),
    Event::Write(&[(Kind::Commit, 1)]),
    Event::Release,
    Event::Write(&[(Kind::CheckpointCertificate, 1)]),
    Event::Write(&[(Kind::Standing, 1)]),
    Event::Torn(
        &[(Kind::Block, 2), (Kind::Skip, 1), (Kind::Block, 2)],
        0b11101,
    ),
    Event::Write(&[(Kind::Start, 1)]),
    Event::Write(&[(Kind::Install, 1), (Kind::NewView, 1)]),
    // Leaves remains of the torn write in the gap, and reuses the first file.
    Event::Write(&[(Kind::Block, 4)]),
    Event::Torn(&[(Kind::Block, 2), (Kind::Commit, 1)], 0b010),
    Event::Write(&[(Kind::Start, 1)]),
    Event::Write(&[(Kind::FetchedBlock, 1), (Kind::Block, 1)]),
    Event::Write(&[(Kind::Decided, 1)]),
];

/// Runs a story; `after` sees the log after each event.
pub fn tell(story: &[Event], files: u32, mut after: impl FnMut(&Log)) -> Log {
    let mut log = Log::new(files);
    let mut tag = 0;
    let mut seal = |log: &mut Log, records: &[(Kind, usize)]| {
        for (kind, sectors) in records {
            tag += 1;
            let less = 97 * tag as usize % 2000;
            assert!(log.seal(*kind, &body(tag, *sectors, less)), "{kind:?}");
        }
    };
    for event in story {
        match event {
            Event::Write(records) => {
                seal(&mut log, records);
                log.drain();
            }
            Event::Release => {
                log.writer.release(log.acknowledged);
                log.released = log.acknowledged;
            }
            Event::Torn(records, subset) => {
                seal(&mut log, records);
                log.start_write();
                let write = log.in_flight.take().unwrap();
                let first = write.offset as usize / SECTOR_BYTES;
                for (at, bytes) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                    if subset & (1 << at) != 0 {
                        log.disk
                            .sector(write.segment, first + at)
                            .copy_from_slice(bytes);
                    }
                }
                let acknowledged = log.history.len() - records.len();
                log.restart();
                assert_eq!(log.history.len(), acknowledged);
            }
        }
        after(&log);
    }
    log
}

#[derive(Default, Debug)]
struct Count {
    exact: u64,
    refused: u64,
    cut: u64,
}

/// Every bit of both files, also of what no record uses: it comes to nothing, or to damage that is
/// refused, or to a cut of what no other header shows to have been acknowledged.
fn every_bit(story: &[Event]) -> Count {
    let log = tell(story, 2, |_| {});
    let oracle = Oracle::of(&log);
    let count = Mutex::new(Count::default());
    let sectors = (0..2 * SECTORS).collect::<Vec<_>>();
    let undamaged = oracle.check(&mut log.disk.clone(), &|| "undamaged".to_owned());
    assert_eq!(undamaged.end, oracle.live.len());
    // What the last headers say of those before them; the rest of the log is known to its own bytes
    // alone (R6).
    let shown = (0..oracle.live.len()).map(|live| oracle.mark(live).durable_before);
    let shown = shown.max().unwrap();
    in_parallel(&sectors, |sector| {
        let (segment, sector) = ((sector / SECTORS) as u32, sector % SECTORS);
        let mut disk = log.disk.clone();
        let owner = oracle.owner(segment, sector);
        let owner = owner.filter(|(live, _)| *live >= undamaged.first);
        let mut found = Count::default();
        let mut expected = undamaged.clone();
        for bit in 0..SECTOR_BYTES * 8 {
            let byte = sector * SECTOR_BYTES + bit / 8;
            let what = || format!("file {segment}, sector {sector}, bit {bit}");
            disk.segments[segment as usize][byte] ^= 1 << (bit % 8);
            // The bits of a byte behind the header are all alike to the oracle.
            if bit % 8 == 0 || bit < HEADER_BYTES * 8 {
                expected = oracle.check(&mut disk, &what);
            } else {
                let again = oracle.recover(&mut disk);
                assert!(again.is(&expected), "{}: {again:?}, {expected:?}", what());
            }
            disk.segments[segment as usize][byte] ^= 1 << (bit % 8);
            // Once more, from the flipped bit alone.
            let hit = owner.filter(|(live, of_record)| {
                let within = of_record * SECTOR_BYTES + bit / 8;
                within < oracle.mark(*live).bytes.len()
            });
            match (hit, expected.outcome) {
                (None, Outcome::Clean | Outcome::Cut { .. }) => {
                    assert_eq!((expected.first, expected.end), whole_range(&undamaged));
                    found.exact += 1;
                }
                (Some((live, _)), Outcome::Damaged { floor, .. }) => {
                    assert!(oracle.mark(live).start < floor, "{}", what());
                    assert_eq!(expected.end, live, "{}", what());
                    found.refused += 1;
                }
                (Some((live, _)), Outcome::Cut { cause, .. }) => {
                    assert!(oracle.mark(live).start >= shown, "{}", what());
                    assert_eq!(expected.end, live, "{}", what());
                    assert!(matches!(
                        cause,
                        Cause::HeaderTorn | Cause::BodyTorn | Cause::Leftovers
                    ));
                    found.cut += 1;
                }
                (hit, outcome) => panic!("{}: {hit:?} {outcome:?}", what()),
            }
        }
        let mut count = count.lock().unwrap();
        count.exact += found.exact;
        count.refused += found.refused;
        count.cut += found.cut;
    });
    count.into_inner().unwrap()
}

fn whole_range(undamaged: &Expected) -> (usize, usize) {
    (undamaged.first, undamaged.end)
}

#[test]
fn every_bit_of_a_log_that_ended_uncleanly() {
    let count = every_bit(STORY);
    assert_eq!(count.exact + count.refused + count.cut, 24 * 32768);
    // Header and body of the last record: nothing was sealed since it was acknowledged.
    assert_eq!((count.refused, count.cut), (432_904, 30_920));
}

/// Both copies of the superblock, every bit of either: the other one does, and says which to repair.
#[test]
fn every_bit_of_the_superblock() {
    let superblock = superblock();
    let good = superblock.format();
    // A rewrite torn between the two copies.
    let older = Superblock {
        sequence: 3,
        ..superblock
    };
    let older = older.format();
    for bit in 0..SECTOR_BYTES * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        let loaded = |repair| {
            Ok(Loaded {
                superblock,
                repair: Some(repair),
            })
        };
        assert_eq!(Superblock::load(&bad, &good), loaded(Twin::A), "bit {bit}");
        assert_eq!(Superblock::load(&good, &bad), loaded(Twin::B), "bit {bit}");
        let both = Superblock::load(&bad, &bad);
        assert_eq!(both, Err(SuperblockError::BothDamaged), "bit {bit}");
        let alone = Superblock::load(&bad, &[]);
        assert_eq!(alone, Err(SuperblockError::BothDamaged), "bit {bit}");
        // The older one is as good as before its rewrite.
        let loaded = Superblock::load(&bad, &older).unwrap();
        assert_eq!(
            (loaded.superblock.sequence, loaded.repair),
            (3, Some(Twin::A))
        );
        assert_eq!(loaded.superblock.identity(), identity());
    }
}
