//! Single histories that deserve a name.

use storage::record::{HEADER_BYTES, SECTOR_BYTES};
use storage::wal::{Cause, JournalLimits, PushError};
use storage::{Identity, Journal, Kind, LogId, Tail, Verdict, Writer, recover};
use wire::bytes::HeapUnique;
use wire::ids::{NodeId, Position};

use crate::log::{Disk, LIMITS, Log, geometry, identity, read_back};

fn body(tag: u8, sectors: usize) -> Vec<u8> {
    vec![tag; sectors * SECTOR_BYTES - HEADER_BYTES]
}

/// Two acknowledged records, then one batch of three in flight.
fn three_in_flight() -> Log {
    let mut log = Log::new(2);
    log.seal(Kind::Start, b"boot 1");
    log.seal(Kind::Block, &body(1, 2));
    log.drain();
    log.seal(Kind::Block, &body(2, 2));
    log.seal(Kind::Skip, b"skip");
    log.seal(Kind::Block, &body(3, 2));
    log.start_write();
    log
}

#[test]
fn torn_tail_every_subset_of_sectors() {
    let sectors = three_in_flight().in_flight.unwrap().bytes.len() / SECTOR_BYTES;
    assert_eq!(sectors, 5);
    for subset in 0..1_u32 << sectors {
        let mut log = three_in_flight();
        let write = log.in_flight.take().unwrap();
        for (at, bytes) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
            if subset & (1 << at) != 0 {
                let first = write.offset as usize / SECTOR_BYTES;
                log.disk
                    .sector(write.segment, first + at)
                    .copy_from_slice(bytes);
            }
        }
        let verdict = log.restart();
        let whole = match subset {
            0b11111 => 5,
            subset if subset & 0b111 == 0b111 => 4,
            subset if subset & 0b11 == 0b11 => 3,
            _ => 2,
        };
        assert_eq!(log.history.len(), whole, "subset {subset:05b}");
        assert_eq!(
            verdict == Verdict::Clean,
            matches!(
                subset,
                0 | 0b11 | 0b111 | 0b11111 | 0b00010 | 0b10000 | 0b10010 | 0b10011 | 0b10111
            ),
            "subset {subset:05b} {verdict:?}"
        );
        // What was cut does not come back after new records in its place.
        log.seal(Kind::Block, &body(2, 2));
        log.drain();
        log.restart();
        assert_eq!(log.history.len(), whole + 1);
    }
}

#[test]
fn torn_tail_cut_at_every_byte() {
    let bytes = three_in_flight().in_flight.unwrap().bytes.len();
    for cut in (0..bytes).filter(|cut| cut % SECTOR_BYTES < 200 || cut % 61 == 0) {
        let mut log = three_in_flight();
        let write = log.in_flight.take().unwrap();
        let start = write.offset as usize;
        log.disk.segments[write.segment as usize][start..start + cut]
            .copy_from_slice(&write.bytes[..cut]);
        log.restart();
        assert!((2..=4).contains(&log.history.len()));
    }
}

/// A hole in the batch, then another power cut at the same place: remains of both are told apart.
#[test]
fn torn_tail_remains_never_come_back() {
    let mut log = three_in_flight();
    let write = log.in_flight.take().unwrap();
    let first = write.offset as usize / SECTOR_BYTES;
    for at in 2..5 {
        let bytes = &write.bytes[at * SECTOR_BYTES..][..SECTOR_BYTES];
        log.disk
            .sector(write.segment, first + at)
            .copy_from_slice(bytes);
    }
    let from = log.acknowledged;
    assert_eq!(
        log.restart(),
        Verdict::CutTail {
            from,
            cause: Cause::Leftovers
        }
    );
    // The same record again, same place, same length: the old Skip after it must not follow it.
    log.seal(Kind::Block, &body(2, 2));
    log.drain();
    let from = log.acknowledged;
    assert_eq!(
        log.restart(),
        Verdict::CutTail {
            from,
            cause: Cause::Unlinked
        }
    );
    assert_eq!(log.history.len(), 3);
}

#[test]
fn damage_behind_an_acknowledged_record_is_never_cut() {
    let mut log = three_in_flight();
    log.finish_write();
    log.hear();
    log.seal(Kind::CleanStop, b"boot 1");
    log.drain();
    for index in 0..5 {
        let mut disk = log.disk.clone();
        let record = &log.history[index];
        disk.segments[record.segment as usize][record.offset as usize + 130] ^= 1;
        let (delivered, recovery) = read_back(&mut disk);
        assert_eq!(delivered.len(), index);
        let damaged = recovery.unwrap_err();
        assert_eq!(damaged.position, record.start);
        assert_eq!(damaged.kind, Some(record.kind));
        assert_eq!(damaged.end, Some(record.end));
        assert_eq!(damaged.cause, Cause::BodyTorn);
        assert!(damaged.to_string().contains("hippo recover"));
        // A zeroed header hides the kind, not the damage.
        let offset = record.offset as usize;
        disk.segments[record.segment as usize][offset..offset + SECTOR_BYTES].fill(0);
        let damaged = read_back(&mut disk).1.unwrap_err();
        assert_eq!((damaged.position, damaged.kind), (record.start, None));
        assert_eq!(damaged.cause, Cause::HeaderMissing);
    }
}

