//! Seals records and assigns their positions: the ordering thread's end of the log.

use std::collections::VecDeque;

use thiserror::Error;
use wire::bytes::{SharedBytes, UniqueBytes};
use wire::ids::Position;
use wire::limits::BLOCK_MESSAGE_BYTES_MAX;

use super::{Durable, Geometry, Tail};
use crate::record::{self, HEADER_BYTES, Header, HeaderHash, Identity, Kind, SECTOR_BYTES};

/// A record ready to be written: its bytes are final and its place is fixed.
#[derive(Clone, Debug)]
pub struct Sealed<S> {
    /// The whole record: header, body, zeros; whole sectors.
    pub shared: S,
    pub kind: Kind,
    /// First byte in the endless log.
    pub start: Position,
    /// The record is durable once a [`Durable`] reaches this position.
    pub end: Position,
    /// Index of the segment file.
    pub segment: u32,
    /// Where in that file, in bytes.
    pub offset_in_segment: u64,
    pub sectors: u32,
}

/// The log has no room for a record. Nothing recorded is lost; the record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "write-ahead log is full: {used_bytes} of {max_bytes} bytes hold records still needed \
     ({granted_bytes} bytes exist on disk, {wanted_bytes} more wanted). Nothing recorded is lost; \
     new transactions are refused until a checkpoint releases older segments, a segment is added \
     or the configured size is raised"
)]
pub struct WalFull {
    pub used_bytes: u64,
    /// Bytes of the segment files that exist.
    pub granted_bytes: u64,
    /// Bytes of all segment files at the configured size.
    pub max_bytes: u64,
    /// Bytes of the refused record.
    pub wanted_bytes: u64,
}

/// Who may use the last bytes of the log.
///
/// Blocks stop first, so that the protocol's records always fit; those stop before the last
/// sectors, so that the records that make room or end the process fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Block,
    Protocol,
    Last,
}

fn claim(kind: Kind) -> Claim {
    match kind {
        Kind::Block | Kind::FetchedBlock => Claim::Block,
        Kind::Start | Kind::CheckpointCertificate | Kind::CleanStop | Kind::Standing => Claim::Last,
        Kind::Skip
        | Kind::Lease
        | Kind::Commit
        | Kind::ViewChange
        | Kind::NewView
        | Kind::Ack
        | Kind::Install
        | Kind::Epoch
        | Kind::Evidence
        | Kind::Decided => Claim::Protocol,
    }
}

/// A low-water mark on its way to the disk.
#[derive(Clone, Copy, Debug)]
struct Carried {
    low: Position,
    /// End of the first record that names it.
    end: Position,
}

/// Appends to the log. See [`super`] for the layout.
#[derive(Debug)]
pub struct Writer {
    geometry: Geometry,
    identity: Identity,
    generation: u32,
    /// End of the last record.
    position: Position,
    previous: HeaderHash,
    durable: Position,
    /// Newest mark heard of; new headers carry it.
    low_marked: Position,
    low_carried: Option<Carried>,
    /// The mark behind which files are reused.
    low_effective: Position,
    /// (sequence, file index), ascending. Never longer than `segments_max`.
    live: VecDeque<(u64, u32)>,
    free: VecDeque<u32>,
}

impl Writer {
    /// Goes on at `tail`. Panics when `geometry` was not checked (our own error).
    pub fn new(geometry: Geometry, identity: Identity, tail: Tail) -> Writer {
        assert!(geometry.check().is_ok(), "unchecked WAL geometry");
        let capacity = geometry.segments_max as usize;
        assert!(
            tail.live.len() + tail.free.len() <= capacity,
            "more segments than the maximum"
        );
        let mid_segment = geometry.offset_of(tail.position) != 0;
        let written = tail.live.last().map(|(sequence, _)| *sequence);
        assert!(!mid_segment || written == Some(geometry.sequence_of(tail.position)));
        let mut live = VecDeque::with_capacity(capacity);
        live.extend(tail.live);
        let mut free = VecDeque::with_capacity(capacity);
        free.extend(tail.free);
        let mut writer = Writer {
            geometry,
            identity,
            generation: tail.generation,
            position: tail.position,
            previous: tail.previous,
            durable: tail.durable,
            low_marked: tail.low_marked,
            low_carried: None,
            low_effective: tail.low_effective,
            live,
            free,
        };
        writer.recycle();
        writer
    }

    /// Makes a record of the first `128 + body_bytes` bytes of `buffer`: fills the header into the
    /// first 128, zeroes what follows the body in its last sector, and fixes the place.
    ///
    /// `buffer` is whole sectors and may be longer than the record. Panics when it is shorter (our
    /// own error). On [`WalFull`] the buffer is dropped: ask [`Writer::fits`] first where its
    /// content matters.
    pub fn seal<U: UniqueBytes>(
        &mut self,
        kind: Kind,
        mut buffer: U,
        body_bytes: usize,
    ) -> Result<Sealed<U::Shared>, WalFull> {
        let bytes = record::record_bytes(body_bytes);
        assert!(buffer.len().is_multiple_of(SECTOR_BYTES) && buffer.len() >= bytes);
        self.fits(kind, body_bytes)?;

        if self.rest_of_segment() < bytes as u64 {
            let index = self.free.pop_front().expect("fits() found a free segment");
            self.position = Position(
                self.position
                    .0
                    .next_multiple_of(self.geometry.segment_bytes),
            );
            self.live
                .push_back((self.geometry.sequence_of(self.position), index));
        }
        let start = self.position;
        let end = Position(start.0 + bytes as u64);
        let &(sequence, segment) = self.live.back().expect("a segment is being written");
        assert_eq!(sequence, self.geometry.sequence_of(start));

        let record = &mut buffer[..bytes];
        record[HEADER_BYTES + body_bytes..].fill(0);
        let header = Header {
            kind,
            generation: self.generation,
            segment_sequence: sequence,
            position: start,
            durable_before: self.durable,
            low: self.low_marked,
            body_bytes: body_bytes as u32,
            body_crc: record::body_crc(&record[HEADER_BYTES..HEADER_BYTES + body_bytes]),
            previous: self.previous,
        };
        self.previous = record::encode(&header, &self.identity, record);
        self.position = end;
        if self.low_carried.is_none() && self.low_marked > self.low_effective {
            self.low_carried = Some(Carried {
                low: self.low_marked,
                end,
            });
        }
        Ok(Sealed {
            shared: buffer.freeze().slice(0..bytes),
            kind,
            start,
            end,
            segment,
            offset_in_segment: self.geometry.offset_of(start),
            sectors: (bytes / SECTOR_BYTES) as u32,
        })
    }

