//! Sectors and whole files in a wrong place, of an earlier time, or of another node (DISK5, DISK6,
//! DISK12).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::record::{HEADER_BYTES, SECTOR_BYTES};
use storage::wal::Cause;
use storage::{Identity, Kind, LogId, Tail, Verdict, Writer};
use wire::ids::NodeId;

use crate::log::{Disk, Log, geometry, identity, in_parallel, read_back};
use crate::oracle::{Oracle, Outcome};
use crate::rot::{STORY, body, tell};

const SECTORS: usize = 12;

/// (file, sector) of every sector.
fn sectors(disk: &Disk) -> Vec<(u32, usize)> {
    let files = 0..disk.segments.len() as u32;
    files
        .flat_map(|file| (0..SECTORS).map(move |sector| (file, sector)))
        .collect()
}

/// The logs of a story, one after each event.
fn moments(files: u32) -> Vec<Log> {
    let mut moments = Vec::new();
    tell(STORY, files, |log| {
        moments.push(log.cut_off(log.disk.clone()))
    });
    moments
}

/// A sector written to the place of another, which loses what it held: every pair of places, after
/// every event of the story.
#[test]
fn every_sector_in_the_place_of_every_other() {
    let states = AtomicU64::new(0);
    let twins = AtomicU64::new(0);
    let moments = moments(3);
    for (moment, log) in moments.iter().enumerate() {
        let oracle = Oracle::of(log);
        let places = sectors(&log.disk);
        in_parallel(&places, |from| {
            let mut disk = log.disk.clone();
            let moved = disk.sector(from.0, from.1).to_vec();
            for to in &places {
                let held = disk.sector(to.0, to.1).to_vec();
                disk.sector(to.0, to.1).copy_from_slice(&moved);
                let what = || format!("event {moment}, {from:?} over {to:?}");
                if from != to && oracle.has_twins(&disk) {
                    twins.fetch_add(1, Ordering::Relaxed);
                } else {
                    oracle.check(&mut disk, &what);
                    states.fetch_add(1, Ordering::Relaxed);
                }
                // Exchanged.
                disk.sector(from.0, from.1).copy_from_slice(&held);
                if !oracle.has_twins(&disk) {
                    oracle.check(&mut disk, &what);
                    states.fetch_add(1, Ordering::Relaxed);
                }
                disk.sector(from.0, from.1).copy_from_slice(&moved);
                disk.sector(to.0, to.1).copy_from_slice(&held);
            }
        });
    }
    assert_eq!((states.into_inner(), twins.into_inner()), (46_607, 49));
}

/// As above, where the stray sector makes a second file claim the stretch that was just begun.
#[test]
fn a_stray_header_does_not_hide_the_whole_record() {
    for (moment, log) in moments(3).iter().enumerate() {
        let oracle = Oracle::of(log);
        let places = sectors(&log.disk);
        for from in &places {
            for to in &places {
                let mut disk = log.disk.clone();
                let moved = disk.sector(from.0, from.1).to_vec();
                disk.sector(to.0, to.1).copy_from_slice(&moved);
                if from != to && oracle.has_twins(&disk) {
                    let what = || format!("event {moment}, {from:?} over {to:?}");
                    oracle.check(&mut disk, &what);
                }
            }
        }
    }
}

/// Writes that were acknowledged and never happened, at any one place or two: each sector as it was
/// at any earlier time.
#[test]
fn every_pair_of_stale_sectors() {
    let moments = moments(2);
    let log = moments.last().unwrap();
    let oracle = Oracle::of(log);
    let mut stale = BTreeSet::new();
    for earlier in &moments {
        for (file, sector) in sectors(&log.disk) {
            let at = sector * SECTOR_BYTES;
            let held = &earlier.disk.segments[file as usize][at..at + SECTOR_BYTES];
            if *held != log.disk.segments[file as usize][at..at + SECTOR_BYTES] {
                stale.insert((file, sector, held.to_vec()));
            }
        }
    }
    for (file, sector) in sectors(&log.disk) {
        let zeros = vec![0; SECTOR_BYTES];
        if *log.disk.clone().sector(file, sector) != zeros {
            stale.insert((file, sector, zeros));
        }
    }
    let stale = stale.into_iter().collect::<Vec<_>>();
    let numbers = (0..stale.len()).collect::<Vec<_>>();
    let damaged = AtomicU64::new(0);
    in_parallel(&numbers, |one| {
        for other in &numbers[*one..] {
            let mut disk = log.disk.clone();
            for at in [other, one] {
                let (file, sector, held) = &stale[*at];
                disk.sector(*file, *sector).copy_from_slice(held);
            }
            let of = |at: usize| (stale[at].0, stale[at].1, stale[at].2[0]);
            let what = || format!("{:?} and {:?}", of(*one), of(*other));
            let expected = oracle.check(&mut disk, &what);
            damaged.fetch_add(u64::from(expected.outcome.is_damage()), Ordering::Relaxed);
        }
    });
    assert_eq!((stale.len(), damaged.into_inner()), (32, 497));
}

