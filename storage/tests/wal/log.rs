//! A log, the disk it lies on, and what the test knows about both.

use std::io;

use storage::record::{HEADER_BYTES, SECTOR_BYTES, record_bytes};
use storage::wal::{JournalLimits, Token};
use storage::{
    Damaged, Durable, Geometry, Identity, Journal, Kind, LogId, Recovery, Sealed, SegmentInfo,
    SegmentSource, Tail, Verdict, Writer, recover,
};
use wire::bytes::{HeapShared, HeapUnique};
use wire::ids::{ClusterId, NodeId, Position};

pub const LIMITS: JournalLimits = JournalLimits {
    queued_max: 64,
    batch_parts_max: 8,
    batch_bytes_max: 16 * 4096,
};

pub fn geometry() -> Geometry {
    Geometry {
        segment_bytes: 12 * 4096,
        segments_max: 5,
        reserve_bytes: 4 * 4096,
    }
}

pub fn identity() -> Identity {
    Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId(2),
        log: LogId([3; 16]),
    }
}

/// Deterministic choices within one test case.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

#[derive(Clone, Default)]
pub struct Disk {
    pub segments: Vec<Vec<u8>>,
    /// (segment, sector) that read as errors.
    pub unreadable: Vec<(u32, u64)>,
}

impl Disk {
    pub fn new(segments: u32) -> Disk {
        let bytes = geometry().segment_bytes as usize;
        Disk {
            segments: vec![vec![0; bytes]; segments as usize],
            unreadable: Vec::new(),
        }
    }

    pub fn sector(&mut self, segment: u32, sector: usize) -> &mut [u8] {
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
pub struct Written {
    pub kind: Kind,
    pub start: Position,
    pub end: Position,
    pub body: Vec<u8>,
    /// What its header says was durable.
    pub durable_before: Position,
    pub segment: u32,
    pub offset: u64,
}

/// A write in flight, as the disk sees it.
pub struct InFlight {
    pub segment: u32,
    pub offset: u64,
    pub bytes: Vec<u8>,
    pub token: Token,
}

pub struct Log {
    pub disk: Disk,
    pub writer: Writer,
    pub journal: Journal<HeapShared>,
    pub in_flight: Option<InFlight>,
    /// Completed, but not yet known to the writer.
    pub unheard: Option<Durable>,
    pub history: Vec<Written>,
    /// Everything ever sealed, also what was cut.
    pub sealed: Vec<Sealed<HeapShared>>,
    pub acknowledged: Position,
    pub known_durable: Position,
    pub released: Position,
}

impl Log {
    pub fn new(segments: u32) -> Log {
        Log {
            disk: Disk::new(segments),
            writer: Writer::new(geometry(), identity(), Tail::blank(segments)),
            journal: Journal::new(LIMITS, Position(0)),
            in_flight: None,
            unheard: None,
            history: Vec::new(),
            sealed: Vec::new(),
            acknowledged: Position(0),
            known_durable: Position(0),
            released: Position(0),
        }
    }

    pub fn seal(&mut self, kind: Kind, body: &[u8]) -> bool {
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
                self.sealed.push(sealed.clone());
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

    pub fn start_write(&mut self) {
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

    pub fn finish_write(&mut self) {
        if let Some(write) = self.in_flight.take() {
            let end = write.offset as usize + write.bytes.len();
            self.disk.segments[write.segment as usize][write.offset as usize..end]
                .copy_from_slice(&write.bytes);
            let durable = self.journal.complete(write.token, Ok(())).unwrap();
            self.acknowledged = durable.position();
            self.unheard = Some(durable);
        }
    }

    /// Another log that knows what this one knows, with a disk of its own and no power: restart it.
    pub fn cut_off(&self, disk: Disk) -> Log {
        Log {
            disk,
            writer: Writer::new(geometry(), identity(), Tail::blank(2)),
            journal: Journal::new(LIMITS, Position(0)),
            in_flight: None,
            unheard: None,
            history: self.history.clone(),
            sealed: self.sealed.clone(),
            acknowledged: self.acknowledged,
            known_durable: self.known_durable,
            released: self.released,
        }
    }

    pub fn hear(&mut self) {
        if let Some(durable) = self.unheard.take() {
            self.writer.acknowledge(durable);
            self.known_durable = durable.position();
        }
    }

    pub fn drain(&mut self) {
        while self.journal.queued() > 0 || self.in_flight.is_some() {
            self.start_write();
            self.finish_write();
        }
        self.hear();
    }

    pub fn release(&mut self, choice: u64) {
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
    pub fn tear(&mut self, dice: &mut Dice) {
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
    pub fn restart(&mut self) -> Verdict {
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
    pub fn check_prefix(&self, delivered: &[(Kind, Position, Vec<u8>)]) -> usize {
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

/// Does the same with every item, on two threads: the states are many and do not touch.
pub fn in_parallel<T: Sync>(items: &[T], each: impl Fn(&T) + Sync) {
    let middle = items.len() / 2;
    std::thread::scope(|scope| {
        scope.spawn(|| items[..middle].iter().for_each(&each));
        items[middle..].iter().for_each(&each);
    });
}

pub type Delivered = Vec<(Kind, Position, Vec<u8>)>;

pub fn read_back(disk: &mut Disk) -> (Delivered, Result<Recovery, Damaged>) {
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
