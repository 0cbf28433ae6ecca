//! Second pass of recovery: walks the log from its low-water mark and decides where it ends.
//!
//! # What may be cut
//!
//! Only what was never acknowledged. A power cut tears the one batch in flight in any subset of its
//! sectors, so a hole is normal: record k torn, record k+1 of the same batch intact. Rot in
//! acknowledged records looks the same on its own. They are told apart by `durable_before`, which
//! each header carries: let `floor` be the largest one in any intact header of this log.
//!
//! * Damage at p < floor: some record was sealed after p had been acknowledged. [`Damaged`]; nothing
//!   is cut, the node must not vote (protocol R5).
//! * Damage at p >= floor: all later records were sealed before p was known to be durable. The log
//!   is cut at p, later intact ones included. This is right for every torn batch. It also cuts rot
//!   in the last batch, or in records sealed while it was in flight; no log can tell (protocol
//!   R6: after an unclean stop a replica asks its peers for its own newest statement).
//!
//! Remains of a cut stay on the disk until they are overwritten; recovery itself writes nothing, so
//! it can be interrupted and repeated. They never come back: the next record names the hash of
//! the last good header and a new generation, so what followed the cut does not link to it; and
//! their `durable_before` is at most the cut, so they prove nothing about later records.

mod decide;
mod examine;

use thiserror::Error;
use wire::canary::planted;
use wire::ids::Position;

use decide::{Body, Chain, Decision, Head, Next, Spoken, decide};
pub use examine::{BodyFound, Examined, Found, SegmentFound, examine};

use super::survey::{SegmentSource, Survey, belongs};
use super::{Durable, Geometry, SegmentInfo, Tail, Window};
use crate::record::{
    self, Decoded, HEADER_BYTES, Header, HeaderHash, Identity, Kind, SECTOR_BYTES,
};

/// A good record, in log order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub kind: Kind,
    /// Where it starts; [`super::Writer::locate`] finds it again.
    pub position: Position,
    pub end: Position,
    pub body: &'a [u8],
}

/// How a log ends that may be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing recognisable follows the last good record.
    Clean,
    /// Something follows that was never acknowledged; it will be overwritten.
    CutTail {
        /// End of the good log.
        from: Position,
        /// What was at `from`.
        cause: Cause,
    },
}

/// What is wrong at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The segment file with this stretch of the log is missing or unrecognisable.
    SegmentMissing,
    /// No header where a record must start.
    HeaderMissing,
    /// Part of a header of this log.
    HeaderTorn,
    /// An intact header of another cluster, node or log.
    HeaderForeign,
    /// An intact header of this log that belongs elsewhere: an old or misdirected sector.
    HeaderMisplaced,
    /// A header that newer software wrote.
    HeaderNewer,
    /// The body does not match its sum.
    BodyTorn,
    /// An intact record that does not follow the one before it.
    Unlinked,
    /// Remains further on: the rest of a batch that tore, now or before an earlier start.
    Leftovers,
    /// The disk refuses to read.
    Unreadable,
    /// A file does not have the configured size.
    SegmentSize,
    /// The files are not numbered 0, 1, 2 ... up to the configured number.
    SegmentNumbers,
}

impl Cause {
    fn text(self) -> &'static str {
        match self {
            Cause::SegmentMissing => "the segment file is missing or unrecognisable",
            Cause::HeaderMissing => "there is no record header",
            Cause::HeaderTorn => "the record header fails its checksum",
            Cause::HeaderForeign => "the record belongs to another cluster, node or log",
            Cause::HeaderMisplaced => "the record belongs to another place of the log",
            Cause::HeaderNewer => "the record was written by a newer version",
            Cause::BodyTorn => "the record body fails its checksum",
            Cause::Unlinked => "the record does not follow the one before it",
            Cause::Leftovers => "records of an incomplete write follow",
            Cause::Unreadable => "the disk reports a read error",
            Cause::SegmentSize => "a segment file does not have the formatted size",
            Cause::SegmentNumbers => "segment files are missing or too many",
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

/// Records are missing that were acknowledged, or might have been: the log must not be cut, and this key must
/// not vote from it. Exit 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "write-ahead log damaged at position {position}: {cause}; records up to position {floor} were \
     acknowledged. Nothing was changed. Keep the directory, check the disk, and restore this \
     member as a new one (hippo recover); do not start it from this log"
)]
pub struct Damaged {
    pub position: Position,
    /// Of the damaged record, if its header is readable.
    pub kind: Option<Kind>,
    /// Where the damaged record ends, if its header is readable.
    pub end: Option<Position>,
    /// Everything below had been acknowledged.
    pub floor: Position,
    pub cause: Cause,
}