/// Whole files: gone, zeroed, put back to any earlier time, copied over one another, exchanged.
#[test]
fn every_file_missing_stale_doubled_or_exchanged() {
    for files in [2, 3] {
        let moments = moments(files);
        for (moment, log) in moments.iter().enumerate() {
            let oracle = Oracle::of(log);
            let what = |text: &str, file: usize| format!("event {moment}, {text} {file}");
            for file in 0..files as usize {
                let mut disk = log.disk.clone();
                disk.segments[file].fill(0);
                oracle.check(&mut disk, &|| what("zeroed", file));
                for earlier in &moments[..moment] {
                    disk.segments[file].clone_from(&earlier.disk.segments[file]);
                    oracle.check(&mut disk, &|| what("stale", file));
                }
                for other in 0..files as usize {
                    let mut disk = log.disk.clone();
                    disk.segments[file].clone_from(&log.disk.segments[other]);
                    oracle.check(&mut disk, &|| what("doubled", file));
                    let mut disk = log.disk.clone();
                    disk.segments.swap(file, other);
                    // Which number a file has does not matter.
                    let expected = oracle.check(&mut disk, &|| what("exchanged", file));
                    assert_eq!(expected.end, oracle.live.len());
                    assert!(!expected.outcome.is_damage());
                }
            }
            // The file with the highest number: nothing but the log itself can miss it.
            let mut disk = log.disk.clone();
            disk.segments.pop();
            oracle.check(&mut disk, &|| what("missing", files as usize - 1));
        }
    }
}

/// A file that is missing among others is missed by its number.
#[test]
fn a_gap_in_the_numbers_is_refused() {
    struct Gap(Disk, u32);
    impl storage::SegmentSource for Gap {
        fn segments(&self) -> Vec<storage::SegmentInfo> {
            let mut found = self.0.segments();
            found.retain(|segment| segment.index != self.1);
            found
        }

        fn read(&mut self, file: u32, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
            assert_ne!(file, self.1);
            self.0.read(file, offset, into)
        }
    }
    let log = tell(STORY, 3, |_| {});
    for (missing, refused) in [(0, true), (1, true), (2, false)] {
        let mut source = Gap(log.disk.clone(), missing);
        let found = storage::recover(&mut source, &geometry(), &identity(), &mut |_| {});
        let numbers = found.is_err_and(|damaged| damaged.cause == Cause::SegmentNumbers);
        assert_eq!(numbers, refused, "{missing}");
    }
}

/// Another node of the same cluster, whose log is like ours but for its names.
fn neighbour() -> Log {
    let mut log = Log::new(2);
    let identity = Identity {
        node: NodeId(3),
        log: LogId([4; 16]),
        ..identity()
    };
    log.writer = Writer::new(geometry(), identity, Tail::blank(2));
    for (tag, sectors) in [1, 2, 4, 2, 3, 3, 1, 4].into_iter().enumerate() {
        assert!(log.seal(Kind::Block, &body(tag as u8, sectors, 500)));
        log.drain();
    }
    log
}

/// Sectors and files of a neighbour in our directory: never delivered, and a file that is not ours is
/// refused whatever we have in it.
#[test]
fn every_sector_and_file_of_another_node() {
    let theirs = neighbour();
    for log in moments(2) {
        let mut oracle = Oracle::of(&log);
        oracle.foreign = (theirs.sealed.iter())
            .map(|sealed| sealed.shared[..HEADER_BYTES].try_into().unwrap())
            .collect();
        for from in sectors(&theirs.disk) {
            let held = theirs.disk.clone().sector(from.0, from.1).to_vec();
            for to in sectors(&log.disk) {
                let mut disk = log.disk.clone();
                disk.sector(to.0, to.1).copy_from_slice(&held);
                oracle.check(&mut disk, &|| format!("their {from:?} over {to:?}"));
            }
        }
        for file in 0..2 {
            for other in 0..2 {
                let mut disk = log.disk.clone();
                disk.segments[file].clone_from(&theirs.disk.segments[other]);
                let expected = oracle.check(&mut disk, &|| format!("their {other} for {file}"));
                let foreign = matches!(
                    expected.outcome,
                    Outcome::Damaged {
                        cause: Cause::HeaderForeign,
                        ..
                    }
                );
                assert!(foreign);
            }
        }
        let mut ours = theirs.disk.clone();
        let expected = oracle.check(&mut ours, &|| "their log".to_owned());
        assert!(expected.outcome.is_damage());
    }
    // And they find the same of a log of ours.
    let mut disk = theirs.disk;
    assert_eq!(
        read_back(&mut disk).1.unwrap_err().cause,
        Cause::HeaderForeign
    );
    assert_eq!(
        read_back(&mut Disk::new(2)).1.unwrap().verdict,
        Verdict::Clean
    );
}
