//! Block bytes by slot: in memory while they are needed soon, in the log for ever after.

use storage::wal::Sealed;
use wire::block::{BlockPrefix, BlockView};
use wire::bytes::{Buffers, SharedBytes};
use wire::certificates::Place;
use wire::ids::{Digest, Position, Slot};
use wire::limits::{RECORD_HEADER_BYTES, WINDOW};
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

/// Where a block's record begins in the log, and its length in sectors.
pub type Location = (Position, u32);

enum Kept<Bu: Buffers> {
    /// Not appended yet.
    Raw(Raw<Bu::Unique>),
    /// The block message inside its log record, and whether the leader signed it, once somebody
    /// looked.
    Message(Bu::Shared, Location, Option<bool>),
}

/// One block, and which.
type Way<Bu> = Option<(Place, Kept<Bu>)>;

/// Blocks of one slot: leaders lie, and views abandon what they had begun. As many as the core
/// remembers.
const WAYS: usize = 4;
const RING: usize = 2 * WINDOW as usize;

/// Bytes by slot and digest over the window.
pub struct Blocks<Bu: Buffers> {
    ring: Vec<[Way<Bu>; WAYS]>,
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
            ring: (0..RING).map(|_| std::array::from_fn(|_| None)).collect(),
            kept: 0,
        }
    }

    fn ways(&mut self, slot: Slot) -> &mut [Way<Bu>; WAYS] {
        &mut self.ring[(slot.0 % RING as u64) as usize]
    }

    fn place(&mut self, place: Place, kept: Kept<Bu>) {
        let ways = self.ways(place.slot);
        let same = |way: &Option<(Place, _)>| way.as_ref().is_some_and(|(at, _)| *at == place);
        let other_slot =
            |way: &Option<(Place, _)>| way.as_ref().is_some_and(|(at, _)| at.slot != place.slot);
        let index = ways.iter().position(same);
        let index = index.or_else(|| ways.iter().position(Option::is_none));
        let index = index.or_else(|| ways.iter().position(other_slot));
        let index = index.expect("the core keeps no more blocks of a slot");
        let before = ways[index].replace((place, kept));
        self.kept += usize::from(before.is_none());
    }

    /// Keeps a block that is not written yet.
    pub fn keep_raw(&mut self, place: Place, raw: Raw<Bu::Unique>) {
        self.place(place, Kept::Raw(raw));
    }

    /// Takes a waiting block out to append it.
    pub fn take_raw(&mut self, place: Place) -> Option<Raw<Bu::Unique>> {
        let ways = self.ways(place.slot);
        let is_raw = |way: &&mut Option<(Place, Kept<Bu>)>| matches!(way, Some((at, Kept::Raw(_))) if *at == place);
        let (_, kept) = ways.iter_mut().find(is_raw)?.take()?;
        self.kept -= 1;
        match kept {
            Kept::Raw(raw) => Some(raw),
            Kept::Message(..) => None,
        }
    }

    /// Keeps the message of an appended block.
    pub fn keep(&mut self, place: Place, message: Bu::Shared, location: Location) {
        self.place(place, Kept::Message(message, location, None));
    }

    fn find(&self, place: Place) -> Option<&Kept<Bu>> {
        let ways = &self.ring[(place.slot.0 % RING as u64) as usize];
        let mut kept = ways.iter().flatten();
        kept.find(|(at, _)| *at == place).map(|(_, kept)| kept)
    }

    /// Whether the bytes of a block are in memory, written or not.
    pub fn holds(&self, place: Place) -> bool {
        self.find(place).is_some()
    }

    /// The message of an appended block, while it is in memory.
    pub fn get(&self, place: Place) -> Option<&Bu::Shared> {
        match self.find(place)? {
            Kept::Message(message, ..) => Some(message),
            Kept::Raw(_) => None,
        }
    }

    /// Length of the message of a block, written or not.
    pub fn message_bytes(&self, place: Place) -> Option<usize> {
        Some(match self.find(place)? {
            Kept::Raw(raw) => raw.message_bytes,
            Kept::Message(message, ..) => message.len(),
        })
    }

    /// Where the record of an appended block lies.
    pub fn location(&self, place: Place) -> Option<Location> {
        match self.find(place)? {
            Kept::Message(_, location, _) => Some(*location),
            Kept::Raw(_) => None,
        }
    }

    /// Whether the leader signed this copy was found out.
    pub fn note_signed(&mut self, place: Place, signed: bool) {
        let ways = self.ways(place.slot).iter_mut().flatten();
        for (at, kept) in ways {
            if let Kept::Message(.., known) = kept
                && *at == place
            {
                *known = Some(signed);
            }
        }
    }

    /// Whether the leader signed this copy, if that was found out.
    pub fn is_signed(&self, place: Place) -> Option<bool> {
        match self.find(place)? {
            Kept::Message(.., known) => *known,
            Kept::Raw(_) => None,
        }
    }

    pub fn forget(&mut self, place: Place) {
        let ways = self.ways(place.slot);
        let same = |way: &&mut Option<(Place, _)>| way.as_ref().is_some_and(|(at, _)| *at == place);
        let forgotten = ways
            .iter_mut()
            .find(same)
            .is_some_and(|way| way.take().is_some());
        self.kept -= usize::from(forgotten);
    }

    /// Forgets every block of a slot.
    pub fn forget_slot(&mut self, slot: Slot) {
        let mut forgotten = 0;
        for way in self.ways(slot) {
            if way.as_ref().is_some_and(|(at, _)| at.slot == slot) {
                *way = None;
                forgotten += 1;
            }
        }
        self.kept -= forgotten;
    }

    /// Forgets every block of `slot` and below.
    pub fn forget_up_to(&mut self, slot: Slot) {
        let ways = self.ring.iter_mut().flatten();
        for way in ways {
            if way.as_ref().is_some_and(|(at, _)| at.slot <= slot) {
                *way = None;
                self.kept -= 1;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use wire::bytes::{HeapBuffers, HeapShared, HeapUnique};

    #[test]
    fn blocks_are_kept_by_place() {
        let place = |slot, byte| Place {
            slot: Slot(slot),
            digest: Digest([byte; 32]),
        };
        let raw = || Raw {
            buffer: HeapUnique(vec![0; 256]),
            message_bytes: 1,
        };
        let at = (Position(4096), 1);
        let mut blocks: Blocks<HeapBuffers> = Blocks::new();
        blocks.keep_raw(place(5, 1), raw());
        blocks.keep(place(5, 2), HeapShared::copy_from(b"m"), at);
        assert_eq!(blocks.kept(), 2);
        assert!(blocks.take_raw(place(5, 2)).is_none());
        assert!(blocks.take_raw(place(5 + RING as u64, 1)).is_none());
        assert!(blocks.take_raw(place(5, 1)).is_some());
        assert_eq!(
            blocks.get(place(5, 2)).map(|message| message.len()),
            Some(1)
        );
        assert_eq!(blocks.location(place(5, 2)), Some(at));
        for byte in 3..6 {
            blocks.keep_raw(place(5, byte), raw());
        }
        assert_eq!(blocks.kept(), 4);
        blocks.keep(place(5 + RING as u64, 9), HeapShared::copy_from(b"n"), at);
        assert!(blocks.get(place(5 + RING as u64, 9)).is_some());
        blocks.forget(place(5 + RING as u64, 9));
        blocks.forget_slot(Slot(5));
        assert_eq!(blocks.kept(), 0);
        blocks.forget(place(5, 2));
        assert_eq!(blocks.kept(), 0);
    }
}
