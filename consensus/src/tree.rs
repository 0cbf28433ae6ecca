//! The blocks that are known, by slot and digest: a ring over the window with a few places for each
//! slot, because leaders lie and views abandon what they had begun.

use wire::block::BlockHeader;
use wire::certificates::Place;
use wire::ids::{Digest, Instant, Position, Signature, Slot};
use wire::messages::SignedHeader;

use crate::core::Config;
use crate::image::image;

/// What verification said about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Unknown,
    Valid,
    Invalid,
}

/// How a block lies in the own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordAs {
    /// As a block record, which is the vote record (R2).
    Vote,
    /// As fetched, inherited or learned: never counted as a vote.
    Fetched,
}

/// One block whose bytes the caller keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub header: BlockHeader,
    pub signature: Signature,
    /// The leader's signature was verified. The digest does not bind it.
    pub signature_good: bool,
    pub digest: Digest,
    pub validity: Validity,
    pub record: Option<RecordAs>,
    /// End of its record in the own log, once appended.
    pub end: Option<Position>,
    /// When it came onto the branch: what a commit needs is measured from there, since a leader can
    /// send a block long before its parent.
    pub linked_at: Instant,
}
image!(Entry {
    header,
    signature,
    signature_good,
    digest,
    validity,
    record,
    end,
    linked_at
});

impl Entry {
    pub fn signed(&self) -> SignedHeader {
        SignedHeader {
            header: self.header,
            signature: self.signature,
        }
    }

    pub fn place(&self) -> Place {
        Place {
            slot: self.header.slot(),
            digest: self.digest,
        }
    }

    /// Found invalid by a BLOCK and kept without its bytes: it stands in no other's way (R2).
    pub fn is_hearsay(&self) -> bool {
        self.validity == Validity::Invalid && self.record.is_none()
    }

    pub fn parent(&self) -> Place {
        Place {
            slot: Slot(self.header.slot().0 - 1),
            digest: self.header.parent,
        }
    }
}

/// Blocks of one slot: the own branch, the base of a new view, its first proposals, and one more.
const WAYS: usize = 4;

/// Slots remembered: the window above the executed slot, and as much below it for repair. Blocks
/// held above the executed slot fit as well.
pub(crate) fn ring(config: &Config) -> usize {
    2 * config.window().max(config.blocks_held_max) as usize
}

/// The blocks. About a kilobyte a slot, taken once.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    ring: usize,
    ways: Vec<Option<Entry>>,
}
image!(Tree { ring, ways });

/// All places of a slot hold blocks that are still needed.
#[derive(Debug)]
pub(crate) struct Crowded;

impl Tree {
    pub fn new(ring: usize) -> Tree {
        Tree {
            ring,
            ways: vec![None; ring * WAYS],
        }
    }

    fn range(&self, slot: Slot) -> std::ops::Range<usize> {
        let first = (slot.0 % self.ring as u64) as usize * WAYS;
        first..first + WAYS
    }

    /// Every known block of a slot.
    pub fn at(&self, slot: Slot) -> impl Iterator<Item = &Entry> {
        let entries = self.ways[self.range(slot)].iter().flatten();
        entries.filter(move |entry| entry.header.slot() == slot)
    }

    pub fn get(&self, place: Place) -> Option<&Entry> {
        self.at(place.slot)
            .find(|entry| entry.digest == place.digest)
    }

    pub fn get_mut(&mut self, place: Place) -> Option<&mut Entry> {
        let range = self.range(place.slot);
        let entries = self.ways[range].iter_mut().flatten();
        entries
            .filter(|entry| entry.header.slot() == place.slot)
            .find(|entry| entry.digest == place.digest)
    }

    /// Takes a block in; one that nothing `needs` makes room for it and is returned.
    pub fn insert(
        &mut self,
        entry: Entry,
        needs: impl Fn(&Entry) -> bool,
    ) -> Result<Option<Place>, Crowded> {
        let slot = entry.header.slot();
        let range = self.range(slot);
        let ways = &mut self.ways[range];
        // Whatever lies here of another slot is far below the window.
        let is_free = |way: &Option<Entry>| way.as_ref().is_none_or(|e| e.header.slot() != slot);
        if let Some(way) = ways.iter_mut().find(|way| is_free(way)) {
            *way = Some(entry);
            return Ok(None);
        }
        for way in ways {
            let superseded = way.as_ref().filter(|held| !needs(held)).map(Entry::place);
            if let Some(place) = superseded {
                *way = Some(entry);
                return Ok(Some(place));
            }
        }
        Err(Crowded)
    }

    pub fn remove(&mut self, place: Place) {
        let range = self.range(place.slot);
        for way in &mut self.ways[range] {
            if way.as_ref().is_some_and(|entry| entry.place() == place) {
                *way = None;
            }
        }
    }

    /// The ancestors of a block that are known, itself first, downwards.
    pub fn down_from(&self, place: Place) -> impl Iterator<Item = &Entry> + Clone {
        let mut next = Some(place);
        std::iter::from_fn(move || {
            let entry = self.get(next?)?;
            next = (entry.header.slot() > Slot(1)).then(|| entry.parent());
            Some(entry)
        })
    }
}
