//! Block bytes by slot: in memory while they are needed soon, in the log for ever after.

use std::mem;

use storage::wal::Sealed;
use wire::block::{BlockPrefix, BlockView};
use wire::bytes::{Buffers, SharedBytes};
use wire::ids::{Digest, Position, Slot};
use wire::limits::{RECORD_HEADER_BYTES, SECTOR_BYTES, WINDOW};
use zerocopy::FromBytes;

/// Executed blocks whose bytes stay in memory for repair; older ones are read from the log.
pub const RETAINED_BLOCKS: u64 = 32;

/// A block buffer with room for the log header in front of `message_bytes` of message.
#[derive(Debug)]
pub struct Raw<U> {
    pub buffer: U,
    pub message_bytes: usize,
}

impl<U: std::ops::Deref<Target = [u8]>> Raw<U> {
    /// The block message.
    pub fn message(&self) -> &[u8] {
        &self.buffer[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.message_bytes]
    }
}

enum Kept<Bu: Buffers> {
    Nothing,
    /// Not appended yet: its parent is missing.
    Raw(Raw<Bu::Unique>),
    /// The block message inside its log record.
    Message(Bu::Shared),
}

const RING: usize = 2 * WINDOW as usize;

/// Bytes by slot over the window.
pub struct Blocks<Bu: Buffers> {
    ring: Vec<(Slot, Kept<Bu>)>,
    kept: usize,
}

impl<Bu: Buffers> Default for Blocks<Bu> {
    fn default() -> Self {
        Blocks::new()
    }
}

impl<Bu: Buffers> Blocks<Bu> {
    pub fn new() -> Blocks<Bu> {
        Blocks {
            ring: (0..RING).map(|_| (Slot(0), Kept::Nothing)).collect(),
            kept: 0,
        }
    }

    fn place(&mut self, slot: Slot, kept: Kept<Bu>) -> Kept<Bu> {
        let cell = &mut self.ring[(slot.0 % RING as u64) as usize];
        let was = !matches!(cell.1, Kept::Nothing);
        let is = !matches!(kept, Kept::Nothing);
        self.kept = self.kept + usize::from(is) - usize::from(was);
        if cell.0 == slot || is {
            cell.0 = slot;
            mem::replace(&mut cell.1, kept)
        } else {
            // Another slot lives here; nothing of `slot` is kept.
            self.kept += usize::from(was);
            Kept::Nothing
        }
    }

    /// Keeps a block that waits for its parent.
    pub fn keep_raw(&mut self, slot: Slot, raw: Raw<Bu::Unique>) {
        self.place(slot, Kept::Raw(raw));
    }

    /// Takes a waiting block out to append it.
    pub fn take_raw(&mut self, slot: Slot) -> Option<Raw<Bu::Unique>> {
        match self.place(slot, Kept::Nothing) {
            Kept::Raw(raw) => Some(raw),
            other => {
                if !matches!(other, Kept::Nothing) {
                    self.place(slot, other);
                }
                None
            }
        }
    }

    /// Keeps the message of an appended block.
    pub fn keep(&mut self, slot: Slot, message: Bu::Shared) {
        self.place(slot, Kept::Message(message));
    }

    /// The message of an appended block, while it is in memory.
    pub fn get(&self, slot: Slot) -> Option<&Bu::Shared> {
        match &self.ring[(slot.0 % RING as u64) as usize] {
            (at, Kept::Message(message)) if *at == slot => Some(message),
            _ => None,
        }
    }

    pub fn forget(&mut self, slot: Slot) {
        self.place(slot, Kept::Nothing);
    }

    /// Blocks in memory.
    pub fn kept(&self) -> usize {
        self.kept
    }
}

/// The block message inside a sealed record.
pub fn message_of<S: SharedBytes>(sealed: &Sealed<S>, message_bytes: usize) -> S {
    sealed
        .shared
        .slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + message_bytes)
}

