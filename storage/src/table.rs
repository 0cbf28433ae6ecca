//! Keys and values: the [`Table`] that a state machine acts on, and the one in memory.
//!
//! Scan order is the byte order of the keys, on every replica; no order ever depends on a hash.

mod arena;
mod index;
mod items;
mod lsm;
mod memory;
mod order;
mod resident;

use crate::state::Bucketed;

pub use lsm::{Counts, DiskFailed, DiskRun, DiskStore, Flush, LsmTable, Run, Store, note_key};
pub use memory::MemTable;

/// A map from keys to values. Keys are 1 to `KEY_BYTES_MAX` bytes, values up to `VALUE_BYTES_MAX`;
/// the codec of `wire::ops` refuses longer ones, tables assert it. Its entries are part of the
/// replicated state.
pub trait Table: Bucketed {
    /// The value of a key. A table may read it from a disk first, and keep it in memory.
    fn get(&mut self, key: &[u8]) -> Option<&[u8]>;

    /// Sets the value of a key.
    fn put(&mut self, key: &[u8], value: &[u8]);

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
