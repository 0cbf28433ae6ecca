//! Every torn state of the last three records, and every truncation of them (DISK1, DISK10).

use std::sync::atomic::{AtomicU64, Ordering};

use storage::record::{HEADER_BYTES, SECTOR_BYTES};
use storage::wal::Cause;
use storage::{Kind, Verdict};
use wire::ids::Position;

use crate::log::{Disk, InFlight, Log, geometry, in_parallel, read_back};
use crate::oracle::{Oracle, Outcome};

const SECTORS: u64 = 12;

/// What lay on the disk before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Zeros: the files are new.
    Zeros,
    /// An earlier use of the file, a record in each sector.
    Short,
    /// An earlier use of the file, with records of all sizes.
    Mixed,
}

/// Where the acknowledged log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Within a segment, with room for what follows.
    Within,
    /// With the segment.
    AtEnd,
    /// A sector before the end of the segment, which is left unused when what follows is longer.
    Gap,
}

const BEFORE: [Before; 3] = [Before::Zeros, Before::Short, Before::Mixed];
const PLACES: [Place; 3] = [Place::Within, Place::AtEnd, Place::Gap];

/// A record of so many sectors, some of them filled to the last byte. No two tags share a word, and no
/// byte is zero.
fn body(tag: usize, sectors: usize) -> Vec<u8> {
    let short = if tag.is_multiple_of(3) {
        0
    } else {
        300 * (tag % 7)
    };
    let word = [(tag / 255 + 1) as u8, (tag % 255 + 1) as u8, 0x5a, 0xa5];
    [word; SECTOR_BYTES / 4 * 5].as_flattened()[..sectors * SECTOR_BYTES - HEADER_BYTES - short]
        .to_vec()
}

/// A log whose acknowledged part ends at such a place.
fn acknowledged(before: Before, place: Place) -> Log {
    let segment_bytes = geometry().segment_bytes;
    let mut log = Log::new(3);
    // The last segment, which is to be torn, was used before by then, or never.
    let laps = if before == Before::Zeros { 0 } else { 6 };
    let target = match place {
        Place::Within => laps * SECTORS + 3,
        Place::AtEnd => (laps + 1) * SECTORS,
        Place::Gap => (laps + 1) * SECTORS - 1,
    };
    let target = target * SECTOR_BYTES as u64;
    let mut tag = 0;
    while log.writer.position() < Position(target) {
        let at = log.writer.position().0;
        let rest = (target - at).min(segment_bytes - at % segment_bytes) as usize / SECTOR_BYTES;
        let wanted = match before {
            Before::Zeros | Before::Mixed => [1, 2, 1, 5, 3, 4][tag % 6],
            Before::Short => 1,
        };
        tag += 1;
        let kind = if tag == 1 { Kind::Start } else { Kind::Block };
        assert!(log.seal(kind, &body(tag, wanted.min(rest))));
        log.drain();
        if before != Before::Zeros {
            log.writer.release(log.acknowledged);
            log.released = log.acknowledged;
        }
    }
    assert_eq!(log.acknowledged, Position(target));
    // What was let go long ago will not come back.
    let kept = Position(target.saturating_sub(3 * segment_bytes));
    log.history.retain(|record| record.start >= kept);
    log
}

/// Three records in one write that is not finished. Their kinds come from their sizes, their bytes
/// from the tag.
fn three_more(mut log: Log, tag: usize, sizes: [usize; 3]) -> Log {
    let first = tag + sizes[0] * 16 + sizes[1] * 4 + sizes[2];
    for (at, sectors) in sizes.into_iter().enumerate() {
        let kind = Kind::ALL[(first + 5 * at) % Kind::ALL.len()];
        assert!(log.seal(kind, &body(first + at, sectors)), "{kind:?}");
    }
    log.start_write();
    log
}

