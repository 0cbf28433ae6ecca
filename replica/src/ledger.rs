//! Which blocks the log holds, and where: what is served from it, and how far it may be let go.
//!
//! Eight bytes a slot in a ring that is allocated once for the whole log, and a few bytes for each
//! stretch of it.

use std::collections::VecDeque;

use storage::wal::Geometry;
use wire::ids::{Position, Slot};
use wire::limits::{SECTOR_BYTES, WINDOW};

use crate::blocks::Location;

/// See the module's documentation.
#[derive(Debug)]
pub struct Ledger {
    geometry: Geometry,
    /// Nothing below is served.
    first: Slot,
    cells: Vec<u64>,
    /// Number of each stretch of the log with the highest slot of its blocks, ascending.
    stretches: VecDeque<(u64, Slot)>,
}

const EMPTY: u64 = u64::MAX;
/// Of a cell: the leader's signature on the copy in this record was found good, or bad.
const SIGNED: u64 = 1 << 63;
const UNSIGNED: u64 = 1 << 62;

impl Ledger {
    /// Room for every block of a log of this geometry, from `first` on; the memory is touched at
    /// once, so it never grows.
    pub fn new(geometry: Geometry, first: Slot) -> Ledger {
        let records_max = geometry.max_bytes() / SECTOR_BYTES as u64;
        Ledger {
            geometry,
            first,
            cells: vec![EMPTY; (records_max + 2 * WINDOW) as usize],
            stretches: VecDeque::with_capacity(geometry.segments_max as usize + 1),
        }
    }

    fn cell(&self, slot: Slot) -> usize {
        (slot.0 % self.cells.len() as u64) as usize
    }

    /// A block of `slot`, final or not, was sealed at `start`.
    pub fn appended(&mut self, start: Position, slot: Slot) {
        let sequence = self.geometry.sequence_of(start);
        match self.stretches.back_mut() {
            Some((last, highest)) if *last == sequence => *highest = (*highest).max(slot),
            _ => self.stretches.push_back((sequence, slot)),
        }
    }

    /// Notes the record of the final block at `slot`; a second record of a slot replaces the first.
    /// What lies below the first slot is not noted.
    pub fn note(&mut self, slot: Slot, start: Position, sectors: u32) {
        if slot < self.first {
            return;
        }
        assert!(
            slot.0 - self.first.0 < self.cells.len() as u64,
            "the ledger has a cell for every record of the log"
        );
        assert!(sectors < 256 && start.0.is_multiple_of(SECTOR_BYTES as u64));
        let cell = self.cell(slot);
        self.cells[cell] = (start.0 / SECTOR_BYTES as u64) << 8 | u64::from(sectors);
    }

    /// Whether the leader signed the copy that is noted for `slot` was found out.
    pub fn note_signed(&mut self, slot: Slot, signed: bool) {
        if self.locate(slot).is_some() {
            let cell = self.cell(slot);
            self.cells[cell] |= if signed { SIGNED } else { UNSIGNED };
        }
    }

    /// Whether the leader signed the noted copy, if that was found out.
    pub fn is_signed(&self, slot: Slot) -> Option<bool> {
        self.locate(slot)?;
        let found = self.cells[self.cell(slot)] & (SIGNED | UNSIGNED);
        (found != 0).then_some(found == SIGNED)
    }

    /// Start and length in sectors of the record of `slot`.
    pub fn locate(&self, slot: Slot) -> Option<Location> {
        let above = slot.0.checked_sub(self.first.0)?;
        if above >= self.cells.len() as u64 {
            return None;
        }
        let cell = self.cells[self.cell(slot)];
        let location = || {
            let start = Position(((cell & !(SIGNED | UNSIGNED)) >> 8) * SECTOR_BYTES as u64);
            (start, (cell & 255) as u32)
        };
        (cell != EMPTY).then(location)
    }

    /// Nothing below `first` is served any more.
    pub fn release(&mut self, first: Slot) {
        let end = first.0.min(self.first.0 + self.cells.len() as u64);
        for slot in (self.first.0..end).map(Slot) {
            let cell = self.cell(slot);
            self.cells[cell] = EMPTY;
        }
        self.first = self.first.max(first);
    }

    /// Where the first stretch begins that holds a block above `slot`; none when no one does.
    pub fn needed_above(&self, slot: Slot) -> Option<Position> {
        let mut stretches = self.stretches.iter();
        let needed = stretches.find(|(_, highest)| *highest > slot);
        needed.map(|(sequence, _)| self.geometry.start_of(*sequence))
    }

    /// The log below `low` was let go.
    pub fn forget_below(&mut self, low: Position) {
        let sequence = self.geometry.sequence_of(low);
        self.stretches.retain(|(known, _)| *known >= sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        segment_bytes: 2 * SECTOR_BYTES as u64,
        segments_max: 2,
        reserve_bytes: 0,
    };

    fn at(sector: u64) -> Position {
        Position(sector * SECTOR_BYTES as u64)
    }

    #[test]
    fn places_are_remembered_until_they_are_released() {
        let mut ledger = Ledger::new(GEOMETRY, Slot(1));
        ledger.note(Slot(3), at(2), 66);
        assert_eq!(ledger.locate(Slot(3)), Some((at(2), 66)));
        assert_eq!(ledger.locate(Slot(2)), None);
        assert_eq!(ledger.locate(Slot(0)), None);
        assert_eq!(ledger.locate(Slot(9_999_999)), None);
        assert_eq!(ledger.is_signed(Slot(3)), None);
        ledger.note_signed(Slot(3), true);
        ledger.note_signed(Slot(2), true);
        assert_eq!(ledger.is_signed(Slot(3)), Some(true));
        assert_eq!(ledger.is_signed(Slot(2)), None);
        assert_eq!(ledger.locate(Slot(3)), Some((at(2), 66)));
        ledger.note(Slot(3), at(4), 1);
        assert_eq!(ledger.is_signed(Slot(3)), None, "another copy");
        ledger.note_signed(Slot(3), false);
        assert_eq!(ledger.is_signed(Slot(3)), Some(false));
        assert_eq!(ledger.locate(Slot(3)), Some((at(4), 1)));
        ledger.release(Slot(4));
        ledger.note(Slot(3), at(2), 66);
        assert_eq!(ledger.locate(Slot(3)), None);
        // Round the ring, and far ahead.
        let far = Slot(4 + ledger.cells.len() as u64 - 1);
        ledger.note(far, at(3), 1);
        assert_eq!(ledger.locate(far), Some((at(3), 1)));
        ledger.release(Slot(1_000_000));
        assert_eq!(ledger.locate(far), None);
        assert!(ledger.cells.iter().all(|cell| *cell == EMPTY));
        ledger.note(Slot(1_000_000), at(4), 1);
        assert_eq!(ledger.locate(Slot(1_000_000)), Some((at(4), 1)));
    }

    #[test]
    fn a_stretch_is_needed_for_its_highest_block() {
        let mut ledger = Ledger::new(GEOMETRY, Slot(1));
        for (sector, slot) in [(0, 5), (1, 9), (2, 7), (5, 8), (6, 10)] {
            ledger.appended(at(sector), Slot(slot));
        }
        assert_eq!(ledger.needed_above(Slot(8)), Some(at(0)));
        assert_eq!(ledger.needed_above(Slot(9)), Some(at(6)));
        assert_eq!(ledger.needed_above(Slot(10)), None);
        ledger.forget_below(at(4));
        assert_eq!(ledger.needed_above(Slot(7)), Some(at(4)));
    }
}
