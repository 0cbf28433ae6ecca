//! Writer, journal and recovery together, over segments in memory: torn writes, rot, laps, fullness.

use std::io;

use proptest::prelude::*;
use storage::record::{HEADER_BYTES, SECTOR_BYTES, record_bytes};
use storage::wal::{Cause, JournalLimits, PushError};
use storage::{
    Damaged, Geometry, Identity, Journal, Kind, LogId, Recovery, SegmentInfo, SegmentSource, Tail,
    Verdict, Writer, recover,
};
use wire::bytes::{HeapShared, HeapUnique};
use wire::ids::{ClusterId, NodeId, Position};

const LIMITS: JournalLimits = JournalLimits {
    queued_max: 64,
    batch_parts_max: 8,
    batch_bytes_max: 16 * 4096,
};

fn geometry() -> Geometry {
    Geometry {
        segment_bytes: 12 * 4096,
        segments_max: 5,
        reserve_bytes: 4 * 4096,
    }
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId(2),
        log: LogId([3; 16]),
    }
}

/// Deterministic choices within one test case.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

#[derive(Clone, Default)]
struct Disk {
    segments: Vec<Vec<u8>>,
    /// (segment, sector) that read as errors.
    unreadable: Vec<(u32, u64)>,
}

impl Disk {
    fn new(segments: u32) -> Disk {
        let bytes = geometry().segment_bytes as usize;
        Disk {
            segments: vec![vec![0; bytes]; segments as usize],
            unreadable: Vec::new(),
        }
    }

    fn sector(&mut self, segment: u32, sector: usize) -> &mut [u8] {
        &mut self.segments[segment as usize][sector * SECTOR_BYTES..][..SECTOR_BYTES]
    }
}

impl SegmentSource for Disk {
    fn segments(&self) -> Vec<SegmentInfo> {
        // Any order will do.
        let indices = (0..self.segments.len()).rev();
        let info = |index: usize| SegmentInfo {
            index: index as u32,
            bytes: self.segments[index].len() as u64,
        };
        indices.map(info).collect()
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(4096) && into.len().is_multiple_of(4096));
        let end = offset + into.len() as u64;
        let hit =
            |&(at, sector): &(u32, u64)| at == segment && (offset..end).contains(&(sector * 4096));
        if self.unreadable.iter().any(hit) {
            return Err(io::Error::from_raw_os_error(5));
        }
        into.copy_from_slice(&self.segments[segment as usize][offset as usize..end as usize]);
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    kind: Kind,
    start: Position,
    end: Position,
    body: Vec<u8>,
    /// What its header says was durable.
    durable_before: Position,
    segment: u32,
    offset: u64,
}

/// A write in flight, as the disk sees it.
struct InFlight {
    segment: u32,
    offset: u64,
    bytes: Vec<u8>,
    token: storage::wal::Token,
}

struct Log {
    disk: Disk,
    writer: Writer,
    journal: Journal<HeapShared>,
    in_flight: Option<InFlight>,
    /// Completed, but not yet known to the writer.
    unheard: Option<storage::Durable>,
    history: Vec<Written>,
    acknowledged: Position,
    known_durable: Position,
    released: Position,
}

impl Log {
    fn new(segments: u32) -> Log {
        Log {
            disk: Disk::new(segments),
            writer: Writer::new(geometry(), identity(), Tail::blank(segments)),
            journal: Journal::new(LIMITS, Position(0)),
            in_flight: None,
            unheard: None,
            history: Vec::new(),
            acknowledged: Position(0),
            known_durable: Position(0),
            released: Position(0),
        }
    }