/// Reads the block message out of a record read back from the log, if it is the one wanted.
pub fn message_in_record(record: &[u8], slot: Slot) -> Option<(usize, Digest)> {
    let message = record.get(RECORD_HEADER_BYTES..)?;
    let (prefix, _) = BlockPrefix::ref_from_prefix(message).ok()?;
    let message_bytes = size_of::<BlockPrefix>().checked_add(prefix.payload_bytes())?;
    let view = BlockView::parse(message.get(..message_bytes)?).ok()?;
    (view.prefix.header.slot() == slot).then(|| (message_bytes, prefix.header.digest()))
}

/// Where each slot's record lies in the log: eight bytes a slot, allocated once for the whole log.
#[derive(Debug)]
pub struct Ledger {
    /// Slot of the first cell.
    first: Slot,
    cells: Vec<u64>,
    used: usize,
}

const EMPTY: u64 = u64::MAX;

impl Ledger {
    /// Room for `slots_max` slots from 1 on; the memory is touched at once, so it never grows.
    pub fn new(slots_max: usize) -> Ledger {
        Ledger {
            first: Slot(1),
            cells: vec![EMPTY; slots_max],
            used: 0,
        }
    }

    fn index(&self, slot: Slot) -> Option<usize> {
        slot.0.checked_sub(self.first.0).map(|index| index as usize)
    }

    /// Notes the record of `slot`. A second record of a slot replaces the first.
    pub fn note(&mut self, slot: Slot, start: Position, sectors: u32) {
        let index = self.index(slot).expect("slots grow");
        assert!(
            index < self.cells.len(),
            "the ledger has a cell for every record of the log"
        );
        assert!(sectors < 256 && start.0.is_multiple_of(SECTOR_BYTES as u64));
        self.cells[index] = (start.0 / SECTOR_BYTES as u64) << 8 | u64::from(sectors);
        self.used = self.used.max(index + 1);
    }

    /// Start and length in sectors of the record of `slot`.
    pub fn locate(&self, slot: Slot) -> Option<(Position, u32)> {
        let cell = *self.cells.get(self.index(slot)?)?;
        (cell != EMPTY).then(|| {
            (
                Position((cell >> 8) * SECTOR_BYTES as u64),
                (cell & 255) as u32,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::bytes::{HeapBuffers, HeapShared, HeapUnique};

    #[test]
    fn blocks_are_kept_by_slot() {
        let mut blocks: Blocks<HeapBuffers> = Blocks::new();
        blocks.keep_raw(
            Slot(5),
            Raw {
                buffer: HeapUnique(vec![0; 256]),
                message_bytes: 1,
            },
        );
        assert_eq!(blocks.kept(), 1);
        assert!(blocks.take_raw(Slot(5 + RING as u64)).is_none());
        assert_eq!(blocks.kept(), 1);
        assert!(blocks.take_raw(Slot(5)).is_some());
        blocks.keep(Slot(5), HeapShared::copy_from(b"m"));
        assert!(blocks.take_raw(Slot(5)).is_none());
        assert_eq!(blocks.get(Slot(5)).map(|message| message.len()), Some(1));
        blocks.keep(Slot(5 + RING as u64), HeapShared::copy_from(b"n"));
        assert!(blocks.get(Slot(5)).is_none());
        assert_eq!(blocks.kept(), 1);
        blocks.forget(Slot(5));
        assert_eq!(blocks.kept(), 1);
        blocks.forget(Slot(5 + RING as u64));
        assert_eq!(blocks.kept(), 0);
    }

    #[test]
    fn ledger_remembers_places() {
        let mut ledger = Ledger::new(10);
        ledger.note(Slot(3), Position(8192), 66);
        assert_eq!(ledger.locate(Slot(3)), Some((Position(8192), 66)));
        assert_eq!(ledger.locate(Slot(2)), None);
        assert_eq!(ledger.locate(Slot(0)), None);
        assert_eq!(ledger.locate(Slot(99)), None);
    }
}
