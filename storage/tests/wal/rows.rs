//! Every row of the decision table of recovery (R5), on a disk that leads there, and every pair of
//! superblock copies (DISK12).

use storage::record::{self, HEADER_BYTES, Header, HeaderHash, SECTOR_BYTES};
use storage::superblock::{
    DIRECTORY_VERSION, Expected, Mismatch, SUPERBLOCK_BYTES, SuperblockError, Twin,
};
use storage::wal::{Cause, GeometryError};
use storage::{Geometry, Identity, Kind, LogId, Superblock, Verdict, recover};
use wire::ids::{Digest, Epoch, NodeId, Position, PublicKey};

use crate::log::{Disk, Log, geometry, identity, read_back};
use crate::rot::body;

/// What stands where a record should start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// Three forms of nothing.
    Blank,
    Garbage,
    EarlierLap,
    HeaderTorn,
    Foreign,
    /// An intact header whose place is another offset.
    Misplaced,
    Newer,
    Unreadable,
    /// A whole record of this place that follows another one.
    Unlinked,
    BodyTorn,
    BodyUnreadable,
}

const STANDS: [Stands; 11] = [
    Stands::Blank,
    Stands::Garbage,
    Stands::EarlierLap,
    Stands::HeaderTorn,
    Stands::Foreign,
    Stands::Misplaced,
    Stands::Newer,
    Stands::Unreadable,
    Stands::Unlinked,
    Stands::BodyTorn,
    Stands::BodyUnreadable,
];

/// Whether a later header shows that what should be here was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Yes,
    No,
    /// Another sector cannot be read.
    Unclear,
}

const SPOKEN: [Spoken; 3] = [Spoken::Yes, Spoken::No, Spoken::Unclear];

/// How the log reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Clean,
    Cut(Cause),
    Damaged(Cause),
}

/// Three records leave two sectors of the first file unused, the others are in the second one.
const RECORDS: [(Kind, usize); 7] = [
    (Kind::Start, 1),
    (Kind::Block, 5),
    (Kind::Block, 4),
    (Kind::Block, 3),
    (Kind::Ack, 1),
    (Kind::ViewChange, 2),
    (Kind::Lease, 1),
];
const GAP: Position = Position(10 * SECTOR_BYTES as u64);
const VIEW_CHANGE: Position = Position(16 * SECTOR_BYTES as u64);

/// The first so many of these records, each acknowledged before the next.
fn written(records: &[(Kind, usize)], files: u32) -> Log {
    let mut log = Log::new(files);
    for (tag, (kind, sectors)) in records.iter().enumerate() {
        assert!(log.seal(*kind, &body(tag as u8, *sectors, 100)));
        log.drain();
    }
    log
}

/// A record of two sectors for this place, which follows none of ours.
fn forged(position: Position, whose: &Identity) -> Vec<u8> {
    let content = body(77, 2, 30);
    let mut bytes = vec![0; 2 * SECTOR_BYTES];
    bytes[HEADER_BYTES..][..content.len()].copy_from_slice(&content);
    let header = Header {
        kind: Kind::Evidence,
        generation: 1,
        segment_sequence: geometry().sequence_of(position),
        position,
        durable_before: Position(0),
        low: Position(0),
        body_bytes: content.len() as u32,
        body_crc: record::body_crc(&content),
        previous: HeaderHash([7; 16]),
    };
    record::encode(&header, whose, &mut bytes);
    bytes
}