#[test]
fn read_errors_are_never_cut() {
    let mut log = three_in_flight();
    log.drain();
    for sector in 0..12 {
        let mut disk = log.disk.clone();
        disk.unreadable.push((0, sector));
        let damaged = read_back(&mut disk).1.unwrap_err();
        assert_eq!(damaged.cause, Cause::Unreadable, "sector {sector}");
    }
}

#[test]
fn misdirected_and_foreign_sectors_are_recognised() {
    let mut log = three_in_flight();
    log.drain();
    log.seal(Kind::CleanStop, b"boot 1");
    log.drain();
    let second = log.history[1].clone();
    let third = log.history[2].clone();

    let mut disk = log.disk.clone();
    let sector = disk
        .sector(0, third.offset as usize / SECTOR_BYTES)
        .to_vec();
    disk.sector(0, second.offset as usize / SECTOR_BYTES)
        .copy_from_slice(&sector);
    let damaged = read_back(&mut disk).1.unwrap_err();
    assert_eq!(
        (damaged.position, damaged.cause),
        (second.start, Cause::HeaderMisplaced)
    );

    // Another node's log in our directory is left alone.
    let other = Identity {
        node: NodeId(3),
        ..identity()
    };
    let recovery = recover(&mut log.disk, &geometry(), &other, &mut |_| {
        panic!("not ours")
    });
    assert_eq!(recovery.unwrap_err().cause, Cause::HeaderForeign);
}

/// A client can choose a block's bytes, but without the log id no sector of them is a header.
#[test]
fn bodies_cannot_pose_as_records() {
    let mut forger = Log::new(2);
    let guess = Identity {
        log: LogId([0; 16]),
        ..identity()
    };
    forger.writer = Writer::new(geometry(), guess, Tail::blank(2));
    for _ in 0..4 {
        forger.seal(Kind::Block, &body(9, 1));
        forger.drain();
    }
    let forged = forger.disk.segments[0][SECTOR_BYTES..4 * SECTOR_BYTES].to_vec();

    let mut log = Log::new(2);
    let mut payload = body(0, 4);
    payload[SECTOR_BYTES - HEADER_BYTES..].copy_from_slice(&forged);
    log.seal(Kind::Block, &payload);
    log.start_write();
    let write = log.in_flight.take().unwrap();
    // All but the record's own header arrives.
    log.disk.segments[0][SECTOR_BYTES..4 * SECTOR_BYTES]
        .copy_from_slice(&write.bytes[SECTOR_BYTES..]);
    assert_eq!(log.restart(), Verdict::Clean);
    assert!(log.history.is_empty());
}

#[test]
fn files_must_fit_the_geometry() {
    let mut disk = Disk::new(2);
    disk.segments[1].truncate(4096);
    assert_eq!(
        read_back(&mut disk).1.unwrap_err().cause,
        Cause::SegmentSize
    );
    let mut disk = Disk::new(6);
    assert_eq!(
        read_back(&mut disk).1.unwrap_err().cause,
        Cause::SegmentNumbers
    );
}

#[test]
fn a_missing_segment_is_damage() {
    let mut log = Log::new(5);
    for tag in 0..12 {
        assert!(log.seal(Kind::Block, &body(tag, 4)));
        log.drain();
    }
    let lost = log.history[4].clone();
    assert_eq!(lost.offset, 4 * 4096);
    log.disk.segments[lost.segment as usize].fill(0);
    let damaged = read_back(&mut log.disk).1.unwrap_err();
    assert_eq!(damaged.position, Position(12 * 4096));
    assert_eq!(damaged.cause, Cause::SegmentMissing);
}

#[test]
fn a_full_log_refuses_blocks_and_keeps_room_for_the_protocol() {
    let mut log = Log::new(2);
    let mut blocks = 0;
    while log.seal(Kind::Block, &body(1, 2)) {
        log.drain();
        blocks += 1;
    }
    assert_eq!(blocks, 10, "24 sectors less a reserve of 4");
    let full = log.writer.fits(Kind::Block, 4000).unwrap_err();
    assert_eq!(
        (full.used_bytes, full.granted_bytes),
        (20 * 4096, 24 * 4096)
    );
    assert_eq!((full.max_bytes, full.wanted_bytes), (60 * 4096, 2 * 4096));
    assert_eq!(log.writer.remaining(), 0);
    assert!(full.to_string().contains("Nothing recorded is lost"));
    assert!(log.seal(Kind::Evidence, b"e"));
    assert!(log.seal(Kind::ViewChange, b"v"));
    assert!(!log.seal(Kind::Evidence, b"e"));
    assert!(log.seal(Kind::CheckpointCertificate, b"c"));
    assert!(log.seal(Kind::CleanStop, b"s"));
    assert!(!log.seal(Kind::CleanStop, b"s"));
    log.drain();
    assert_eq!(read_back(&mut log.disk).0.len(), 14);

    assert_eq!(log.writer.segments_wanted(), 3);
    log.disk
        .segments
        .push(vec![0; geometry().segment_bytes as usize]);
    log.writer.grant(3);
    assert!(log.seal(Kind::Block, &body(2, 2)));
    log.drain();
    log.restart();
    assert_eq!(log.history.len(), 15);
}