/// A block that was acknowledged and whose bytes rotted, in a log that is whole but for such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub position: Position,
    pub end: Position,
}

/// A log that may be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub tail: Tail,
    pub verdict: Verdict,
    /// Good records delivered.
    pub records: u64,
    /// End of the last one. The tail may lie further on, at the start of the next segment: nobody
    /// may call that durable, or the gap between would count as an acknowledged record.
    end: Position,
}

impl Recovery {
    /// Proof that all delivered records are durable. Call it after every segment file was flushed
    /// (recovery may have read what the system still held in memory), and hand it to
    /// [`super::Writer::acknowledge`].
    pub fn flushed(&self) -> Durable {
        Durable(self.end)
    }
}

/// Reads a log back: calls `visit` with each good record from the low-water mark on, in log order,
/// then says how the log ends. On [`Damaged`] the records before the damage have been visited.
/// Panics when `geometry` was not checked (our own error).
pub fn recover<S: SegmentSource>(
    source: &mut S,
    geometry: &Geometry,
    identity: &Identity,
    visit: &mut dyn FnMut(Entry<'_>),
) -> Result<Recovery, Damaged> {
    let mut whole = |found: Result<Entry<'_>, Hole>| visit(found.expect("holes are damage"));
    walk(source, geometry, identity, false, &mut whole)
}

/// As [`recover`], and goes past blocks whose bytes rotted: only blocks can come from others (R5),
/// and only those below the acknowledged position are known to belong to the log. Whoever finds one
/// has forgotten a vote.
pub fn recover_around<S: SegmentSource>(
    source: &mut S,
    geometry: &Geometry,
    identity: &Identity,
    visit: &mut dyn FnMut(Result<Entry<'_>, Hole>),
) -> Result<Recovery, Damaged> {
    walk(source, geometry, identity, true, visit)
}

fn walk<S: SegmentSource>(
    source: &mut S,
    geometry: &Geometry,
    identity: &Identity,
    passes_holes: bool,
    visit: &mut dyn FnMut(Result<Entry<'_>, Hole>),
) -> Result<Recovery, Damaged> {
    assert!(geometry.check().is_ok(), "unchecked WAL geometry");
    let mut segments = source.segments();
    segments.sort_unstable_by_key(|segment| segment.index);
    check_files(&segments, geometry)?;
    let mut window = Window::new(source, geometry);
    let survey = Survey::take(&mut window, &segments, geometry, identity);
    let mut walk = Walk {
        window,
        geometry,
        identity,
        survey: &survey,
        last: None,
        excused: 0,
    };
    if let Some(cause) = survey.refused {
        let (position, floor) = (survey.low, survey.floor);
        return Err(Damaged {
            position,
            kind: None,
            end: None,
            floor,
            cause,
        });
    }
    let mut position = survey.low;
    let mut end = survey.low;
    let mut records = 0;
    let verdict = loop {
        let here = walk.look(position);
        if passes_holes
            && position < survey.floor
            && let Some(header) = here.lost_block()
        {
            let hole = walk.pass(&header);
            (position, end) = (hole.end, hole.end);
            visit(Err(hole));
            continue;
        }
        let spoken = if position < survey.floor && !planted("cutany") {
            Spoken::Yes
        } else if survey.sectors_unreadable > walk.excused {
            Spoken::Unclear
        } else {
            Spoken::No
        };
        let next = match (here.head, here.body, here.chain) {
            (Head::Intact, Body::Good, Chain::Linked) => Next::Ends,
            _ => walk.next_segment_continues(position),
        };
        match decide(here.head, here.body, here.chain, next, spoken) {
            Decision::Accept => {
                let header = here.header.expect("an accepted record has a header");
                position = walk.accept(&header, visit);
                end = position;
                records += 1;
            }
            Decision::NextSegment => {
                position = geometry.start_of(geometry.sequence_of(position) + 1);
            }
            Decision::End => {
                let more = survey.newest.is_some_and(|newest| newest >= position);
                break if more || survey.torn_first {
                    Verdict::CutTail {
                        from: position,
                        cause: Cause::Leftovers,
                    }
                } else {
                    Verdict::Clean
                };
            }
            Decision::Cut(cause) => {
                break Verdict::CutTail {
                    from: position,
                    cause,
                };
            }
            Decision::Refuse(cause) => {
                return Err(Damaged {
                    position,
                    kind: here.header.map(|header| header.kind),
                    end: here.header.map(|header| end_of(&header)),
                    floor: survey.floor,
                    cause,
                });
            }
        }
    };
    let last = walk.last;
    Ok(Recovery {
        tail: tail(&survey, geometry, position, last),
        verdict,
        records,
        end,
    })
}

fn end_of(header: &Header) -> Position {
    Position(header.position.0 + record::record_bytes(header.body_bytes as usize) as u64)
}

fn check_files(segments: &[SegmentInfo], geometry: &Geometry) -> Result<(), Damaged> {
    let numbered = segments.len() <= geometry.segments_max as usize
        && segments
            .iter()
            .zip(0..)
            .all(|(segment, index)| segment.index == index);
    let sized = segments
        .iter()
        .all(|segment| segment.bytes == geometry.segment_bytes);
    let cause = match (numbered, sized) {
        (true, true) => return Ok(()),
        (false, _) => Cause::SegmentNumbers,
        (true, false) => Cause::SegmentSize,
    };
    Err(Damaged {
        position: Position(0),
        kind: None,
        end: None,
        floor: Position(0),
        cause,
    })
}

/// What the walk sees at one position.
struct Here {
    head: Head,
    body: Body,
    chain: Chain,
    header: Option<Header>,
}

struct Walk<'a, S> {
    window: Window<'a, S>,
    geometry: &'a Geometry,
    identity: &'a Identity,
    survey: &'a Survey,
    /// The last accepted record: its header's hash and low-water mark.
    last: Option<(HeaderHash, Position)>,
    /// Unreadable sectors in which no header can be, for they are in the middle of a record.
    excused: u64,
}

impl Here {
    /// The header of a block in its place in the chain whose body is not what it sums, or cannot be
    /// read.
    fn lost_block(&self) -> Option<Header> {
        let lost = self.head == Head::Intact
            && matches!(self.body, Body::Torn | Body::Unreadable)
            && self.chain == Chain::Linked;
        let is_block = |header: &Header| matches!(header.kind, Kind::Block | Kind::FetchedBlock);
        self.header.filter(|header| lost && is_block(header))
    }
}

impl<S: SegmentSource> Walk<'_, S> {
    fn header(&mut self, position: Position) -> (Head, Option<(Header, u32)>) {
        let offset = self.geometry.offset_of(position);
        let Some(segment) = self.survey.holding(self.geometry.sequence_of(position)) else {
            return (Head::NoSegment, None);
        };
        let Some(sector) = self.window.read(segment, offset, SECTOR_BYTES) else {
            return (Head::Unreadable, None);
        };
        match record::decode(sector, self.identity, Some(position)) {
            Decoded::Intact(header) if planted("noposition") => {
                (Head::Intact, Some((header, segment)))
            }
            Decoded::Intact(header) if !belongs(&header, self.geometry, offset) => {
                (Head::Misplaced, None)
            }
            // The rest of an earlier lap in a reused file.
            Decoded::Intact(header) if header.position < position => (Head::Absent, None),
            Decoded::Intact(header) if header.position > position => (Head::Misplaced, None),
            Decoded::Intact(header) => (Head::Intact, Some((header, segment))),
            Decoded::Torn => (Head::Torn, None),
            Decoded::Foreign => (Head::Foreign, None),
            Decoded::Newer => (Head::Newer, None),
            Decoded::Blank | Decoded::Garbage => (Head::Absent, None),
        }
    }

    /// The first record of a walk follows nothing that is still there.
    fn chain(&self, header: &Header) -> Chain {
        match self.last {
            Some((hash, _)) if header.previous != hash => Chain::Broken,
            _ => Chain::Linked,
        }
    }

    fn look(&mut self, position: Position) -> Here {
        let (head, found) = self.header(position);
        let Some((header, segment)) = found else {
            return Here {
                head,
                body: Body::Unknown,
                chain: Chain::Broken,
                header: None,
            };
        };
        let body_bytes = header.body_bytes as usize;
        let offset = self.geometry.offset_of(position);
        let body = match self.window.read(segment, offset, HEADER_BYTES + body_bytes) {
            None => Body::Unreadable,
            Some(bytes) if record::body_crc(&bytes[HEADER_BYTES..]) == header.body_crc => {
                Body::Good
            }
            Some(_) => Body::Torn,
        };
        Here {
            head,
            body,
            chain: self.chain(&header),
            header: Some(header),
        }
    }

    fn next_segment_continues(&mut self, position: Position) -> Next {
        if self.last.is_none() {
            // The walk starts where a record starts.
            return Next::Ends;
        }
        let next = self
            .geometry
            .start_of(self.geometry.sequence_of(position) + 1);
        match self.header(next) {
            (Head::Intact, Some((header, _))) if self.chain(&header) == Chain::Linked => {
                Next::Continues
            }
            _ => Next::Ends,
        }
    }

    /// Goes past a block without its bytes.
    fn pass(&mut self, header: &Header) -> Hole {
        let offset = self.geometry.offset_of(header.position);
        let segment = self
            .survey
            .holding(header.segment_sequence)
            .expect("just read from it");
        let sector = self.window.read(segment, offset, SECTOR_BYTES);
        let sector = sector.expect("just read");
        self.last = Some((record::header_hash(sector), header.low));
        let sectors = (end_of(header).0 - header.position.0) / SECTOR_BYTES as u64;
        for number in 1..sectors {
            let at = offset + number * SECTOR_BYTES as u64;
            let read = self.window.read(segment, at, SECTOR_BYTES);
            self.excused += u64::from(read.is_none());
        }
        Hole {
            position: header.position,
            end: end_of(header),
        }
    }

    /// Delivers a record that [`Walk::look`] found good; returns where it ends.
    fn accept(
        &mut self,
        header: &Header,
        visit: &mut dyn FnMut(Result<Entry<'_>, Hole>),
    ) -> Position {
        let position = header.position;
        let segment = self
            .survey
            .holding(header.segment_sequence)
            .expect("just read from it");
        let length = HEADER_BYTES + header.body_bytes as usize;
        let offset = self.geometry.offset_of(position);
        let bytes = self
            .window
            .read(segment, offset, length)
            .expect("just read");
        let end = end_of(header);
        visit(Ok(Entry {
            kind: header.kind,
            position,
            end,
            body: &bytes[HEADER_BYTES..],
        }));
        self.last = Some((record::header_hash(bytes), header.low));
        end
    }
}

/// Where to go on after the log ended at `position`.
fn tail(
    survey: &Survey,
    geometry: &Geometry,
    position: Position,
    last: Option<(HeaderHash, Position)>,
) -> Tail {
    let (previous, low_effective) = last.unwrap_or_default();
    let oldest = geometry.sequence_of(low_effective);
    // At the start of a segment, that segment is not in use yet.
    let after = geometry.sequence_of(Position(
        position.0.next_multiple_of(geometry.segment_bytes),
    ));
    let mut live = Vec::new();
    let mut free = Vec::new();
    for segment in &survey.segments {
        match segment.newest {
            Some((sequence, _))
                if (oldest..after).contains(&sequence)
                    && survey.holding(sequence) == Some(segment.index) =>
            {
                live.push((sequence, segment.index));
            }
            newest => free.push((newest, segment.index)),
        }
    }
    live.sort_unstable();
    // A file with remains of the next stretch is used for it first, so that no two files ever claim
    // the same stretch. Then the oldest ones.
    free.sort_unstable_by_key(|(newest, index)| {
        let sequence = newest.map(|(sequence, _)| sequence);
        (
            sequence.is_none_or(|sequence| sequence < after),
            sequence,
            *index,
        )
    });
    Tail {
        position,
        previous,
        generation: survey.generation + 1,
        // What lies between is proven by `Recovery::flushed`.
        durable: survey.floor,
        low_effective,
        low_marked: survey.low.max(low_effective),
        live,
        free: free.into_iter().map(|(_, index)| index).collect(),
    }
}