/// Puts this where a record should start, over two sectors.
fn put(disk: &mut Disk, file: u32, position: Position, stands: Stands) {
    let offset = geometry().offset_of(position) as usize;
    let first = disk.segments[file as usize][offset] as usize;
    let there = &mut disk.segments[file as usize][offset..offset + 2 * SECTOR_BYTES];
    let sector = (offset / SECTOR_BYTES) as u64;
    let other = Identity {
        node: NodeId(3),
        log: LogId([4; 16]),
        ..identity()
    };
    // Of what is damaged only the header counts; elsewhere the record of this place is there.
    let own = first != 0;
    let mut whole = forged(position, &identity());
    match stands {
        Stands::Blank => there.fill(0),
        Stands::Garbage => there.fill(0x55),
        Stands::EarlierLap if position.0 >= geometry().segment_bytes => {
            let earlier = Position(position.0 - geometry().segment_bytes);
            there.copy_from_slice(&forged(earlier, &identity()));
        }
        // Of the first lap nothing is earlier.
        Stands::EarlierLap => there.fill(0),
        Stands::HeaderTorn => {
            whole[100] ^= 1;
            there.copy_from_slice(&whole);
        }
        Stands::Foreign => there.copy_from_slice(&forged(position, &other)),
        Stands::Misplaced => {
            let elsewhere = Position(position.0 + SECTOR_BYTES as u64);
            there.copy_from_slice(&forged(elsewhere, &identity()));
        }
        Stands::Newer => {
            whole[4] = 2;
            whole[HEADER_BYTES - 4..HEADER_BYTES].fill(0);
            let crc = crc32fast::hash(&whole[..HEADER_BYTES]);
            whole[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
            there.copy_from_slice(&whole);
        }
        Stands::Unreadable => disk.unreadable.push((file, sector)),
        Stands::Unlinked => there.copy_from_slice(&whole),
        Stands::BodyTorn if own => there[HEADER_BYTES + 9] ^= 1,
        Stands::BodyTorn => {
            whole[HEADER_BYTES + 9] ^= 1;
            there.copy_from_slice(&whole);
        }
        Stands::BodyUnreadable => {
            if !own {
                there.copy_from_slice(&whole);
            }
            disk.unreadable.push((file, sector + 1));
        }
    }
}

fn outcome(disk: &mut Disk) -> (usize, Position, Ends) {
    let (delivered, recovery) = read_back(disk);
    let (at, ends) = match recovery {
        Ok(recovery) => match recovery.verdict {
            Verdict::Clean => (recovery.tail.position(), Ends::Clean),
            Verdict::CutTail { from, cause } => (from, Ends::Cut(cause)),
        },
        Err(damaged) => (damaged.position, Ends::Damaged(damaged.cause)),
    };
    (delivered.len(), at, ends)
}

/// The table where nothing follows in the next segment: a row for what stands there, a column for
/// whether it was acknowledged. `None`: there is no such disk, for what cannot be read is unclear.
fn last_rows(stands: Stands) -> [Option<Ends>; 3] {
    use Cause::*;
    use Ends::{Clean, Cut, Damaged};
    let unclear = Some(Damaged(Unreadable));
    match stands {
        Stands::Blank | Stands::Garbage | Stands::EarlierLap => {
            [Some(Damaged(HeaderMissing)), Some(Clean), unclear]
        }
        Stands::HeaderTorn => [Some(Damaged(HeaderTorn)), Some(Cut(HeaderTorn)), unclear],
        Stands::Foreign => [
            Some(Damaged(HeaderForeign)),
            Some(Cut(HeaderForeign)),
            unclear,
        ],
        Stands::Misplaced => [
            Some(Damaged(HeaderMisplaced)),
            Some(Cut(HeaderMisplaced)),
            unclear,
        ],
        Stands::Unlinked => [Some(Damaged(Unlinked)), Some(Cut(Unlinked)), unclear],
        Stands::BodyTorn => [Some(Damaged(BodyTorn)), Some(Cut(BodyTorn)), unclear],
        // Whatever else is there, newer software is asked for.
        Stands::Newer => [Some(Damaged(HeaderNewer)); 3],
        Stands::Unreadable | Stands::BodyUnreadable => [unclear, None, unclear],
    }
}

#[test]
fn every_row_at_which_a_log_may_end() {
    let mut rows = 0;
    for stands in STANDS {
        for (spoken, expected) in SPOKEN.into_iter().zip(last_rows(stands)) {
            let Some(expected) = expected else {
                continue;
            };
            let records = if spoken == Spoken::Yes { 7 } else { 6 };
            let mut disk = written(&RECORDS[..records], 2).disk;
            put(&mut disk, 1, VIEW_CHANGE, stands);
            if spoken == Spoken::Unclear {
                disk.unreadable.push((1, 11));
            }
            let (delivered, at, ends) = outcome(&mut disk);
            assert_eq!(ends, expected, "{stands:?} {spoken:?}");
            if stands == Stands::Newer {
                assert_eq!(delivered, 0);
            } else {
                assert_eq!((delivered, at), (5, VIEW_CHANGE), "{stands:?} {spoken:?}");
            }
            rows += 1;
        }
    }
    assert_eq!(rows, 31);
}

/// Where the next segment goes on, what stands in the unused end of this one counts for nothing.
#[test]
fn every_row_at_which_the_next_segment_goes_on() {
    let mut rows = 0;
    for stands in STANDS {
        for spoken in SPOKEN {
            // The block says that what lies before the gap was acknowledged, and no more.
            let records = if spoken == Spoken::Yes { 7 } else { 4 };
            let mut disk = written(&RECORDS[..records], 2).disk;
            put(&mut disk, 0, GAP, stands);
            if spoken == Spoken::Unclear {
                disk.unreadable.push((1, 11));
            }
            let (delivered, at, ends) = outcome(&mut disk);
            let row = format!("{stands:?} {spoken:?}");
            rows += 1;
            if stands == Stands::Newer {
                assert_eq!(
                    (delivered, ends),
                    (0, Ends::Damaged(Cause::HeaderNewer)),
                    "{row}"
                );
                continue;
            }
            assert_eq!(delivered, records, "{row}");
            // At its end a log of which a part cannot be read is refused.
            let unreadable = matches!(stands, Stands::Unreadable | Stands::BodyUnreadable);
            let expected = if spoken == Spoken::Unclear || unreadable {
                Ends::Damaged(Cause::Unreadable)
            } else {
                Ends::Clean
            };
            assert_eq!(ends, expected, "{row}");
            assert!(at > GAP, "{row}");
        }
    }
    assert_eq!(rows, 33);
}

/// The whole file of a stretch is gone. No stretch after it can name a record before it, so there is
/// no row in which the log goes on.
#[test]
fn every_row_of_a_missing_segment() {
    use Ends::{Clean, Damaged};
    const FULL: [(Kind, usize); 8] = [
        (Kind::Start, 1),
        (Kind::Block, 5),
        (Kind::Block, 4),
        (Kind::Ack, 2),
        (Kind::Block, 3),
        (Kind::Block, 5),
        (Kind::Block, 4),
        (Kind::ViewChange, 2),
    ];
    for (spoken, records, expected) in [
        (Spoken::Yes, 8, Damaged(Cause::SegmentMissing)),
        (Spoken::No, 7, Clean),
        (Spoken::No, 5, Clean),
        (Spoken::Unclear, 5, Damaged(Cause::Unreadable)),
    ] {
        let mut disk = written(&FULL[..records], 3).disk;
        disk.segments[1].fill(0);
        if spoken == Spoken::Unclear {
            disk.unreadable.push((2, 3));
        }
        let second = Position(geometry().segment_bytes);
        assert_eq!(
            outcome(&mut disk),
            (4, second, expected),
            "{spoken:?} {records}"
        );
    }
}

/// What follows the end of a log is no record of it, and is reported.
#[test]
fn every_row_of_remains_behind_the_end() {
    let leftovers = Ends::Cut(Cause::Leftovers);
    // A later header, in the same segment and in the next one.
    for later in [
        Position(20 * SECTOR_BYTES as u64),
        Position(2 * geometry().segment_bytes),
    ] {
        let mut log = written(&RECORDS, 3);
        let offset = geometry().offset_of(later) as usize;
        let file = &mut log.disk.segments[geometry().sequence_of(later) as usize];
        file[offset..offset + 2 * SECTOR_BYTES].copy_from_slice(&forged(later, &identity()));
        let end = log.acknowledged;
        assert_eq!(outcome(&mut log.disk), (7, end, leftovers));
    }
    // Half of a header at the start of the next file.
    let mut log = written(&RECORDS, 3);
    let later = Position(2 * geometry().segment_bytes);
    let half = HEADER_BYTES / 2;
    log.disk.segments[2][..half].copy_from_slice(&forged(later, &identity())[..half]);
    let end = log.acknowledged;
    assert_eq!(outcome(&mut log.disk), (7, end, leftovers));
}

/// Remains that claim to have been acknowledged further than the log goes are not remains.
#[test]
fn a_header_that_names_more_than_is_there_is_believed() {
    let mut log = written(&RECORDS, 2);
    let end = log.acknowledged;
    let next = log.sealed.last().unwrap().clone();
    assert!(log.seal(Kind::Block, &body(9, 1, 0)));
    log.drain();
    assert!(log.seal(Kind::ViewChange, &body(10, 1, 0)));
    log.drain();
    let lost = geometry().offset_of(end) as usize;
    log.disk.segments[1][lost..lost + SECTOR_BYTES].fill(0);
    assert_eq!(next.end, end);
    let found = outcome(&mut log.disk);
    assert_eq!(found, (7, end, Ends::Damaged(Cause::HeaderMissing)));
}

/// As it was formatted, and written again three times.
pub fn superblock() -> Superblock {
    Superblock {
        epoch: Epoch(0),
        directory_version: DIRECTORY_VERSION,
        sequence: 4,
        cluster: identity().cluster,
        node: identity().node,
        public_key: PublicKey([3; 32]),
        committee: Digest([4; 32]),
        log: identity().log,
        geometry: geometry(),
    }
}

#[test]
fn every_pair_of_superblock_copies() {
    use SuperblockError::{BothDamaged, NotFormatted};
    let good = superblock();
    let with = |superblock: Superblock| superblock.format().to_vec();
    let none = Geometry {
        segments_max: 1,
        ..geometry()
    };
    let mut damaged = with(good);
    damaged[200] ^= 8;
    let copies = [
        with(good),
        with(Superblock {
            sequence: 5,
            ..good
        }),
        vec![0; SUPERBLOCK_BYTES],
        damaged,
        with(Superblock {
            epoch: Epoch(0),
            directory_version: 7,
            ..good
        }),
        with(Superblock {
            geometry: none,
            ..good
        }),
    ];
    let newer = Err(SuperblockError::Newer { found: 7, known: 1 });
    let few = Err(SuperblockError::Geometry(GeometryError::TooFewSegments(1)));
    let from = |sequence: u64, repair: Option<Twin>| Ok((sequence, repair));
    let (a, b) = (Some(Twin::A), Some(Twin::B));
    // Rows: copy A is good, rewritten, blank, damaged, newer, impossible. Columns: copy B.
    let table = [
        [
            from(4, None),
            from(5, a),
            from(4, b),
            from(4, b),
            newer.clone(),
            from(4, b),
        ],
        [
            from(5, b),
            from(5, None),
            from(5, b),
            from(5, b),
            newer.clone(),
            from(5, b),
        ],
        [
            from(4, a),
            from(5, a),
            Err(NotFormatted),
            Err(BothDamaged),
            newer.clone(),
            few.clone(),
        ],
        [
            from(4, a),
            from(5, a),
            Err(BothDamaged),
            Err(BothDamaged),
            newer.clone(),
            few.clone(),
        ],
        [(); 6].map(|()| newer.clone()),
        [from(4, a), from(5, a), few.clone(), few.clone(), newer, few],
    ];
    for (copy_a, row) in copies.iter().zip(table) {
        for (copy_b, expected) in copies.iter().zip(row) {
            let loaded = Superblock::load(copy_a, copy_b);
            let found = loaded.map(|loaded| (loaded.superblock.sequence, loaded.repair));
            assert_eq!(found, expected);
        }
    }
}

/// Copies of two nodes in one directory, and a superblock beside a log that is not its own: refused
/// before a record is read as ours.
#[test]
fn a_superblock_beside_what_is_not_its_own() {
    let ours = superblock();
    let theirs = Superblock {
        node: NodeId(3),
        log: LogId([4; 16]),
        sequence: 5,
        ..ours
    };
    let me = Expected {
        cluster: ours.cluster,
        node: ours.node,
        public_key: ours.public_key,
    };
    let loaded = Superblock::load(&ours.format(), &theirs.format()).unwrap();
    assert!(matches!(
        loaded.superblock.check(&me),
        Err(Mismatch::Node { .. })
    ));

    let mut disk = written(&RECORDS, 2).disk;
    let mut read = |superblock: Superblock| {
        let mut visit = |_: storage::wal::Entry<'_>| panic!("read as its own");
        let identity = superblock.identity();
        recover(&mut disk, &superblock.geometry, &identity, &mut visit)
            .unwrap_err()
            .cause
    };
    assert_eq!(read(theirs), Cause::HeaderForeign);
    // Of the same node, formatted anew.
    let again = Superblock {
        log: LogId([5; 16]),
        ..ours
    };
    assert_eq!(read(again), Cause::HeaderForeign);
    let geometry = |segment_bytes: u64| Geometry {
        segment_bytes,
        ..geometry()
    };
    let longer = Superblock {
        geometry: geometry(13 * 4096),
        ..ours
    };
    assert_eq!(read(longer), Cause::SegmentSize);
}
