//! What an examination finds in logs that are whole, damaged, or not ours.

use storage::record::{self, HEADER_BYTES, LogId, SECTOR_BYTES};
use storage::wal::{BodyFound, Cause, Examined, Found, examine};
use storage::{Identity, Kind, Tail, Writer};
use wire::bytes::HeapUnique;
use wire::ids::Position;

use crate::log::{Dice, Disk, Log, geometry, identity, read_back};

/// What is compared of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    position: u64,
    kind: Option<Kind>,
    wrong: Option<Cause>,
    body: Option<Vec<u8>>,
    linked: Option<bool>,
    skipped_bytes: u64,
    good: bool,
}

fn rows(disk: &mut Disk) -> (Vec<Row>, Examined) {
    let mut rows: Vec<Row> = Vec::new();
    let examined = examine(disk, &geometry(), &identity(), &mut |found: Found<'_>| {
        assert!(
            rows.last()
                .is_none_or(|last| last.position < found.position.0)
        );
        rows.push(Row {
            position: found.position.0,
            kind: found.header.map(|header| header.kind),
            wrong: found.wrong,
            body: match found.body {
                BodyFound::Good(body) => Some(body.to_vec()),
                _ => None,
            },
            linked: found.linked,
            skipped_bytes: found.skipped_bytes,
            good: found.is_good(),
        });
    });
    (rows, examined)
}

fn bad(rows: &[Row]) -> Vec<&Row> {
    rows.iter().filter(|row| !row.good).collect()
}

/// Records of one, two and three sectors over several segments, each in a flush of its own.
fn written() -> Log {
    let mut log = Log::new(4);
    for number in 0..14u8 {
        let body = vec![number; usize::from(number % 3) * SECTOR_BYTES + 40];
        assert!(log.seal(Kind::Block, &body));
        log.drain();
    }
    log
}

#[test]
fn a_good_log_is_shown_as_it_was_written() {
    let mut log = written();
    let (rows, examined) = rows(&mut log.disk);
    assert!(bad(&rows).is_empty(), "{:?}", bad(&rows));
    assert_eq!(rows.len(), log.history.len());
    for (row, written) in rows.iter().zip(&log.history) {
        assert_eq!(row.position, written.start.0);
        assert_eq!(row.kind, Some(written.kind));
        assert_eq!(row.body.as_ref(), Some(&written.body));
    }
    assert_eq!(rows[0].linked, None);
    assert!(rows[1..].iter().all(|row| row.linked == Some(true)));
    assert_eq!(examined.segments.len(), 4);
    assert_eq!(examined.segments[0].sequence, Some(0));
    assert_eq!(examined.segments[3].sequence, None);
    let last = log.history.last().unwrap();
    assert_eq!(examined.floor, last.durable_before);
    assert_eq!((examined.low, examined.generation), (Position(0), 1));
}

#[test]
fn a_flipped_bit_of_a_header_hides_one_record() {
    let mut log = written();
    let hurt = log.history[4].clone();
    let sector = hurt.offset as usize / SECTOR_BYTES;
    log.disk.sector(hurt.segment, sector)[60] ^= 8;
    let (rows, _) = rows(&mut log.disk);
    let bad = bad(&rows);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0].position, hurt.start.0);
    assert_eq!(bad[0].wrong, Some(Cause::HeaderTorn));
    assert_eq!(bad[0].skipped_bytes, hurt.end.0 - hurt.start.0);
    // The next one is found again, and nobody knows what it should follow.
    let next = rows.iter().find(|row| row.position == hurt.end.0).unwrap();
    assert!(next.good && next.linked.is_none());
    assert_eq!(rows.len(), log.history.len());
}

#[test]
fn a_flipped_bit_of_a_body_leaves_the_chain_whole() {
    let mut log = written();
    let hurt = log.history[5].clone();
    let sector = hurt.offset as usize / SECTOR_BYTES;
    log.disk.sector(hurt.segment, sector + 1)[7] ^= 1;
    let (rows, _) = rows(&mut log.disk);
    let bad = bad(&rows);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!((bad[0].position, bad[0].wrong), (hurt.start.0, None));
    assert_eq!((bad[0].kind, &bad[0].body), (Some(Kind::Block), &None));
    assert!(rows[1..].iter().all(|row| row.linked == Some(true)));
}