#[test]
fn a_full_log_goes_on_after_a_release() {
    let mut log = Log::new(2);
    while log.seal(Kind::Block, &body(1, 2)) {
        log.drain();
    }
    let low = log.history[7].start;
    log.writer.release(low);
    log.released = low;
    // Not before a record that carries the mark is durable.
    assert!(!log.seal(Kind::Block, &body(2, 2)));
    assert!(log.seal(Kind::CheckpointCertificate, b"c"));
    assert!(!log.seal(Kind::Block, &body(2, 2)));
    log.drain();
    assert!(log.seal(Kind::Block, &body(2, 2)));
    assert_eq!(log.writer.locate(Position(0)), None);
    log.drain();
    log.restart();
}

/// Records sealed before the mark is durable do not put it off.
#[test]
fn a_release_takes_effect_while_records_keep_coming() {
    let mut log = Log::new(2);
    while log.writer.position() < Position(13 * 4096) {
        log.seal(Kind::Block, b"old");
        log.drain();
    }
    log.writer.release(Position(12 * 4096));
    log.released = Position(12 * 4096);
    for _ in 0..4 {
        log.seal(Kind::Block, b"new");
        log.start_write();
        log.seal(Kind::Block, b"new");
        log.finish_write();
        log.hear();
        log.start_write();
    }
    assert_eq!(log.writer.locate(Position(0)), None);
}

#[test]
fn laps_reuse_the_same_files() {
    let mut log = Log::new(3);
    for tag in 0..=255 {
        assert!(log.seal(Kind::Block, &body(tag, 5)));
        log.drain();
        log.writer.release(log.acknowledged);
        log.released = log.acknowledged;
        if tag % 16 == 0 {
            // Old records in the reused files are no remains.
            assert_eq!(log.restart(), Verdict::Clean);
        }
    }
    assert!(log.writer.position().0 > 40 * geometry().max_bytes() / 5);
    assert_eq!(log.writer.segments(), 3);
}

#[test]
fn the_first_failure_is_final() {
    let mut log = three_in_flight();
    let token = log.in_flight.take().unwrap().token;
    let failed = log.journal.complete(token, Err(5)).unwrap_err();
    assert_eq!((failed.errno, failed.from), (5, log.acknowledged));
    assert_eq!(log.journal.complete(token, Ok(())), Err(failed));
    assert!(log.journal.next_batch().is_none());
    assert_eq!(log.journal.failed(), Some(failed));
    assert_eq!(log.journal.durable(), log.acknowledged);
    let sealed = log
        .writer
        .seal(Kind::Block, HeapUnique(vec![0; 4096]), 10)
        .unwrap();
    assert!(matches!(log.journal.push(sealed), Err(PushError::Failed(same)) if same == failed));
}

#[test]
fn one_batch_in_flight_and_the_rest_behind_it() {
    let mut log = Log::new(2);
    log.seal(Kind::Start, b"a");
    log.start_write();
    for tag in 0..11 {
        log.seal(Kind::Block, &body(tag, 1));
    }
    assert!(log.journal.next_batch().is_none(), "one write at a time");
    log.finish_write();
    let batch = log.journal.next_batch().unwrap();
    assert_eq!(batch.parts.len(), 8, "all that is queued, up to the bound");
    assert_eq!(batch.bytes, 8 * 4096);
}

#[test]
fn a_full_queue_gives_the_record_back() {
    let limits = JournalLimits {
        queued_max: 1,
        ..LIMITS
    };
    let mut journal = Journal::new(limits, Position(0));
    let mut writer = Writer::new(geometry(), identity(), Tail::blank(2));
    let mut seal = || {
        writer
            .seal(Kind::Block, HeapUnique(vec![0; 4096]), 10)
            .unwrap()
    };
    journal.push(seal()).unwrap();
    let Err(PushError::Full(back)) = journal.push(seal()) else {
        panic!("a queue of one took two")
    };
    let token = journal.next_batch().unwrap().token;
    journal.push(back).unwrap();
    let durable = journal.complete(token, Ok(())).unwrap();
    assert!(durable.covers(Position(4096)) && !durable.covers(Position(8192)));
}
