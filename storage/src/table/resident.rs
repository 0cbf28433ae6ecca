//! Entries in memory: a hash index over an arena, lists by bucket, and the order of the keys.
//!
//! The order for scans does not exist until the first scan builds it. Addresses in the lists of
//! buckets are in no order.

use std::cell::OnceCell;
use std::hint::black_box;

use wire::state::{BUCKETS, Bucket, Cell, CellMask};

use super::arena::{Address, Arena};
use super::index::{Found, Index};
use super::order::Order;

/// Entries brought into the cache together: more than a core has misses under way.
const WARMED: usize = 32;

/// Entries of a bucket.
#[derive(Clone, Debug, Default)]
struct List {
    addresses: Vec<Address>,
    /// In which cell each of them is: whoever looks for a few need not touch the others.
    cells: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Resident {
    pub(super) arena: Arena,
    index: Index,
    /// Holds every key once it is built.
    order: OnceCell<Order>,
    buckets: Vec<List>,
}

impl Resident {
    /// Nothing, with room in the index for `keys`. `seed` keys the hash.
    pub(super) fn new(seed: [u64; 2], keys: usize) -> Resident {
        Resident {
            arena: Arena::new(),
            index: Index::new(seed, keys),
            order: OnceCell::new(),
            buckets: vec![List::default(); BUCKETS],
        }
    }

    /// Entries held.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes taken from the system.
    pub(super) fn allocated_bytes(&self) -> u64 {
        let order = self.order.get().map_or(0, Order::allocated_bytes);
        let lists = self.buckets.iter();
        let listed = lists
            .map(|list| list.addresses.capacity() * size_of::<Address>() + list.cells.capacity());
        let buckets = (listed.sum::<usize>() + size_of_val(&self.buckets[..])) as u64;
        self.arena.allocated_bytes() + self.index.allocated_bytes() + order + buckets
    }

    /// The address is `NONE` when the key is not held.
    pub(super) fn find(&self, key: &[u8]) -> Found {
        self.index.find(key, &self.arena)
    }

    /// The entries of a bucket.
    pub(super) fn listed(&self, bucket: Bucket) -> &[Address] {
        &self.buckets[bucket.index()].addresses
    }

    /// The entries of some cells of a bucket, each with the index of its cell.
    pub(super) fn listed_in(
        &self,
        bucket: Bucket,
        mask: &CellMask,
    ) -> impl Iterator<Item = (u8, Address)> {
        let list = &self.buckets[bucket.index()];
        let pairs = list.cells.iter().zip(&list.addresses);
        let pairs = pairs.map(|(index, address)| (*index, *address));
        pairs.filter(|(index, _)| mask.contains(*index))
    }

    pub(super) fn order(&self) -> &Order {
        self.order
            .get_or_init(|| Order::build(&self.arena, self.index.addresses()))
    }

    /// Adds a key that was just looked up and is not held.
    pub(super) fn insert(
        &mut self,
        found: Found,
        key: &[u8],
        value: &[u8],
        cell: Cell,
        stamp: u32,
    ) -> Address {
        let address = self.arena.insert(key, value, cell, stamp);
        self.index.set(found, address);
        let list = &mut self.buckets[cell.bucket().index()];
        // An address takes 32 bits, so no list is longer.
        self.arena.set_place(address, list.addresses.len() as u32);
        list.addresses.push(address);
        list.cells.push(cell.index());
        if let Some(order) = self.order.get_mut() {
            order.insert(&self.arena, address);
        }
        address
    }

    /// Replaces the value of a key that was just looked up and is held; returns where it is now.
    pub(super) fn overwrite(
        &mut self,
        found: Found,
        key: &[u8],
        value: &[u8],
        stamp: u32,
    ) -> Address {
        let from = found.address;
        if self.arena.overwrite(from, value, stamp) {
            return from;
        }
        let cell = self.arena.cell(from);
        let to = self.arena.insert(key, value, cell, stamp);
        self.arena.set_flags(to, self.arena.flags(from));
        if let Some(order) = self.order.get_mut() {
            order.relocate(&self.arena, from, to);
        }
        let place = self.arena.place(from);
        self.arena.set_place(to, place);
        self.buckets[cell.bucket().index()].addresses[place as usize] = to;
        self.arena.remove(from);
        self.index.set(found, to);
        to
    }

    /// Removes a key that was just looked up and is held.
    pub(super) fn remove(&mut self, found: Found) {
        let address = found.address;
        if let Some(order) = self.order.get_mut() {
            order.remove(&self.arena, address);
        }
        let list = &mut self.buckets[self.arena.cell(address).bucket().index()];
        let place = self.arena.place(address);
        let removed = list.addresses.swap_remove(place as usize);
        assert_eq!(removed, address, "lists agree");
        list.cells.swap_remove(place as usize);
        if let Some(moved) = list.addresses.get(place as usize) {
            self.arena.set_place(*moved, place);
        }
        self.arena.remove(address);
        self.index.remove(found);
    }

    /// See [`super::Table::warm`].
    pub(super) fn warm(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
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

    /// All misses of the entries of these cells at once, as in [`Resident::warm`].
    pub(super) fn warm_cells(&self, bucket: Bucket, mask: &CellMask) {
        let touched = self.listed_in(bucket, mask);
        let touched = touched.map(|(_, address)| self.arena.touch(address));
        black_box(touched.fold(0, |sum, byte| sum ^ byte));
    }
}