#[test]
fn a_record_that_follows_another_one_is_unlinked() {
    let mut log = written();
    let hurt = log.history[3].clone();
    let sector = log
        .disk
        .sector(hurt.segment, hurt.offset as usize / SECTOR_BYTES);
    let record::Decoded::Intact(mut header) = record::decode(sector, &identity(), None) else {
        panic!("a record was written there");
    };
    header.previous.0[3] ^= 1;
    record::encode(&header, &identity(), sector);
    let (rows, _) = rows(&mut log.disk);
    let unlinked = rows.iter().filter(|row| row.linked == Some(false));
    let positions = unlinked.map(|row| row.position).collect::<Vec<_>>();
    // Its own header changed as well, so the next one does not follow it either.
    assert_eq!(positions, [hurt.start.0, hurt.end.0]);
    assert_eq!(bad(&rows).len(), 2);
}

#[test]
fn a_torn_tail_and_what_follows_it_are_shown() {
    let mut log = written();
    let end = log.history.last().unwrap().end;
    log.seal(Kind::Block, &[1; 40]);
    log.seal(Kind::Skip, &[2; 40]);
    log.start_write();
    let write = log.in_flight.take().unwrap();
    let second = write.offset as usize + SECTOR_BYTES;
    // The first of two records never reached the disk.
    log.disk.segments[write.segment as usize][second..second + SECTOR_BYTES]
        .copy_from_slice(&write.bytes[SECTOR_BYTES..]);
    let (rows, examined) = rows(&mut log.disk);
    let bad = bad(&rows);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(
        (bad[0].position, bad[0].skipped_bytes),
        (end.0, SECTOR_BYTES as u64)
    );
    assert_eq!(bad[0].wrong, Some(Cause::HeaderMissing));
    assert!(examined.floor <= end);
    assert_eq!(rows.last().unwrap().kind, Some(Kind::Skip));
}

#[test]
fn a_file_of_another_log_is_named() {
    let mut log = written();
    let theirs = Identity {
        log: LogId([9; 16]),
        ..identity()
    };
    let mut writer = Writer::new(geometry(), theirs, Tail::blank(2));
    let buffer = HeapUnique(vec![0; SECTOR_BYTES]);
    let sealed = writer.seal(Kind::Start, buffer, 24).unwrap();
    let segment = log.history[6].segment;
    log.disk.sector(segment, 0).copy_from_slice(&sealed.shared);
    let (_, examined) = rows(&mut log.disk);
    let foreign = examined.segments.iter().filter(|found| found.is_foreign);
    let indices = foreign.map(|found| found.info.index).collect::<Vec<_>>();
    assert_eq!(indices, [segment]);
}

#[test]
fn missing_and_short_files_are_read_as_far_as_they_go() {
    let mut log = written();
    let whole = rows(&mut log.disk).0.len();
    let middle = log.history[6].segment as usize;
    log.disk.segments[middle].fill(0);
    let (found, _) = rows(&mut log.disk);
    assert_eq!(bad(&found).len(), 1);
    assert_eq!(bad(&found)[0].skipped_bytes, geometry().segment_bytes);
    assert!(found.len() < whole && found.last().unwrap().good);
}

/// Whatever happens to the bytes, every good record that recovery delivers is shown as good.
#[test]
fn any_damage_is_shown_and_nothing_recovery_accepts_is_lost() {
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut log = written();
        for _ in 0..=dice.roll(6) {
            let segment = dice.roll(4) as u32;
            let sector = dice.roll(12) as usize;
            let at = match dice.roll(3) {
                0 => dice.roll(SECTOR_BYTES as u64),
                _ => dice.roll(HEADER_BYTES as u64),
            };
            match dice.roll(5) {
                0 => log.disk.sector(segment, sector).fill(0),
                1 => log.disk.unreadable.push((segment, sector as u64)),
                2 => {
                    let other = log.disk.sector(dice.roll(4) as u32, sector).to_vec();
                    log.disk.sector(segment, sector).copy_from_slice(&other);
                }
                _ => log.disk.sector(segment, sector)[at as usize] ^= 1 << dice.roll(8),
            }
        }
        let (delivered, recovery) = read_back(&mut log.disk);
        let (found, _) = rows(&mut log.disk);
        for (kind, position, body) in &delivered {
            let row = found.iter().find(|row| row.position == position.0);
            let row = row.unwrap_or_else(|| panic!("seed {seed}: {position} is not shown"));
            assert_eq!((row.kind, row.body.as_ref()), (Some(*kind), Some(body)));
            assert!(row.good, "seed {seed}: {row:?}");
        }
        if let Err(damaged) = recovery
            && damaged.floor > damaged.position
        {
            let seen = bad(&found);
            let at = seen.iter().any(|row| row.position == damaged.position.0);
            assert!(at, "seed {seed}: {damaged} is not among {seen:?}");
        }
    }
}
