//! First pass of recovery: looks at every sector of every segment file for headers of this log.
//!
//! It answers, without trusting any order: which file holds which stretch of the log, up to where
//! the log was acknowledged, from where it is still needed, and in which generation it was written.
//! Cost: the whole log is read once, in large pieces.

use std::io;

use wire::ids::Position;

use super::{Cause, Geometry, Window};
use crate::record::{self, Decoded, HEADER_BYTES, Header, Identity, SECTOR_BYTES};

/// A segment file as recovery finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Files have the indices `0..count`, each once, in any order.
    pub index: u32,
    /// Size of the file.
    pub bytes: u64,
}

/// Where recovery reads from: the driver's files, or the simulator's disk.
pub trait SegmentSource {
    /// Every segment file that exists.
    fn segments(&self) -> Vec<SegmentInfo>;

    /// Fills `into` from `offset` (both whole sectors, within the file). An error concerns this
    /// range only; recovery then tries smaller ranges.
    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// What one file holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentSurvey {
    pub(super) index: u32,
    /// Of its newest record: sequence number and position.
    pub(super) newest: Option<(u64, Position)>,
    /// Whole records of the same stretch; counted only where another file claims it as well.
    whole: u64,
}

/// What the first pass found.
#[derive(Debug)]
pub(super) struct Survey {
    /// By index.
    pub(super) segments: Vec<SegmentSurvey>,
    /// Everything below was acknowledged.
    pub(super) floor: Position,
    /// Everything below is no longer needed; starts a segment.
    pub(super) low: Position,
    pub(super) generation: u32,
    /// Start of the newest intact header.
    pub(super) newest: Option<Position>,
    pub(super) sectors_unreadable: u64,
    /// A file begins with part of a header: of a record that tore, or rotted.
    pub(super) torn_first: bool,
    /// Why these files must not be touched at all.
    pub(super) refused: Option<Cause>,
}

impl Survey {
    pub(super) fn take<S: SegmentSource>(
        window: &mut Window<'_, S>,
        segments: &[SegmentInfo],
        geometry: &Geometry,
        identity: &Identity,
    ) -> Survey {
        let mut survey = Survey {
            segments: Vec::with_capacity(segments.len()),
            floor: Position(0),
            low: Position(0),
            generation: 0,
            newest: None,
            sectors_unreadable: 0,
            torn_first: false,
            refused: None,
        };
        for segment in segments {
            let mut newest = None;
            for sector in 0..geometry.segment_bytes / SECTOR_BYTES as u64 {
                let offset = sector * SECTOR_BYTES as u64;
                let Some(bytes) = window.read(segment.index, offset, SECTOR_BYTES) else {
                    survey.sectors_unreadable += 1;
                    continue;
                };
                match record::decode(bytes, identity, None) {
                    Decoded::Intact(header) if belongs(&header, geometry, offset) => {
                        newest = newest.max(Some((header.segment_sequence, header.position)));
                        survey.count(&header);
                    }
                    Decoded::Torn if offset == 0 => survey.torn_first = true,
                    Decoded::Newer => survey.refused = Some(Cause::HeaderNewer),
                    // Only a record starts a file. Elsewhere a client may have put such bytes.
                    Decoded::Foreign if offset == 0 => {
                        survey.refused = Some(Cause::HeaderForeign);
                    }
                    _ => {}
                }
            }
            survey.segments.push(SegmentSurvey {
                index: segment.index,
                newest,
                whole: 0,
            });
        }
        for at in 0..survey.segments.len() {
            if let Some(sequence) = survey.claimed_twice(at) {
                let segment = survey.segments[at].index;
                let whole = whole_records(window, segment, sequence, geometry, identity);
                survey.segments[at].whole = whole;
            }
        }
        survey
    }

    /// The stretch that a file claims, if another one does so, too.
    fn claimed_twice(&self, at: usize) -> Option<u64> {
        let claim = |segment: &SegmentSurvey| segment.newest.map(|(sequence, _)| sequence);
        let claimed = claim(&self.segments[at])?;
        let claims = self.segments.iter().filter_map(claim);
        (claims.filter(|sequence| *sequence == claimed).count() > 1).then_some(claimed)
    }

    fn count(&mut self, header: &Header) {
        self.floor = self.floor.max(header.durable_before);
        self.low = self.low.max(header.low);
        self.generation = self.generation.max(header.generation);
        self.newest = self.newest.max(Some(header.position));
    }

    /// The file that holds a stretch of the log. Two that do cannot come from this code: one was
    /// copied by hand, or a header strayed into it. The one that has most of the stretch is right.
    pub(super) fn holding(&self, sequence: u64) -> Option<u32> {
        self.segments
            .iter()
            .filter_map(|segment| Some((segment.newest?, segment)))
            .filter(|((held, _), _)| *held == sequence)
            .max_by_key(|(newest, segment)| (segment.whole, *newest, segment.index))
            .map(|(_, segment)| segment.index)
    }
}

/// Records of a stretch in a file whose bodies are what their headers sum.
fn whole_records<S: SegmentSource>(
    window: &mut Window<'_, S>,
    segment: u32,
    sequence: u64,
    geometry: &Geometry,
    identity: &Identity,
) -> u64 {
    let mut whole = 0;
    for sector in 0..geometry.segment_bytes / SECTOR_BYTES as u64 {
        let offset = sector * SECTOR_BYTES as u64;
        let Some(bytes) = window.read(segment, offset, SECTOR_BYTES) else {
            continue;
        };
        if let Decoded::Intact(header) = record::decode(bytes, identity, None)
            && header.segment_sequence == sequence
            && belongs(&header, geometry, offset)
        {
            let bytes = HEADER_BYTES + header.body_bytes as usize;
            let record = window.read(segment, offset, bytes);
            let is_whole = record
                .is_some_and(|bytes| record::body_crc(&bytes[HEADER_BYTES..]) == header.body_crc);
            whole += u64::from(is_whole);
        }
    }
    whole
}

/// Whether an intact header lies where it says, and its record within the segment.
pub(super) fn belongs(header: &Header, geometry: &Geometry, offset: u64) -> bool {
    geometry.offset_of(header.position) == offset
        && geometry.sequence_of(header.position) == header.segment_sequence
        && offset + record::record_bytes(header.body_bytes as usize) as u64
            <= geometry.segment_bytes
        && header.durable_before <= header.position
        && header.low <= header.durable_before
}