    /// Whether a record would be taken now.
    pub fn fits(&self, kind: Kind, body_bytes: usize) -> Result<(), WalFull> {
        let bytes = record::record_bytes(body_bytes) as u64;
        let reserve = match claim(kind) {
            Claim::Block => self.geometry.reserve_bytes,
            Claim::Protocol => self.geometry.reserve_bytes / 2,
            Claim::Last => 0,
        };
        let rest = self.rest_of_segment();
        let files = self.free.len() as u64 * self.geometry.segment_bytes;
        let left_after = if bytes <= rest {
            Some(files + rest - bytes)
        } else if bytes <= self.geometry.segment_bytes {
            files.checked_sub(bytes)
        } else {
            None
        };
        match left_after {
            Some(left) if left >= reserve => Ok(()),
            _ => Err(WalFull {
                used_bytes: self.used_bytes(),
                granted_bytes: u64::from(self.segments()) * self.geometry.segment_bytes,
                max_bytes: self.geometry.max_bytes(),
                wanted_bytes: bytes,
            }),
        }
    }

    /// Learns that everything below a position is durable: later records say so, and files behind
    /// a low-water mark that became durable are reused.
    pub fn acknowledge(&mut self, durable: Durable) {
        assert!(
            durable.position() <= self.position,
            "durable beyond what was sealed"
        );
        self.durable = self.durable.max(durable.position());
        if let Some(carried) = self.low_carried
            && carried.end <= self.durable
        {
            self.low_effective = carried.low;
            self.low_carried = None;
            self.recycle();
        }
    }

    /// Says that no record that starts below `low` will be read again, also not after a crash.
    /// Whole segments behind it are reused once a record sealed after this call is durable.
    /// A mark lower than an earlier one changes nothing. Panics when `low` is not yet acknowledged
    /// as durable (our own error).
    pub fn release(&mut self, low: Position) {
        assert!(low <= self.durable, "released what is not durable");
        let segment_start = self.geometry.start_of(self.geometry.sequence_of(low));
        self.low_marked = self.low_marked.max(segment_start);
    }

    /// Learns that `segment_count` files exist in total, with the indices `0..segment_count`. New
    /// ones are zeroed and durable, name included.
    pub fn grant(&mut self, segment_count: u32) {
        assert!(
            segment_count <= self.geometry.segments_max,
            "granted beyond the maximum"
        );
        for index in self.segments()..segment_count {
            self.free.push_back(index);
        }
    }

    /// How many files are wanted in total so that the log does not run full while the next one is
    /// being made: one more when no free one is left, or when the free ones are so small that the
    /// largest block does not fit beside the reserve; up to the maximum.
    pub fn segments_wanted(&self) -> u32 {
        let largest_fits = self.fits(Kind::Block, BLOCK_MESSAGE_BYTES_MAX).is_ok();
        let more = u32::from(self.free.is_empty() || !largest_fits);
        (self.segments() + more).min(self.geometry.segments_max)
    }

    /// Files granted so far.
    pub fn segments(&self) -> u32 {
        (self.live.len() + self.free.len()) as u32
    }

    /// Bytes that blocks can still take in the files granted so far, the reserve left aside.
    pub fn remaining(&self) -> u64 {
        let files = self.free.len() as u64 * self.geometry.segment_bytes;
        (files + self.rest_of_segment()).saturating_sub(self.geometry.reserve_bytes)
    }

    /// Bytes in use, the unused ends of segments counted.
    pub fn used_bytes(&self) -> u64 {
        self.live.len() as u64 * self.geometry.segment_bytes - self.rest_of_segment()
    }

    /// Bytes of all segment files together, at most.
    pub fn max_bytes(&self) -> u64 {
        self.geometry.max_bytes()
    }

    /// End of the last sealed record.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The segment file and the offset in it that hold `position`, if it is not yet recycled.
    pub fn locate(&self, position: Position) -> Option<(u32, u64)> {
        if position >= self.position {
            return None;
        }
        let sequence = self.geometry.sequence_of(position);
        let at = self
            .live
            .binary_search_by_key(&sequence, |(live, _)| *live)
            .ok()?;
        Some((self.live[at].1, self.geometry.offset_of(position)))
    }

    /// Bytes between the last record and the end of its segment.
    fn rest_of_segment(&self) -> u64 {
        self.position
            .0
            .next_multiple_of(self.geometry.segment_bytes)
            - self.position.0
    }

    fn recycle(&mut self) {
        let oldest = self.geometry.sequence_of(self.low_effective);
        while let Some(&(sequence, index)) = self.live.front()
            && sequence < oldest
        {
            self.live.pop_front();
            self.free.push_back(index);
        }
    }
}
