//! Keys and values: the [`Table`] that a state machine acts on, and the one in memory.
//!
//! Scan order is the byte order of the keys, on every replica; no order ever depends on a hash.

mod arena;
mod either;
mod index;
mod items;
mod lsm;
mod memory;
mod order;
mod resident;

use crate::state::{Bucketed, CellItems};
use wire::state::Bucket;

pub use either::EitherTable;
pub use items::read as entries;
pub use lsm::{
    AsOf, DiskFailed, DiskRun, DiskStore, Flush, LsmTable, MapRun, MapStore, Run, Store,
    write_note, write_replacement,
};
pub use memory::MemTable;

/// A table that has a copy on disk, which is brought up to date from time to time.
pub trait Flushing {
    /// Begins to flush the pinned checkpoint.
    fn flush_begin(&mut self);

    /// Appends the entries of the next bucket that has any to `piece`. False, with nothing
    /// appended, when all were handed out. The pin must last until then.
    fn flush_next(&mut self, piece: &mut Vec<u8>) -> bool;

    /// What was handed out is on disk, visible and durable: entries older than that may be dropped.
    fn flush_end(&mut self);

    /// Nothing of it became visible.
    fn flush_abort(&mut self);

    /// The copy was replaced by another state: everything that is known of the one before is
    /// forgotten. Nothing is pinned or being flushed; the caller says next how many keys there are.
    fn renew(&mut self);

    /// Bytes that entries take in memory.
    fn memory_bytes(&self) -> u64;

    /// Whether the copy was never written.
    fn is_blank(&self) -> bool;

    /// The copy as it is now.
    fn copy_as_of(&self) -> AsOf;

    /// Copies stay readable from this one on; none: the present one alone.
    fn keep_copies(&mut self, oldest: Option<AsOf>);

    /// Appends what a copy says of its state under this name (see [`write_note`]); false, with
    /// nothing appended, if there is nothing.
    fn note(&self, as_of: AsOf, name: &[u8], note: &mut Vec<u8>) -> bool;

    /// Adds the entries that a copy has of a bucket, as [`Bucketed::write_cells`] does.
    fn copied_bucket(&self, as_of: AsOf, bucket: Bucket, out: &mut CellItems);

    /// Appends how many keys each bucket has, to be remembered as a note.
    fn counts(&self, note: &mut Vec<u8>);

    /// Takes over what [`Flushing::counts`] said; for a table that was just opened. False, with
    /// nothing changed, if it cannot have said that.
    #[must_use]
    fn recount(&mut self, note: &[u8]) -> bool;

    /// Drops clean entries, of so many buckets at most, while memory holds too much. True when
    /// there is more to do.
    fn evict(&mut self, buckets: usize) -> bool;
}

/// A map from keys to values. Keys are 1 to `KEY_BYTES_MAX` bytes, values up to `VALUE_BYTES_MAX`;
/// the codec of `wire::ops` refuses longer ones, tables assert it. Its entries are part of the
/// replicated state.
pub trait Table: Bucketed {
    /// The value of a key. A table may read it from a disk first, and keep it in memory.
    fn get(&mut self, key: &[u8]) -> Option<&[u8]>;

    /// Sets the value of a key.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// The table's copy on disk; none for a table that is in memory alone.
    fn flushing(&mut self) -> Option<&mut dyn Flushing> {
        None
    }

    /// Brings the entries of keys that are used next into the cache, all at once: their misses
    /// overlap, where one operation after the other waits for each.
    fn warm(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
        let _ = keys;
    }

    /// Removes a key; returns whether it was there.
    fn delete(&mut self, key: &[u8]) -> bool;

    /// Calls `visit` with the entries of `from..to` in key order (`None`: to the end), at most
    /// `limit`, until it returns false.
    fn scan(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    );

    /// Keys held.
    fn len(&self) -> u64;

    /// Bytes of all keys and values.
    fn bytes(&self) -> u64;

    /// Whether no key is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