fn sizes(sum_max: usize) -> Vec<[usize; 3]> {
    let all = (0..125).map(|at| [at / 25 + 1, at / 5 % 5 + 1, at % 5 + 1]);
    all.filter(|sizes| sizes.iter().sum::<usize>() <= sum_max)
        .collect()
}

/// The disk with these sectors of the write in flight.
fn torn(disk: &Disk, write: &InFlight, subset: u32) -> Disk {
    let mut disk = disk.clone();
    let first = write.offset as usize / SECTOR_BYTES;
    for (at, bytes) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
        if subset & (1 << at) != 0 {
            disk.sector(write.segment, first + at)
                .copy_from_slice(bytes);
        }
    }
    disk
}

/// How many of the records in flight are whole, in the order of the log; and how recovery must end.
fn whole(sizes: [usize; 3], subset: u32) -> (usize, Option<Cause>) {
    let mut at = 0;
    for (index, sectors) in sizes.into_iter().enumerate() {
        let mask = ((1 << sectors) - 1) << at;
        if subset & mask != mask {
            let has_header = subset & (1 << at) != 0;
            let mut next = at + sectors;
            let later_header = sizes[index + 1..].iter().any(|sectors| {
                let found = subset & (1 << next) != 0;
                next += sectors;
                found
            });
            let cause = if has_header {
                Some(Cause::BodyTorn)
            } else {
                later_header.then_some(Cause::Leftovers)
            };
            return (index, cause);
        }
        at += sectors;
    }
    (3, None)
}

