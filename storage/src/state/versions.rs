//! Old versions of items that were written since a freeze.
//!
//! Each freeze begins a *generation*; an item carries the generation of its last write as its
//! stamp. So the frozen state is every item whose stamp is older than the freeze, and the version
//! that was preserved of every other item that existed then. An item is preserved at most once for
//! a view, however often it is written: what is kept never exceeds the state at the freeze.
//!
//! Two freezes can be looked at: the last one, whose buckets are let go one by one as they are
//! hashed, and a pinned one, which stays whole until it is unpinned. Both may be the same.

use wire::state::{BUCKETS, Bucket, Cell};

use super::CellSet;
use super::kept::Kept;

/// Which freeze is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The last one; only cells that were watched, of buckets that were not released yet.
    Last,
    /// The pinned one.
    Pinned,
}

/// Watched cells are preserved for the last freeze.
const WATCHED: u8 = 1;
/// Preserved for the pinned freeze.
const PINNED: u8 = 2;

/// Marks of the buckets and preserved versions of the items of one holder.
#[derive(Debug)]
pub struct Versions {
    generation: u32,
    flags: Box<[u8; BUCKETS]>,
    /// Written since the last freeze.
    dirty: CellSet,
    /// Of the last freeze.
    watched: CellSet,
    /// The generation of the last write to each bucket.
    written: Box<[u32; BUCKETS]>,
    last: Kept,
    pinned: Option<Kept>,
    /// Something that the last freeze froze was written without being preserved.
    lost: bool,
}

impl Versions {
    /// Nothing is frozen yet, and nothing dirty.
    pub fn new() -> Versions {
        Versions {
            generation: 1,
            flags: Box::new([0; BUCKETS]),
            dirty: CellSet::new(),
            watched: CellSet::new(),
            written: Box::new([0; BUCKETS]),
            last: Kept::new(1),
            pinned: None,
            lost: true,
        }
    }

    /// The stamp of what is written now.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// An item is about to be added that the cell does not hold.
    pub fn added(&mut self, cell: Cell) {
        self.dirty.insert(cell);
        self.written[cell.bucket().index()] = self.generation;
    }

    /// An item with an older stamp than [`Versions::generation`] is about to be overwritten or
    /// removed; `write` encodes it as it is. Items with the present stamp need no call.
    pub fn overwritten(&mut self, cell: Cell, stamp: u32, write: impl Fn(&mut Vec<u8>)) {
        debug_assert!(stamp < self.generation);
        self.added(cell);
        let flags = self.flags[cell.bucket().index()];
        if flags & WATCHED != 0 && self.watched.contains(cell) {
            self.last.add(cell, &write);
        } else if flags & PINNED == 0 || !self.pinned_is_last() {
            self.lost = true;
        }
        if flags & PINNED != 0
            && let Some(pinned) = &mut self.pinned
            && stamp < pinned.generation
        {
            pinned.add(cell, &write);
        }
    }

    /// The generation that the pinned freeze began.
    pub fn pinned_generation(&self) -> Option<u32> {
        self.pinned.as_ref().map(|pinned| pinned.generation)
    }

    /// Whether an item with this stamp was in `view` as it is now.
    pub fn shows(&self, view: View, stamp: u32) -> bool {
        stamp < self.kept(view).generation
    }

    /// The preserved items of a bucket as they were encoded, each with the index of its cell, in no
    /// order.
    pub fn preserved(&self, view: View, bucket: Bucket) -> impl Iterator<Item = (u8, &[u8])> {
        self.kept(view).items(bucket)
    }

    /// The generation of the last write to a bucket; 0: nothing was written yet.
    pub fn written(&self, bucket: Bucket) -> u32 {
        self.written[bucket.index()]
    }

    /// Bytes of everything preserved.
    pub fn kept_bytes(&self) -> u64 {
        self.last.bytes() + self.pinned.as_ref().map_or(0, Kept::bytes)
    }

    /// Cells written since the last freeze.
    pub fn dirty(&self) -> &CellSet {
        &self.dirty
    }

    /// Whether the last freeze can no longer be seen as a whole.
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// Lets all of the last freeze go that is still kept, but for a pin of it.
    pub(super) fn release_all(&mut self) {
        for bucket in Bucket::all() {
            self.release(bucket);
        }
    }

    /// Freezes all items as they are. The `watched` cells can be seen until they are released; with
    /// `pin`, for which no pin may be left, all of them until they are unpinned.
    pub(super) fn freeze(&mut self, watched: &CellSet, pin: bool) {
        assert!(self.last.is_empty(), "the freeze before was released");
        assert!(!(pin && self.pinned.is_some()), "one pin at a time");
        self.generation = self
            .generation
            .checked_add(1)
            .expect("fewer than 2^32 checkpoints");
        self.last.generation = self.generation;
        self.lost = false;
        if pin {
            self.pinned = Some(Kept::new(self.generation));
        }
        self.dirty.clear();
        self.watched.copy_from(watched);
        for flags in self.flags.iter_mut() {
            *flags &= PINNED;
            *flags |= if pin { PINNED } else { WATCHED };
        }
    }

    /// The bucket's form at the last freeze was used; a pin keeps it nevertheless.
    pub(super) fn release(&mut self, bucket: Bucket) {
        self.flags[bucket.index()] &= !WATCHED;
        self.lost |= self.last.drop_bucket(bucket);
    }

    /// Pins the last freeze, of which nothing is lost.
    pub(super) fn pin_last(&mut self) {
        assert!(!self.lost && self.pinned.is_none());
        self.pinned = Some(std::mem::replace(
            &mut self.last,
            Kept::new(self.generation),
        ));
        for flags in self.flags.iter_mut() {
            *flags = *flags & !WATCHED | PINNED;
        }
    }

    /// Ends the pin. When it is of the last freeze, `unhashed` cells of it are still needed.
    pub(super) fn unpin(&mut self, unhashed: &CellSet) {
        let still_last = self.pinned_is_last();
        let Some(mut kept) = self.pinned.take() else {
            return;
        };
        for flags in self.flags.iter_mut() {
            *flags &= !PINNED;
        }
        if !still_last {
            return;
        }
        self.watched.copy_from(unhashed);
        for bucket in Bucket::all() {
            if unhashed.buckets().contains(bucket) {
                self.flags[bucket.index()] |= WATCHED;
            } else {
                self.lost |= kept.drop_bucket(bucket);
            }
        }
        self.last = kept;
    }

    fn pinned_is_last(&self) -> bool {
        self.pinned
            .as_ref()
            .is_some_and(|pinned| pinned.generation == self.generation)
    }

    fn kept(&self, view: View) -> &Kept {
        match (view, &self.pinned) {
            (View::Pinned, Some(pinned)) => pinned,
            (View::Pinned, None) => unreachable!("nothing is pinned"),
            (View::Last, Some(pinned)) if pinned.generation == self.generation => pinned,
            (View::Last, _) => &self.last,
        }
    }
}
