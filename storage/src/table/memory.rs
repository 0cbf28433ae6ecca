//! The table in memory.
//!
//! Expected cost, 16-byte keys, 128-byte values: 30 ns of instructions a put or get, plus one cache
//! miss in the index and one or two in the arena, so 0.1-0.2 us. Measured on a 2-core VM with
//! `examples/table_cost.rs`, scattered keys: 0.09 us at 100,000 keys, 0.3-0.4 us at a million, where
//! memory answers in more than 100 ns.
//!
//! Overwriting with a value that fits keeps the entry where it is, so a fixed key set keeps its
//! memory. The order for scans does not exist until the first scan builds it (about 0.6 s for a
//! million keys); from then on a *new*, deleted or moved key costs about 1 us more, an overwrite nothing.
//! The hash index grows shard by shard; [`MemTable::with_capacity`] has the room from the start.
//!
//! Every entry knows its bucket of the state, which is hashed once, when the key is new (0.1 us),
//! and stands in the list of that bucket. Addresses in these lists are in no order.

use wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use wire::state::{Bucket, Cell, CellMask};

use super::Table;
use super::arena::Address;
use super::items;
use super::resident::Resident;
use crate::state::{Bucketed, CellItems, Malformed, Versions, View};

/// A [`Table`] in memory: hash index over an arena of entries.
#[derive(Debug)]
pub struct MemTable {
    held: Resident,
    versions: Versions,
    bytes: u64,
}

impl MemTable {
    /// An empty table. `seed` keys the hash: random in production, secret, and of no influence on
    /// anything but speed.
    pub fn new(seed: [u64; 2]) -> MemTable {
        MemTable::with_capacity(seed, 0)
    }

    /// An empty table whose index has room for `keys`.
    pub fn with_capacity(seed: [u64; 2], keys: usize) -> MemTable {
        MemTable {
            held: Resident::new(seed, keys),
            versions: Versions::new(),
            bytes: 0,
        }
    }

    /// The value of a key.
    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.held.find(key);
        (found.address != Address::NONE).then(|| self.held.arena.value(found.address))
    }

    /// Every entry, in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let arena = &self.held.arena;
        let addresses = self.held.order().from(arena, &[]);
        addresses.map(|address| arena.entry(address))
    }

    /// Bytes taken from the system.
    pub fn allocated_bytes(&self) -> u64 {
        self.held.allocated_bytes()
    }

    /// An entry is about to be overwritten or removed. Cheap when it was written since the last
    /// checkpoint.
    fn preserve(&mut self, address: Address) {
        let arena = &self.held.arena;
        let stamp = arena.stamp(address);
        if stamp != self.versions.generation() {
            let (key, value) = arena.entry(address);
            self.versions
                .overwritten(arena.cell(address), stamp, |out| {
                    items::write(key, value, out);
                });
        }
    }
}

impl Table for MemTable {
    fn warm(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
        self.held.warm(keys);
    }

    fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        self.value(key)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX);
        let found = self.held.find(key);
        let stamp = self.versions.generation();
        if found.address == Address::NONE {
            let cell = Cell::of_key(key);
            self.versions.added(cell);
            self.held.insert(found, key, value, cell, stamp);
            self.bytes += (key.len() + value.len()) as u64;
            return;
        }
        self.preserve(found.address);
        let old_bytes = self.held.arena.value(found.address).len() as u64;
        self.held.overwrite(found, key, value, stamp);
        self.bytes = self.bytes - old_bytes + value.len() as u64;
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        let found = self.held.find(key);
        if found.address == Address::NONE {
            return false;
        }
        self.preserve(found.address);
        self.bytes -= (key.len() + self.held.arena.value(found.address).len()) as u64;
        self.held.remove(found);
        true
    }

    fn scan(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let arena = &self.held.arena;
        for address in self.held.order().from(arena, from).take(limit) {
            let (key, value) = arena.entry(address);
            if to.is_some_and(|to| key >= to) || !visit(key, value) {
                return;
            }
        }
    }

    fn len(&self) -> u64 {
        self.held.len() as u64
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Bucketed for MemTable {
    fn versions(&self) -> &Versions {
        &self.versions
    }

    fn versions_mut(&mut self) -> &mut Versions {
        &mut self.versions
    }

    fn write_cells(&mut self, view: View, bucket: Bucket, mask: &CellMask, out: &mut CellItems) {
        self.held.warm_cells(bucket, mask);
        let arena = &self.held.arena;
        let listed = self.held.listed_in(bucket, mask);
        let unchanged = listed
            .filter(|(_, address)| self.versions.shows(view, arena.stamp(*address)))
            .map(|(index, address)| (index, arena.entry(address)));
        let preserved = self.versions.preserved(view, bucket);
        let preserved = preserved.filter(|(index, _)| mask.contains(*index));
        let preserved = preserved
            .flat_map(|(index, bytes)| items::read(bytes).map(move |entry| (index, entry)));
        items::write_sorted(unchanged.chain(preserved), out);
    }

    fn check_cell(&self, cell: Cell, items: &[u8]) -> Result<(), Malformed> {
        items::check(cell, items)
    }

    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]) {
        while let Some(address) = self.held.listed(bucket).last() {
            let key = self.held.arena.key(*address).to_vec();
            self.delete(&key);
        }
        for (key, value) in items::read(items) {
            self.put(key, value);
        }
    }
}