    fn seal(&mut self, kind: Kind, body: &[u8]) -> bool {
        if self.journal.queued() == LIMITS.queued_max {
            return false;
        }
        // One sector longer than needed and full of old bytes, as a pooled buffer is.
        let mut buffer = vec![0xee; record_bytes(body.len()) + SECTOR_BYTES];
        buffer[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(body);
        let fits = self.writer.fits(kind, body.len());
        let before = self.writer.position();
        match self.writer.seal(kind, HeapUnique(buffer), body.len()) {
            Ok(sealed) => {
                assert!(fits.is_ok());
                assert!(sealed.start >= before);
                assert_eq!(sealed.end, self.writer.position());
                assert_eq!(sealed.shared.len() as u64, sealed.end.0 - sealed.start.0);
                let padding = &sealed.shared[HEADER_BYTES + body.len()..];
                assert!(padding.iter().all(|byte| *byte == 0));
                let segment_bytes = geometry().segment_bytes;
                assert_eq!(
                    sealed.start.0 / segment_bytes,
                    (sealed.end.0 - 1) / segment_bytes
                );
                assert_eq!(
                    self.writer.locate(sealed.start),
                    Some((sealed.segment, sealed.offset_in_segment))
                );
                self.history.push(Written {
                    kind,
                    start: sealed.start,
                    end: sealed.end,
                    body: body.to_vec(),
                    durable_before: self.known_durable,
                    segment: sealed.segment,
                    offset: sealed.offset_in_segment,
                });
                assert!(self.journal.push(sealed).is_ok());
                true
            }
            Err(full) => {
                assert_eq!(fits, Err(full));
                assert_eq!(self.writer.position(), before);
                assert!(full.used_bytes <= full.max_bytes);
                false
            }
        }
    }

    fn start_write(&mut self) {
        if let Some(batch) = self.journal.next_batch() {
            assert!(batch.parts.len() <= LIMITS.batch_parts_max);
            let mut bytes = Vec::new();
            for part in batch.parts {
                assert_eq!(part.segment, batch.segment);
                assert_eq!(part.offset_in_segment, batch.offset + bytes.len() as u64);
                bytes.extend_from_slice(&part.shared);
            }
            assert_eq!(bytes.len() as u64, batch.bytes);
            assert!(batch.bytes <= LIMITS.batch_bytes_max || batch.parts.len() == 1);
            assert!(self.in_flight.is_none());
            self.in_flight = Some(InFlight {
                segment: batch.segment,
                offset: batch.offset,
                bytes,
                token: batch.token,
            });
        }
    }

    fn finish_write(&mut self) {
        if let Some(write) = self.in_flight.take() {
            let end = write.offset as usize + write.bytes.len();
            self.disk.segments[write.segment as usize][write.offset as usize..end]
                .copy_from_slice(&write.bytes);
            let durable = self.journal.complete(write.token, Ok(())).unwrap();
            self.acknowledged = durable.position();
            self.unheard = Some(durable);
        }
    }

    fn hear(&mut self) {
        if let Some(durable) = self.unheard.take() {
            self.writer.acknowledge(durable);
            self.known_durable = durable.position();
        }
    }

    fn drain(&mut self) {
        while self.journal.queued() > 0 || self.in_flight.is_some() {
            self.start_write();
            self.finish_write();
        }
        self.hear();
    }

    fn release(&mut self, choice: u64) {
        let durable = self
            .history
            .iter()
            .filter(|record| record.start <= self.known_durable);
        let known: Vec<Position> = durable.map(|record| record.start).collect();
        if !known.is_empty() {
            let low = known[choice.min(known.len() as u64 * 1000 - 1) as usize % known.len()];
            if low <= self.known_durable {
                self.writer.release(low);
                self.released = self.released.max(low);
            }
        }
    }

    /// Power fails: each sector of the write in flight reached the disk or did not.
    fn tear(&mut self, dice: &mut Dice) {
        if let Some(write) = self.in_flight.take() {
            let first = write.offset as usize / SECTOR_BYTES;
            let style = dice.roll(4);
            for (at, bytes) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                let arrives = match style {
                    0 => true,
                    1 => false,
                    _ => dice.roll(2) == 0,
                };
                if arrives {
                    self.disk
                        .sector(write.segment, first + at)
                        .copy_from_slice(bytes);
                }
            }
        }
    }

    /// Recovers and checks the outcome against the history; goes on from there.
    fn restart(&mut self) -> Verdict {
        let (delivered, recovery) = read_back(&mut self.disk);
        let recovery = recovery.expect("a torn tail is never damage");
        let kept = self.check_prefix(&delivered);
        self.history.truncate(kept);
        let end = self.history.last().map_or(Position(0), |record| record.end);
        assert!(end >= self.acknowledged, "an acknowledged record was cut");
        assert!(recovery.tail.position() >= end);
        let durable = recovery.flushed();
        self.acknowledged = durable.position();
        self.known_durable = durable.position();
        self.unheard = None;
        self.journal = Journal::new(LIMITS, durable.position());
        self.writer = Writer::new(geometry(), identity(), recovery.tail);
        self.writer.acknowledge(durable);
        recovery.verdict
    }

    /// The records delivered are a run of the history that starts at or before the released
    /// position; returns where in the history it ends.
    fn check_prefix(&self, delivered: &[(Kind, Position, Vec<u8>)]) -> usize {
        let Some((_, start, _)) = delivered.first() else {
            assert!(self.acknowledged <= self.released, "nothing came back");
            let kept = self
                .history
                .iter()
                .filter(|record| record.end <= self.acknowledged);
            return kept.count();
        };
        let from = self
            .history
            .iter()
            .position(|record| record.start == *start);
        let from = from.expect("the first record delivered was never written");
        assert!(*start <= self.released, "a needed record is missing");
        let expected = &self.history[from..];
        assert!(
            delivered.len() <= expected.len(),
            "more delivered than written"
        );
        for (found, expected) in delivered.iter().zip(expected) {
            assert_eq!(
                *found,
                (expected.kind, expected.start, expected.body.clone())
            );
        }
        from + delivered.len()
    }
}

type Delivered = Vec<(Kind, Position, Vec<u8>)>;

fn read_back(disk: &mut Disk) -> (Delivered, Result<Recovery, Damaged>) {
    let mut delivered = Vec::new();
    let recovery = recover(disk, &geometry(), &identity(), &mut |entry| {
        assert_eq!(
            entry.end.0 - entry.position.0,
            record_bytes(entry.body.len()) as u64
        );
        delivered.push((entry.kind, entry.position, entry.body.to_vec()));
    });
    (delivered, recovery)
}

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
}

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
