//! The write-ahead log: an endless string of records laid over a set of segment files.
//!
//! ```text
//! position   0            S            2S           3S            S = segment_bytes
//! sequence   |     0      |     1      |     2      |  ...        sequence = position / S
//!            [r][ r ][r]..[ r ][r][r]..[r]
//! file         index 0      index 1      index 0                  any free file; the headers tell
//! ```
//!
//! * A record starts on a sector, never straddles two segments, and names its position. When it
//!   does not fit into the rest of a segment it starts the next one. No filler is written: the
//!   first record of the next segment names the hash of the header before it, so recovery knows
//!   that nothing lies between. This costs no extra write and no extra flush at the rollover.
//! * A header carries what was known when it was sealed: `durable_before` (acknowledged) and `low`
//!   (no longer needed). Recovery takes the largest of both over all intact headers: what lies
//!   between them was acknowledged and is needed, so it must be there.
//! * A segment file behind `low` is reused only after a record that carries this `low` is durable;
//!   otherwise a torn first record in the reused file would look like damage in the middle.
//! * [`Journal`] keeps one write and flush in flight. So all that a power cut can tear is one
//!   batch, in any subset and order of its sectors.
//!
//! [`Writer`] lives with the ordering thread, [`Journal`] with the disk thread; [`Sealed`] records
//! go from one to the other and [`Durable`] proofs come back.

mod journal;
mod recover;
mod scrub;
mod survey;
mod window;
mod writer;

use thiserror::Error;
use wire::ids::Position;

pub use journal::{Batch, Journal, JournalFailed, JournalLimits, PushError, Token};
pub use recover::{
    BodyFound, Cause, Damaged, Entry, Examined, Found, Hole, Recovery, SegmentFound, Verdict,
    examine, recover, recover_around,
};
pub use scrub::{Rot, Scrubbed, scrub};
pub use survey::{SegmentInfo, SegmentSource};
pub use window::Window;
pub use writer::{Sealed, WalFull, Writer};

use crate::record::{HeaderHash, SECTOR_BYTES};

/// Proof that everything below a position is on stable storage. Made by [`Journal::complete`] and
/// by [`Recovery::flushed`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable(Position);

impl Durable {
    /// Everything below this position is durable.
    pub fn position(self) -> Position {
        self.0
    }

    /// Whether a record that ends at `end` may be spoken about.
    pub fn covers(self, end: Position) -> bool {
        end <= self.0
    }
}

/// Sizes of a log, fixed when its directory is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of each segment file, whole sectors.
    pub segment_bytes: u64,
    /// Segment files at most.
    pub segments_max: u32,
    /// Bytes that blocks leave free for the protocol's own records.
    pub reserve_bytes: u64,
}

/// Why a geometry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GeometryError {
    #[error("WAL segment size {0} is not a positive multiple of 4096 bytes")]
    SegmentNotSectors(u64),
    #[error("WAL needs at least 2 segments, not {0}: one is written while another is recycled")]
    TooFewSegments(u32),
    #[error("WAL reserve of {reserve_bytes} bytes leaves no room for blocks in {max_bytes} bytes")]
    ReserveTooLarge { reserve_bytes: u64, max_bytes: u64 },
    #[error("WAL size overflows: {segments_max} segments of {segment_bytes} bytes")]
    TooLarge {
        segment_bytes: u64,
        segments_max: u32,
    },
}

/// Segment files at most, of any geometry: a process keeps them all open.
pub const SEGMENTS_MAX: u32 = 4096;
const SEGMENT_BYTES_MAX: u64 = 1 << 40;

impl Geometry {
    /// Checks the sizes against each other.
    pub fn check(&self) -> Result<(), GeometryError> {
        let Geometry {
            segment_bytes,
            segments_max,
            reserve_bytes,
        } = *self;
        if segment_bytes == 0 || !segment_bytes.is_multiple_of(SECTOR_BYTES as u64) {
            return Err(GeometryError::SegmentNotSectors(segment_bytes));
        }
        if segments_max < 2 {
            return Err(GeometryError::TooFewSegments(segments_max));
        }
        if segments_max > SEGMENTS_MAX || segment_bytes > SEGMENT_BYTES_MAX {
            return Err(GeometryError::TooLarge {
                segment_bytes,
                segments_max,
            });
        }
        if reserve_bytes > self.max_bytes() - segment_bytes {
            let max_bytes = self.max_bytes();
            return Err(GeometryError::ReserveTooLarge {
                reserve_bytes,
                max_bytes,
            });
        }
        Ok(())
    }

    /// Bytes of all segment files together, at most.
    pub fn max_bytes(&self) -> u64 {
        self.segment_bytes * u64::from(self.segments_max)
    }

    /// The stretch of the log in which `position` lies.
    pub fn sequence_of(&self, position: Position) -> u64 {
        position.0 / self.segment_bytes
    }

    /// Offset of `position` within its segment.
    pub fn offset_of(&self, position: Position) -> u64 {
        position.0 % self.segment_bytes
    }

    /// The first position of a stretch.
    pub fn start_of(&self, sequence: u64) -> Position {
        Position(sequence * self.segment_bytes)
    }
}

/// Where a [`Writer`] goes on: what [`recover`] found, or [`Tail::blank`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    pub(crate) position: Position,
    pub(crate) previous: HeaderHash,
    pub(crate) generation: u32,
    pub(crate) durable: Position,
    /// The low-water mark that is durable in the log, and the newest one heard of.
    pub(crate) low_effective: Position,
    pub(crate) low_marked: Position,
    /// (sequence, file index) of the segments in use, ascending; the last one is being written,
    /// unless `position` starts a segment.
    pub(crate) live: Vec<(u64, u32)>,
    /// File indices to use next, in this order.
    pub(crate) free: Vec<u32>,
}

impl Tail {
    /// The start of an empty log over `segments` blank files with the indices `0..segments`.
    pub fn blank(segments: u32) -> Tail {
        Tail {
            position: Position(0),
            previous: HeaderHash::default(),
            generation: 1,
            durable: Position(0),
            low_effective: Position(0),
            low_marked: Position(0),
            live: Vec::new(),
            free: (0..segments).collect(),
        }
    }

    /// Where the next record will be appended (or at the start of the segment after it).
    pub fn position(&self) -> Position {
        self.position
    }

    /// The newest low-water mark that the log knows: records before it may be missing.
    pub fn low(&self) -> Position {
        self.low_marked
    }

    /// How many segment files the log has.
    pub fn segments(&self) -> u32 {
        (self.live.len() + self.free.len()) as u32
    }
}
