//! Reads a log that is in use, for damage that nobody would notice before a start needs it.
//!
//! What is read was acknowledged, is needed, and does not change: a file is used again only after a
//! record that says so is durable. Where something is wrong the log is looked at once more, lest it be
//! a file that was let go in between. Nothing is repaired here: see `R5`.

use wire::ids::Position;

use super::survey::belongs;
use super::{Cause, Geometry, SegmentSource, Window};
use crate::record::{
    self, Decoded, HEADER_BYTES, Header, HeaderHash, Identity, SECTOR_BYTES, header_hash,
};

/// Places named at most; the others are counted.
const ROT_NAMED_MAX: usize = 16;

/// A place of the log that a start could not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rot {
    pub position: Position,
    pub cause: Cause,
}

/// What one reading found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Good records.
    pub records: u64,
    /// Of them, with headers.
    pub bytes: u64,
    /// Places that are wrong, and the first of them.
    pub damaged: u64,
    pub rot: Vec<Rot>,
}

/// Where the log lies, and how far it reaches, as its files say.
#[derive(Debug, Default)]
struct Layout {
    /// Sequence number and index of each file that begins with a record, ascending.
    files: Vec<(u64, u32)>,
    /// Everything below is no longer needed.
    low: Position,
    /// Everything below was acknowledged.
    floor: Position,
}

impl Layout {
    fn look<S: SegmentSource>(
        window: &mut Window<'_, S>,
        geometry: &Geometry,
        identity: &Identity,
    ) -> Layout {
        let mut layout = Layout::default();
        for info in window.segments() {
            let sector = window.read_alone(info.index, 0, SECTOR_BYTES);
            let decoded = sector.map(|sector| record::decode(sector, identity, None));
            let sequence = match decoded {
                Some(Decoded::Intact(header)) if belongs(&header, geometry, 0) => {
                    Some(header.segment_sequence)
                }
                Some(Decoded::Blank) => None,
                // Its beginning may have rotted.
                _ => headers(window, info.index, geometry, identity)
                    .map(|header| header.segment_sequence)
                    .max(),
            };
            layout
                .files
                .extend(sequence.map(|sequence| (sequence, info.index)));
        }
        layout.files.sort_unstable();
        // The newest records say how far the log reaches, whatever lies between them.
        if let Some((sequence, index)) = layout.files.last().copied() {
            for header in headers(window, index, geometry, identity) {
                if header.segment_sequence == sequence {
                    layout.low = layout.low.max(header.low);
                    layout.floor = layout.floor.max(header.durable_before);
                }
            }
        }
        layout
    }

    fn holding(&self, sequence: u64) -> Option<u32> {
        let found = self.files.iter().find(|(held, _)| *held == sequence)?;
        Some(found.1)
    }
}

/// Intact headers of a file that lie where they say.
fn headers<S: SegmentSource>(
    window: &mut Window<'_, S>,
    index: u32,
    geometry: &Geometry,
    identity: &Identity,
) -> impl Iterator<Item = Header> {
    let offsets = (0..geometry.segment_bytes).step_by(SECTOR_BYTES);
    offsets.filter_map(move |offset| {
        let sector = window.read(index, offset, SECTOR_BYTES)?;
        match record::decode(sector, identity, None) {
            Decoded::Intact(header) if belongs(&header, geometry, offset) => Some(header),
            _ => None,
        }
    })
}

/// The records of one file, from its beginning.
#[derive(Debug)]
struct Walk {
    sequence: u64,
    index: u32,
    at: Position,
    /// Of the last record.
    last: Option<HeaderHash>,
    hash: HeaderHash,
}

impl Walk {
    fn new(sequence: u64, index: u32, geometry: &Geometry) -> Walk {
        Walk {
            sequence,
            index,
            at: geometry.start_of(sequence),
            last: None,
            hash: HeaderHash::default(),
        }
    }

    /// The header of the record that begins here, if there is one that follows the last.
    fn header<S: SegmentSource>(
        &mut self,
        window: &mut Window<'_, S>,
        geometry: &Geometry,
        identity: &Identity,
    ) -> Option<Header> {
        let offset = self.at.0 - self.sequence * geometry.segment_bytes;
        if offset >= geometry.segment_bytes {
            return None;
        }
        let sector = window.read(self.index, offset, SECTOR_BYTES)?;
        let Decoded::Intact(header) = record::decode(sector, identity, Some(self.at)) else {
            return None;
        };
        self.hash = header_hash(sector);
        let follows = self.last.is_none_or(|last| header.previous == last);
        (belongs(&header, geometry, offset) && header.position == self.at && follows)
            .then_some(header)
    }

    /// Goes behind this record.
    fn step(&mut self, header: &Header) {
        self.last = Some(self.hash);
        self.at.0 += record::record_bytes(header.body_bytes as usize) as u64;
    }
}

/// Reads everything that is needed and was acknowledged.
pub fn scrub<S: SegmentSource>(
    source: &mut S,
    geometry: &Geometry,
    identity: &Identity,
) -> Scrubbed {
    let mut window = Window::new(source, geometry);
    let layout = Layout::look(&mut window, geometry, identity);
    let mut scrubbed = Scrubbed::default();
    let mut rot = Vec::new();
    let mut last = None;
    let first = geometry.sequence_of(layout.low);
    for sequence in first..=geometry.sequence_of(layout.floor) {
        let begin = geometry.start_of(sequence);
        if begin >= layout.floor {
            break;
        }
        let Some(index) = layout.holding(sequence) else {
            rot.push(Rot {
                position: begin,
                cause: Cause::SegmentMissing,
            });
            last = None;
            continue;
        };
        let mut walk = Walk::new(sequence, index, geometry);
        // The first record of a file names the last of the one before: so nothing is missing there.
        if let (Some((end, hash)), Some(header)) =
            (last, walk.header(&mut window, geometry, identity))
            && header.previous != hash
        {
            rot.push(Rot {
                position: end,
                cause: Cause::HeaderMissing,
            });
        }
        while walk.at < layout.floor
            && let Some(header) = walk.header(&mut window, geometry, identity)
        {
            let offset = walk.at.0 - begin.0;
            let bytes = HEADER_BYTES + header.body_bytes as usize;
            let record = window.read(index, offset, bytes);
            let sum = record.map(|bytes| record::body_crc(&bytes[HEADER_BYTES..]));
            match sum {
                Some(sum) if sum == header.body_crc => {
                    scrubbed.records += 1;
                    scrubbed.bytes += record::record_bytes(header.body_bytes as usize) as u64;
                }
                sum => rot.push(Rot {
                    position: walk.at,
                    cause: match sum {
                        Some(_) => Cause::BodyTorn,
                        None => Cause::Unreadable,
                    },
                }),
            }
            walk.step(&header);
        }
        // Where the records of an older file end is known from the next one.
        let is_newest = sequence == geometry.sequence_of(layout.floor);
        if walk.at < layout.floor && (is_newest || walk.last.is_none()) {
            rot.push(Rot {
                position: walk.at,
                cause: Cause::HeaderMissing,
            });
        }
        last = walk.last.map(|hash| (walk.at, hash));
    }
    if !rot.is_empty() {
        let low = Layout::look(&mut Window::new(source, geometry), geometry, identity).low;
        rot.retain(|rot| rot.position >= low);
    }
    scrubbed.damaged = rot.len() as u64;
    rot.truncate(ROT_NAMED_MAX);
    scrubbed.rot = rot;
    scrubbed
}
