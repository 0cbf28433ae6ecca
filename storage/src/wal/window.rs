//! Reading a log in large pieces: 4 KiB at a time take 40 us a KiB past the system's cache, a MiB at a
//! time 3.

use std::io;

use super::{Geometry, SegmentInfo, SegmentSource};
use crate::record::SECTOR_BYTES;

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// Reads ahead in large pieces and falls back to what was asked for when a piece is unreadable.
pub struct Window<'a, S> {
    source: &'a mut S,
    segment_bytes: u64,
    bytes: Vec<u8>,
    segment: u32,
    start: u64,
}

impl<'a, S: SegmentSource> Window<'a, S> {
    pub fn new(source: &'a mut S, geometry: &Geometry) -> Window<'a, S> {
        Window {
            source,
            segment_bytes: geometry.segment_bytes,
            bytes: Vec::new(),
            segment: 0,
            start: 0,
        }
    }

    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        self.source.segments()
    }

    /// The given range of a segment, which lies within it; none when it cannot be read. Whoever goes on
    /// from there finds what follows.
    pub fn read(&mut self, segment: u32, offset: u64, length: usize) -> Option<&[u8]> {
        let end = offset + length as u64;
        let held_end = self.start + self.bytes.len() as u64;
        if segment != self.segment || offset < self.start || end > held_end {
            let whole = length.next_multiple_of(SECTOR_BYTES);
            let ahead = (self.segment_bytes - offset).min(WINDOW_BYTES.max(whole) as u64);
            self.fill(segment, offset, ahead as usize)
                .or_else(|_| self.fill(segment, offset, whole))
                .ok()?;
        }
        let from = (offset - self.start) as usize;
        self.bytes.get(from..from + length)
    }

    /// The same, for whoever does not go on from there.
    pub fn read_alone(&mut self, segment: u32, offset: u64, length: usize) -> Option<&[u8]> {
        let whole = length.next_multiple_of(SECTOR_BYTES);
        self.fill(segment, offset, whole).ok()?;
        self.bytes.get(..length)
    }

    fn fill(&mut self, segment: u32, offset: u64, length: usize) -> io::Result<()> {
        self.segment = segment;
        self.start = offset;
        self.bytes.resize(length, 0);
        let outcome = self.source.read(segment, offset, &mut self.bytes);
        if outcome.is_err() {
            self.bytes.clear();
        }
        outcome
    }
}
