//! Reads a log for people: every record that can still be found, also behind damage.
//!
//! Recovery stops at the first place where a log must not be used; whoever looks for the extent of
//! the damage wants to see what lies behind it. This walk looks at records with the eyes of
//! recovery, and where no header is, goes on at the next sector that holds one of this log in its
//! own place. It decides nothing: what may be trusted is what [`super::recover`] says.

use wire::ids::Position;
use wire::limits::BLOCK_MESSAGE_BYTES_MAX;

use super::{Cause, Head, Next, Walk, end_of};
use crate::record::{self, Decoded, HEADER_BYTES, Header, Identity, SECTOR_BYTES};
use crate::wal::survey::{SegmentSource, Survey, belongs};
use crate::wal::{Geometry, SegmentInfo, Window};

/// What follows the header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFound<'a> {
    /// It matches its sum.
    Good(&'a [u8]),
    Torn,
    Unreadable,
    /// Longer than any body; it was not looked at.
    TooLong,
    /// There is no header to speak of a body.
    Unknown,
}

/// A record, or a place where one should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub position: Position,
    /// Index of the segment file that holds this stretch of the log.
    pub segment: Option<u32>,
    /// None when it is not intact or not in its place.
    pub header: Option<Header>,
    /// What is wrong with the header or its place.
    pub wrong: Option<Cause>,
    pub body: BodyFound<'a>,
    /// Whether it names the hash of the header before; none when that one is not known.
    pub linked: Option<bool>,
    /// Bytes from here to the next record, or to the end of the segment when there is none.
    pub skipped_bytes: u64,
}

impl Found<'_> {
    /// Whether recovery would take it for a good record that follows the one before.
    pub fn is_good(&self) -> bool {
        self.wrong.is_none()
            && matches!(self.body, BodyFound::Good(_))
            && self.linked != Some(false)
    }

    /// Where a record whose header is intact ends.
    pub fn end(&self) -> Option<Position> {
        self.header.as_ref().map(end_of)
    }
}

/// What a segment file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFound {
    pub info: SegmentInfo,
    /// The stretch of the log that its newest record belongs to; none in a file without records.
    pub sequence: Option<u64>,
    /// Start of that record.
    pub newest: Option<Position>,
    /// It begins with an intact record of another cluster, node or log.
    pub is_foreign: bool,
}

/// What all headers of a log say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// By index.
    pub segments: Vec<SegmentFound>,
    /// Records before are no longer needed.
    pub low: Position,
    /// Everything before was acknowledged as durable.
    pub floor: Position,
    /// How often the log had been opened for writing.
    pub generation: u32,
    pub sectors_unreadable: u64,
}

