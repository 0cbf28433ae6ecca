//! The state as it was at a checkpoint, while later transactions already change it (K1, K4).
//!
//! The state is cut into the buckets of `wire::state`. Each holder of items ([`Bucketed`]: the
//! table, the client sessions) freezes all of them at once, in no time, and then preserves old
//! versions of just those items that are written while somebody may still look at the frozen
//! state: [`Versions`]. [`Checkpoints`] hashes the frozen buckets in slices between blocks, and
//! hands out their bytes to replicas that lag behind.
//!
//! The content of a cell is the length of the machine's items in bytes (u64, little-endian), these,
//! and the sessions' items. A holder's items have one order and one encoding, so the same items are
//! the same bytes on every replica.
//!
//! Costs: freezing, one bit for each cell that was written; a write, one comparison when its item was
//! written since the freeze, and once for each item up to a copy of it. Hashing reads the items of the
//! cells that were modified, of four entries each when there are four million: 0.2-0.5 us an entry
//! when the table exceeds the caches, and 3-5 us for each bucket that has such cells.

mod bucket_set;
mod cell_items;
mod cell_set;
mod checkpoints;
mod kept;
mod pins;
mod versions;

use thiserror::Error;
use wire::state::{Bucket, Cell, CellMask, CellTree, Leaf, cells};

use cell_items::{each_cell, sections};

pub use bucket_set::BucketSet;
pub use cell_items::{CellItems, join, split};
pub use cell_set::CellSet;
pub use checkpoints::{Checkpoints, InstallFailed, Tree};
pub use pins::{Hold, Pinned, Unserved};
pub use versions::{Versions, View};

/// The bytes of a bucket are not what a correct replica writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("bucket {} is malformed", bucket.number())]
pub struct Malformed {
    pub bucket: Bucket,
}

/// A holder of items that are cut into buckets, and that can be seen as they were at a freeze.
///
/// Whoever implements it embeds a [`Versions`], stamps each item with its generation when the item
/// is written, and tells it of each first write since the last freeze, before the write.
pub trait Bucketed {
    fn versions(&self) -> &Versions;

    fn versions_mut(&mut self) -> &mut Versions;

    /// Adds the items of some cells of `bucket` as `view` shows them, in their one order and encoding.
    /// A holder may read them from a disk first.
    fn write_cells(&mut self, view: View, bucket: Bucket, mask: &CellMask, out: &mut CellItems);

    /// Whether `items` are what [`Bucketed::write_cells`] could have written for this cell.
    fn check_cell(&self, cell: Cell, items: &[u8]) -> Result<(), Malformed>;

    /// Replaces what the bucket holds now by items, cell after cell, that passed
    /// [`Bucketed::check_cell`].
    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]);
}

/// All holders of the state of one replica.
pub struct Parts<'a> {
    /// None for a machine without state.
    pub machine: Option<&'a mut dyn Bucketed>,
    pub sessions: &'a mut dyn Bucketed,
}

/// The leaf of a bucket that holds nothing; it has no bytes.
pub fn empty_leaf() -> Leaf {
    CellTree::default().leaf()
}

/// Room for items on their way into a hash.
#[derive(Debug, Default)]
struct Scratch {
    machine: CellItems,
    sessions: CellItems,
    content: Vec<u8>,
}

impl Parts<'_> {
    fn each(&mut self, mut visit: impl FnMut(&mut dyn Bucketed)) {
        if let Some(machine) = &mut self.machine {
            visit(*machine);
        }
        visit(self.sessions);
    }

    fn any(&self, holds: impl Fn(&Versions) -> bool) -> bool {
        self.machine
            .as_ref()
            .is_some_and(|machine| holds(machine.versions()))
            || holds(self.sessions.versions())
    }

    /// Adds the cells that were written since the last freeze.
    fn add_dirty(&self, dirty: &mut CellSet) {
        dirty.add_all(self.sessions.versions().dirty());
        if let Some(machine) = &self.machine {
            dirty.add_all(machine.versions().dirty());
        }
    }

    /// Buckets written since the last freeze.
    fn dirty_buckets(&self) -> BucketSet {
        let mut dirty = self.sessions.versions().dirty().buckets().clone();
        if let Some(machine) = &self.machine {
            dirty.add_all(machine.versions().dirty().buckets());
        }
        dirty
    }

    /// Bytes of preserved versions.
    fn kept_bytes(&self) -> u64 {
        let machine = self.machine.as_ref();
        machine.map_or(0, |machine| machine.versions().kept_bytes())
            + self.sessions.versions().kept_bytes()
    }

    /// Reads some cells of a bucket.
    fn read_cells(&mut self, view: View, bucket: Bucket, mask: &CellMask, to: &mut Scratch) {
        to.machine.clear();
        to.sessions.clear();
        if let Some(machine) = &mut self.machine {
            machine.write_cells(view, bucket, mask, &mut to.machine);
        }
        self.sessions
            .write_cells(view, bucket, mask, &mut to.sessions);
    }

    /// Whether these are the bytes of a bucket that the holders can take.
    pub fn check_bucket(&self, bucket: Bucket, bytes: &[u8]) -> Result<(), Malformed> {
        let machine = self.machine.as_deref();
        check_bucket(machine, self.sessions, bucket, bytes)
    }

    /// `bytes` passed [`Parts::check_bucket`].
    fn replace_bucket(&mut self, bucket: Bucket, bytes: &[u8]) {
        let (machine, sessions) = split(bytes).expect("checked before");
        if let Some(holder) = &mut self.machine {
            holder.replace_bucket(bucket, machine.bytes());
        }
        self.sessions.replace_bucket(bucket, sessions.bytes());
    }
}

impl Scratch {
    /// Calls `visit` with the content of each cell that holds something.
    fn each(&mut self, visit: impl FnMut(u8, &[u8])) {
        each_cell(&self.machine, &self.sessions, &mut self.content, visit);
    }
}

/// As [`Parts::check_bucket`], for whoever only looks.
pub fn check_bucket(
    machine: Option<&dyn Bucketed>,
    sessions: &dyn Bucketed,
    bucket: Bucket,
    bytes: &[u8],
) -> Result<(), Malformed> {
    for cell in cells(bytes) {
        let (index, content) = cell.ok_or(Malformed { bucket })?;
        let (of_machine, of_sessions) = sections(content).ok_or(Malformed { bucket })?;
        let cell = Cell::new(bucket, index);
        match machine {
            Some(machine) => machine.check_cell(cell, of_machine)?,
            None if of_machine.is_empty() => {}
            None => return Err(Malformed { bucket }),
        }
        sessions.check_cell(cell, of_sessions)?;
    }
    Ok(())
}