/// A power cut leaves any subset of the sectors in flight. What was acknowledged and what is whole
/// behind it comes back, the rest is cut and never called damage; and the log goes on from there, also
/// with the very record that was lost, behind which what followed it does not come back.
#[test]
fn every_subset_of_the_sectors_in_flight() {
    let states = AtomicU64::new(0);
    for before in BEFORE {
        for place in PLACES {
            let sum_max = if place == Place::Within { 8 } else { 7 };
            let mut all = sizes(sum_max);
            // One sector fits into the gap, and would be a write of its own.
            all.retain(|sizes| place != Place::Gap || sizes[0] > 1);
            in_parallel(&all, |sizes| {
                let log = three_more(acknowledged(before, place), 1000, *sizes);
                let write = log.in_flight.as_ref().unwrap();
                let acked = log.history.len() - 3;
                let oracle = Oracle::of(&log);
                for subset in 0..1_u32 << sizes.iter().sum::<usize>() {
                    let what = || format!("{before:?} {place:?} {sizes:?} {subset:09b}");
                    let mut disk = torn(&log.disk, write, subset);
                    let (kept, cause) = whole(*sizes, subset);
                    let expected = oracle.check(&mut disk, &what);
                    assert_eq!(expected.end, acked + kept, "{}", what());
                    if kept == 0 {
                        let again = &log.history[acked];
                        let mut log = log.cut_off(disk.clone());
                        log.restart();
                        assert!(log.seal(again.kind, &again.body));
                        log.drain();
                        log.restart();
                        assert_eq!(log.history.len(), acked + 1, "{}", what());
                    }
                    let mut log = log.cut_off(disk);
                    match (log.restart(), cause) {
                        (Verdict::Clean, None) => {}
                        (Verdict::CutTail { cause, .. }, Some(expected)) if cause == expected => {}
                        (verdict, _) => panic!("{}: {verdict:?}", what()),
                    }
                    assert_eq!(log.history.len(), acked + kept, "{}", what());
                    // It goes on, and nothing of what was cut comes back behind the new records.
                    assert!(log.seal(Kind::Start, b"again"));
                    log.drain();
                    assert!(log.seal(Kind::Block, &body(1, 2)));
                    log.drain();
                    log.restart();
                    assert_eq!(log.history.len(), acked + kept + 2, "{}", what());
                    states.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    assert_eq!(states.into_inner(), 3 * (7416 + 2808 + 1776));
}

/// A second power cut in the same place, over any remains of the first.
#[test]
fn every_second_tear_over_the_remains_of_the_first() {
    let states = AtomicU64::new(0);
    let cases = [[1, 1, 1], [2, 1, 1], [1, 2, 1], [1, 1, 2]];
    for before in [Before::Zeros, Before::Short] {
        for place in PLACES {
            in_parallel(&cases, |first| {
                let log = three_more(acknowledged(before, place), 1000, *first);
                let write = log.in_flight.as_ref().unwrap();
                let acked = log.history.len() - 3;
                for subset in 0..1_u32 << write.bytes.chunks(SECTOR_BYTES).len() {
                    let mut log = log.cut_off(torn(&log.disk, write, subset));
                    log.restart();
                    let kept = log.history.len();
                    assert_eq!(kept, acked + whole(*first, subset).0);
                    for second in cases {
                        let mut log = log.cut_off(log.disk.clone());
                        log.restart();
                        let log = three_more(log, 3000, second);
                        let write = log.in_flight.as_ref().unwrap();
                        let oracle = Oracle::of(&log);
                        for again in 0..1_u32 << write.bytes.chunks(SECTOR_BYTES).len() {
                            let mut disk = torn(&log.disk, write, again);
                            let what = || {
                                format!(
                                    "{before:?} {place:?} {first:?} {subset:04b}, \
                                     {second:?} {again:04b}"
                                )
                            };
                            // Of the same log, the same place: only the generation tells.
                            let expected = oracle.check(&mut disk, &what);
                            assert!(!expected.outcome.is_damage(), "{}", what());
                            let whole = kept + whole_in_one_write(&log, second, again);
                            assert_eq!(expected.end, whole, "{}", what());
                            states.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    }
    assert!(states.into_inner() > 10_000);
}

/// As [`whole`], when the rest of a segment may have made two writes of the three records.
fn whole_in_one_write(log: &Log, sizes: [usize; 3], subset: u32) -> usize {
    let write = log.in_flight.as_ref().unwrap();
    let mut sectors = write.bytes.len() / SECTOR_BYTES;
    let mut inside = 0;
    for size in sizes {
        if size > sectors {
            break;
        }
        sectors -= size;
        inside += 1;
    }
    whole(sizes, subset).0.min(inside)
}

/// A file that ends at any byte of the last three records is not of the formatted size: refused, for
/// files are made whole before they are used.
#[test]
fn every_shorter_file_is_refused() {
    let log = three_more(acknowledged(Before::Zeros, Place::Within), 1000, [1, 2, 3]);
    let write = log.in_flight.as_ref().unwrap();
    let whole = torn(&log.disk, write, u32::MAX >> 1);
    let mut disk = whole.clone();
    for at in (0..=write.bytes.len()).rev() {
        disk.segments[write.segment as usize].truncate(write.offset as usize + at);
        let (delivered, recovery) = read_back(&mut disk);
        assert!(delivered.is_empty());
        assert_eq!(recovery.unwrap_err().cause, Cause::SegmentSize);
    }
}

/// The write in flight stops at any byte, and behind it lies what lay there, or zeros.
#[test]
fn every_byte_at_which_a_write_can_stop() {
    let states = AtomicU64::new(0);
    for (before, zeroed) in [
        (Before::Zeros, false),
        (Before::Mixed, false),
        (Before::Short, true),
    ] {
        let log = three_more(acknowledged(before, Place::Within), 1000, [1, 3, 2]);
        let write = log.in_flight.as_ref().unwrap();
        let oracle = Oracle::of(&log);
        let acked = log.history.len() - 3;
        let cuts = (0..=write.bytes.len()).collect::<Vec<_>>();
        let ends = [1, 2, 3].map(|back| {
            let mark = oracle.mark(oracle.live.len() - back);
            mark.offset + mark.bytes.len() - write.offset as usize
        });
        for chunk in cuts.chunks(4096) {
            in_parallel(chunk, |cut| {
                let mut disk = log.disk.clone();
                let file = &mut disk.segments[write.segment as usize][write.offset as usize..];
                if zeroed {
                    file[*cut..write.bytes.len()].fill(0);
                }
                file[..*cut].copy_from_slice(&write.bytes[..*cut]);
                let what = || format!("{before:?}, {zeroed}, cut at byte {cut}");
                let expected = oracle.check(&mut disk, &what);
                assert!(!expected.outcome.is_damage(), "{}", what());
                // Zeros behind a body are not missed. Old bytes may end a header or a body as the
                // new ones do.
                let least = ends.iter().filter(|end| cut >= *end).count();
                assert!(expected.end >= acked + least, "{}", what());
                assert!(expected.end <= acked + least + 1, "{}", what());
                states.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    assert_eq!(states.into_inner(), 3 * (6 * SECTOR_BYTES as u64 + 1));
}

/// The same three records, each acknowledged before the next was sealed: zeros from any byte on are
/// damage wherever a header before them shows that more had been acknowledged. From the last record
/// on none does, and that one alone is cut, which is what the peers are asked for (R6).
#[test]
fn every_byte_from_which_an_acknowledged_log_is_gone() {
    let mut log = acknowledged(Before::Zeros, Place::Within);
    let from = log.acknowledged.0 as usize;
    for (kind, sectors) in [(Kind::Block, 1), (Kind::ViewChange, 3), (Kind::Block, 2)] {
        assert!(log.seal(kind, &body(sectors, sectors)));
        log.drain();
    }
    let oracle = Oracle::of(&log);
    let acked = log.history.len();
    let cuts = (from..=log.acknowledged.0 as usize).collect::<Vec<_>>();
    let (lost, exact) = (AtomicU64::new(0), AtomicU64::new(0));
    in_parallel(&cuts, |cut| {
        let mut disk = log.disk.clone();
        disk.segments[0][*cut..].fill(0);
        let what = || format!("zeros from byte {cut}");
        let expected = oracle.check(&mut disk, &what);
        // Nothing is left behind the cut that could show more: a log cut short whole is a shorter
        // log. Its own headers bind it to what they name.
        assert!(!expected.outcome.is_damage(), "{}", what());
        match acked - expected.end {
            0 => &exact,
            _ => &lost,
        }
        .fetch_add(1, Ordering::Relaxed);
    });
    assert!(lost.into_inner() > 0 && exact.into_inner() > 0);
}

/// What lies behind is intact, and one record is cut at any byte: damage, never a cut, unless the
/// lost bytes are zeros anyway.
#[test]
fn every_byte_from_which_an_acknowledged_record_is_gone() {
    let mut log = acknowledged(Before::Zeros, Place::Within);
    let first = log.history.len();
    for (kind, sectors) in [(Kind::Block, 1), (Kind::ViewChange, 3), (Kind::Block, 2)] {
        assert!(log.seal(kind, &body(sectors, sectors)));
        log.drain();
    }
    assert!(log.seal(Kind::CleanStop, b"boot 1"));
    log.drain();
    let oracle = Oracle::of(&log);
    for live in first..first + 3 {
        let mark = oracle.mark(live);
        let end = mark.end.0 as usize;
        let bytes = (mark.start.0 as usize..end).collect::<Vec<_>>();
        in_parallel(&bytes, |from| {
            let mut disk = log.disk.clone();
            disk.segments[0][*from..end].fill(0);
            let what = || format!("record {live} is zero from byte {from}");
            let expected = oracle.check(&mut disk, &what);
            let gone = *from < mark.offset + mark.bytes.len();
            let damaged = matches!(
                expected.outcome,
                Outcome::Damaged { position, .. } if position == mark.start
            );
            assert_eq!(damaged, gone, "{}", what());
            assert!(damaged || expected.outcome == Outcome::Clean, "{}", what());
        });
    }
}
