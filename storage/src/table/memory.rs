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

use std::cell::OnceCell;
use std::hint::black_box;

use wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use wire::state::{BUCKETS, Bucket};

use super::Table;
use super::arena::{Address, Arena};
use super::index::Index;
use super::items;
use super::order::Order;
use crate::state::{Bucketed, Malformed, Versions, View};

/// A [`Table`] in memory: hash index over an arena of entries.
#[derive(Debug)]
pub struct MemTable {
    arena: Arena,
    index: Index,
    /// Holds every key once it is built.
    order: OnceCell<Order>,
    /// Entries of each bucket.
    buckets: Vec<Vec<Address>>,
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
            arena: Arena::new(),
            index: Index::new(seed, keys),
            order: OnceCell::new(),
            buckets: vec![Vec::new(); BUCKETS],
            versions: Versions::new(),
            bytes: 0,
        }
    }

    /// Bytes taken from the system.
    pub fn allocated_bytes(&self) -> u64 {
        let order = self.order.get().map_or(0, Order::allocated_bytes);
        let listed: usize = self.buckets.iter().map(Vec::capacity).sum();
        let buckets = (listed * size_of::<Address>() + size_of_val(&self.buckets[..])) as u64;
        self.arena.allocated_bytes() + self.index.allocated_bytes() + order + buckets
    }

    /// An entry is about to be overwritten or removed. Cheap when it was written since the last
    /// checkpoint.
    fn preserve(&mut self, address: Address) {
        let stamp = self.arena.stamp(address);
        if stamp != self.versions.generation() {
            let bucket = self.arena.bucket(address);
            let (key, value) = self.arena.entry(address);
            self.versions
                .overwritten(bucket, stamp, |out| items::write(key, value, out));
        }
    }

    fn list(&mut self, bucket: Bucket, address: Address) {
        let list = &mut self.buckets[bucket.index()];
        // An address takes 32 bits, so no list is longer.
        self.arena.set_place(address, list.len() as u32);
        list.push(address);
    }

    fn unlist(&mut self, address: Address) {
        let list = &mut self.buckets[self.arena.bucket(address).index()];
        let place = self.arena.place(address);
        assert_eq!(list.swap_remove(place as usize), address, "lists agree");
        if let Some(moved) = list.get(place as usize) {
            self.arena.set_place(*moved, place);
        }
    }

    fn relist(&mut self, from: Address, to: Address) {
        let place = self.arena.place(from);
        self.arena.set_place(to, place);
        self.buckets[self.arena.bucket(from).index()][place as usize] = to;
    }

    fn order(&self) -> &Order {
        self.order
            .get_or_init(|| Order::build(&self.arena, self.index.addresses()))
    }
}

/// Entries brought into the cache together: more than a core has misses under way.
const WARMED: usize = 32;

impl Table for MemTable {
    fn warm(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
        let mut tags = [0; WARMED];
        let mut addresses = [Address::NONE; WARMED];
        loop {
            let mut count = 0;
            for (tag, key) in tags.iter_mut().zip(&mut *keys) {
                *tag = self.index.hash(key);
                count += 1;
            }
            for (address, tag) in addresses.iter_mut().zip(&tags[..count]) {
                *address = self.index.home(*tag);
            }
            let touched = addresses[..count]
                .iter()
                .fold(0, |sum, address| sum ^ self.arena.touch(*address));
            black_box(touched);
            if count < WARMED {
                return;
            }
        }
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.index.find(key, &self.arena);
        (found.address != Address::NONE).then(|| self.arena.value(found.address))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        assert!(key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX);
        let found = self.index.find(key, &self.arena);
        let stamp = self.versions.generation();
        if found.address == Address::NONE {
            let bucket = Bucket::of_key(key);
            self.versions.added(bucket);
            let address = self.arena.insert(key, value, bucket, stamp);
            self.index.set(found, address);
            self.list(bucket, address);
            if let Some(order) = self.order.get_mut() {
                order.insert(&self.arena, address);
            }
            self.bytes += (key.len() + value.len()) as u64;
            return true;
        }
        self.preserve(found.address);
        let old_bytes = self.arena.value(found.address).len() as u64;
        if !self.arena.overwrite(found.address, value, stamp) {
            let bucket = self.arena.bucket(found.address);
            let address = self.arena.insert(key, value, bucket, stamp);
            if let Some(order) = self.order.get_mut() {
                order.relocate(&self.arena, found.address, address);
            }
            self.relist(found.address, address);
            self.arena.remove(found.address);
            self.index.set(found, address);
        }
        self.bytes = self.bytes - old_bytes + value.len() as u64;
        false
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        let found = self.index.find(key, &self.arena);
        if found.address == Address::NONE {
            return false;
        }
        self.preserve(found.address);
        self.bytes -= (key.len() + self.arena.value(found.address).len()) as u64;
        if let Some(order) = self.order.get_mut() {
            order.remove(&self.arena, found.address);
        }
        self.unlist(found.address);
        self.arena.remove(found.address);
        self.index.remove(found);
        true
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        for address in self.order().from(&self.arena, from).take(limit) {
            let (key, value) = self.arena.entry(address);
            if to.is_some_and(|to| key >= to) || !visit(key, value) {
                return;
            }
        }
    }

    fn len(&self) -> u64 {
        self.index.len() as u64
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

    fn write_bucket(&self, view: View, bucket: Bucket, out: &mut Vec<u8>) {
        let listed = &self.buckets[bucket.index()];
        // All misses at once, as in `warm`.
        let touched = listed.iter().map(|address| self.arena.touch(*address));
        black_box(touched.fold(0, |sum, byte| sum ^ byte));
        let unchanged = listed
            .iter()
            .filter(|address| self.versions.shows(view, self.arena.stamp(**address)))
            .map(|address| self.arena.entry(*address));
        let preserved = self.versions.preserved(view, bucket);
        let preserved = preserved.flat_map(items::read);
        items::write_sorted(unchanged.chain(preserved), out);
    }

    fn check_bucket(&self, bucket: Bucket, items: &[u8]) -> Result<(), Malformed> {
        if items::are_canonical(bucket, items) {
            Ok(())
        } else {
            Err(Malformed { bucket })
        }
    }

    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]) {
        while let Some(address) = self.buckets[bucket.index()].last() {
            let key = self.arena.key(*address).to_vec();
            self.delete(&key);
        }
        for (key, value) in items::read(items) {
            self.put(key, value);
        }
    }
}
