//! The blocks that are known by header: a ring over the window, addressed by slot.
//!
//! `linked` is the top of the chain: every slot up to it holds exactly one block whose parent is
//! the one below. Blocks above `linked + 1` are held until their parent comes.

use wire::block::BlockHeader;
use wire::ids::{Digest, Instant, Position, Signature, Slot};
use wire::limits::WINDOW;
use wire::messages::SignedHeader;

/// What verification said about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Unknown,
    Valid,
    Invalid,
}

/// One block by header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub header: BlockHeader,
    pub signature: Signature,
    pub digest: Digest,
    pub validity: Validity,
    /// End of its record in the own log, once appended.
    pub end: Option<Position>,
    /// When it was first seen here.
    pub seen_at: Instant,
}

impl Entry {
    pub fn signed(&self) -> SignedHeader {
        SignedHeader {
            header: self.header,
            signature: self.signature,
        }
    }
}

/// Slots remembered: the window above the executed slot, and as much below it for repair.
const RING: usize = 2 * WINDOW as usize;

/// The ring.
#[derive(Debug)]
pub(crate) struct Chain {
    entries: Vec<Option<(Slot, Entry)>>,
    pub linked: Slot,
    pub linked_digest: Digest,
}

impl Chain {
    /// A chain that ends at `slot` (genesis, or where the log of the last boot ends).
    pub fn new(slot: Slot, digest: Digest) -> Chain {
        Chain {
            entries: vec![None; RING],
            linked: slot,
            linked_digest: digest,
        }
    }

    fn index(slot: Slot) -> usize {
        (slot.0 % RING as u64) as usize
    }

    /// The block at `slot`, linked or held.
    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        match &self.entries[Chain::index(slot)] {
            Some((at, entry)) if *at == slot => Some(entry),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        match &mut self.entries[Chain::index(slot)] {
            Some((at, entry)) if *at == slot => Some(entry),
            _ => None,
        }
    }

    /// Digest of the linked block at `slot`, while the ring still holds it.
    pub fn linked_digest_at(&self, slot: Slot) -> Option<Digest> {
        if slot == self.linked {
            Some(self.linked_digest)
        } else if slot < self.linked {
            self.get(slot).map(|entry| entry.digest)
        } else {
            None
        }
    }

    /// Whether (slot, digest) lies on the chain.
    pub fn holds(&self, slot: Slot, digest: &Digest) -> bool {
        self.linked_digest_at(slot)
            .is_some_and(|held| held == *digest)
    }

    pub fn insert(&mut self, slot: Slot, entry: Entry) {
        self.entries[Chain::index(slot)] = Some((slot, entry));
    }

    pub fn remove(&mut self, slot: Slot) {
        if self.get(slot).is_some() {
            self.entries[Chain::index(slot)] = None;
        }
    }

    /// Moves the top to the held block right above it.
    pub fn link_next(&mut self) {
        let next = self.linked.next();
        let entry = self.get(next).expect("a block is held above the top");
        assert_eq!(
            entry.header.parent, self.linked_digest,
            "linked blocks form a chain"
        );
        self.linked_digest = entry.digest;
        self.linked = next;
    }
}