/// Calls `visit` with each record from the low-water mark on, in the order of the log, and with each
/// place where one is missing or damaged. Files that have the wrong number or size are read as far as
/// they go. Memory: one body at most, of the largest record that exists. Panics when `geometry` was
/// not checked (our own error).
pub fn examine<S: SegmentSource>(
    source: &mut S,
    geometry: &Geometry,
    identity: &Identity,
    visit: &mut dyn FnMut(Found<'_>),
) -> Examined {
    assert!(geometry.check().is_ok(), "unchecked WAL geometry");
    let mut infos = source.segments();
    infos.sort_unstable_by_key(|segment| segment.index);
    let mut window = Window::new(source, geometry);
    let survey = Survey::take(&mut window, &infos, geometry, identity);
    let segments = infos
        .iter()
        .zip(&survey.segments)
        .map(|(info, found)| SegmentFound {
            info: *info,
            sequence: found.newest.map(|(sequence, _)| sequence),
            newest: found.newest.map(|(_, position)| position),
            is_foreign: window
                .read(info.index, 0, SECTOR_BYTES)
                .is_some_and(|sector| record::decode(sector, identity, None) == Decoded::Foreign),
        })
        .collect();
    let mut walk = Walk {
        window,
        geometry,
        identity,
        survey: &survey,
        last: None,
        excused: 0,
    };
    let mut position = survey.low;
    loop {
        let next = match walk.header(position) {
            (_, Some((header, segment))) if ends_in_range(&header, geometry) => {
                walk.show(&header, segment, visit)
            }
            (Head::Intact, _) => walk.skip(position, Head::Misplaced, visit),
            (head, _) => walk.skip(position, head, visit),
        };
        match next {
            Some(next) => position = next,
            None => break,
        }
    }
    Examined {
        segments,
        low: survey.low,
        floor: survey.floor,
        generation: survey.generation,
        sectors_unreadable: survey.sectors_unreadable,
    }
}

/// Sums with such a position do not overflow.
fn ends_in_range(header: &Header, geometry: &Geometry) -> bool {
    let beyond = geometry.segment_bytes.saturating_mul(3);
    header.position.0.checked_add(beyond).is_some()
}

fn cause(head: Head) -> Cause {
    match head {
        Head::Intact | Head::Absent => Cause::HeaderMissing,
        Head::Torn => Cause::HeaderTorn,
        Head::NoSegment => Cause::SegmentMissing,
        Head::Foreign => Cause::HeaderForeign,
        Head::Misplaced => Cause::HeaderMisplaced,
        Head::Newer => Cause::HeaderNewer,
        Head::Unreadable => Cause::Unreadable,
    }
}

impl<S: SegmentSource> Walk<'_, S> {
    /// Shows a record whose header is intact and in its place; returns where it ends.
    fn show(
        &mut self,
        header: &Header,
        segment: u32,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Option<Position> {
        let offset = self.geometry.offset_of(header.position);
        let linked = self.last.map(|(hash, _)| header.previous == hash);
        let sector = self.window.read(segment, offset, SECTOR_BYTES);
        self.last = sector.map(|sector| (record::header_hash(sector), header.low));
        let body_bytes = header.body_bytes as usize;
        let body = if body_bytes > BLOCK_MESSAGE_BYTES_MAX {
            BodyFound::TooLong
        } else {
            let length = HEADER_BYTES + body_bytes;
            match self.window.read(segment, offset, length) {
                None => BodyFound::Unreadable,
                Some(bytes) => match &bytes[HEADER_BYTES..] {
                    body if record::body_crc(body) == header.body_crc => BodyFound::Good(body),
                    _ => BodyFound::Torn,
                },
            }
        };
        visit(Found {
            position: header.position,
            segment: Some(segment),
            header: Some(*header),
            wrong: None,
            body,
            linked,
            skipped_bytes: 0,
        });
        Some(end_of(header))
    }

    /// Where the log goes on after a place without a header; `None` when nothing more is there.
    fn skip(
        &mut self,
        position: Position,
        head: Head,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Option<Position> {
        let sequence = self.geometry.sequence_of(position);
        if self.next_segment_continues(position) == Next::Continues {
            return Some(self.geometry.start_of(sequence + 1));
        }
        let next = self.find(position);
        if next.is_none() && matches!(head, Head::Absent | Head::NoSegment) {
            return None;
        }
        let end = next.map_or_else(
            || self.geometry.segment_bytes - self.geometry.offset_of(position),
            |next| next.0 - position.0,
        );
        visit(Found {
            position,
            segment: self.survey.holding(sequence),
            header: None,
            wrong: Some(cause(head)),
            body: BodyFound::Unknown,
            linked: None,
            skipped_bytes: end,
        });
        self.last = None;
        next
    }

    /// The next sector behind `position` with an intact header that belongs there.
    fn find(&mut self, position: Position) -> Option<Position> {
        let first = self.geometry.sequence_of(position);
        let held = self.survey.segments.iter();
        let mut sequences = held
            .filter_map(|segment| Some(segment.newest?.0))
            .filter(|sequence| *sequence >= first)
            .collect::<Vec<_>>();
        sequences.sort_unstable();
        sequences.dedup();
        let sector = SECTOR_BYTES as u64;
        for sequence in sequences {
            let Some(segment) = self.survey.holding(sequence) else {
                continue;
            };
            let from = if sequence == first {
                self.geometry.offset_of(position) + sector
            } else {
                0
            };
            for offset in (from..self.geometry.segment_bytes).step_by(SECTOR_BYTES) {
                let Some(bytes) = self.window.read(segment, offset, SECTOR_BYTES) else {
                    continue;
                };
                if let Decoded::Intact(header) = record::decode(bytes, self.identity, None)
                    && header.segment_sequence == sequence
                    && belongs(&header, self.geometry, offset)
                    && ends_in_range(&header, self.geometry)
                {
                    return Some(header.position);
                }
            }
        }
        None
    }
}
