//! The table whose entries may lie on disk.
//!
//! Memory holds what was written since the last flush, and what was read. The [`Store`] holds the
//! whole state as of a checkpoint, the *stored* one. Each cell is either whole, then memory holds
//! all its keys and the disk is not asked; or in part, then a key that memory does not hold may be
//! on disk. A table that fits into memory is whole after its cells were hashed once, and costs what
//! [`super::MemTable`] does.
//!
//! A deleted key stays as an entry that is *gone* until a flush has deleted it on disk. A put asks
//! the disk nothing, whatever it overwrites.
//!
//! What a view shows of a key (see [`Versions`]): the version that was preserved for it; else the
//! entry in memory, if it is old enough; else what is on disk. The last is right because the stored
//! checkpoint is never newer than a view: a flush writes a pinned one, and the next is pinned later.
//!
//! A flush takes the entries of the pinned checkpoint that the stored one lacks, bucket by bucket
//! ([`Flushing::flush_next`]). When they are on disk ([`Flushing::flush_end`]) everything older than
//! that checkpoint is *clean*: it may be dropped from memory ([`Flushing::evict`]).

mod disk;
mod flush;
mod manifest;
mod map;
mod store;

use wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use wire::state::{BUCKETS, Bucket, Cell, CellMask};

use super::arena::Address;
use super::index::Found;
use super::items;
use super::resident::Resident;
use super::{Flushing, Table};
use crate::state::{Bucketed, CellItems, CellSet, Malformed, Versions, View};

pub use disk::{DiskFailed, DiskRun, DiskStore};
pub use flush::{Flush, write_note, write_replacement};
pub use map::{MapRun, MapStore};
pub use store::{AsOf, Run, Store};

/// The key was deleted; the entry has no value.
const GONE: u8 = 1;
/// The stored checkpoint has the key, and a flush need not add it to the order of keys.
const STORED: u8 = 2;
/// The key was counted as new and the disk was not asked: the version that may be there is counted
/// too, until the cell is read.
const BLIND: u8 = 4;
/// Stamp of entries that came from the disk: older than every generation.
const OLDEST: u32 = 0;
/// Finding a place on disk costs about as much as reading so many bytes on.
const SEEK_BYTES: u64 = 16 * 1024;

/// One of an entry: index of its cell, key, value; `None`: gone.
type Version<'a> = (u8, &'a [u8], Option<&'a [u8]>);

/// What there is of a bucket, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    keys: u64,
    /// Of keys and values.
    bytes: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LsmTable<S> {
    held: Resident,
    seed: [u64; 2],
    versions: Versions,
    store: S,
    /// The stored checkpoint in it.
    as_of: AsOf,
    /// Older ones that others read.
    kept: Option<AsOf>,
    /// Memory may not hold all keys of these.
    partial: CellSet,
    /// Of each bucket, in memory and on disk. A key that was put without asking the disk counts as
    /// new until the cell is read.
    counts: Vec<Counts>,
    total: Counts,
    /// Generation of the last write to each bucket that did not know what it overwrote. Views that
    /// are not younger need the disk, also when the cell is whole again.
    blind: Vec<u32>,
    /// What was written before this generation is on disk.
    stored: u32,
    flushing: Option<flush::Progress>,
    /// Memory for entries above which clean ones are dropped.
    memory_bytes_max: u64,
    /// The bucket that loses its clean entries next.
    hand: usize,
    /// Buckets that may still have clean entries: all of them, when something became clean or was
    /// read.
    unswept: usize,
    /// Keys and values on their way from the disk.
    place: Vec<u8>,
    fetched: Vec<u8>,
}

impl<S: Store> LsmTable<S> {
    /// The table over an empty store. `seed` keys the hash of keys; entries in memory take up to
    /// `memory_bytes_max`, and more between two flushes if that much is written.
    pub fn new(seed: [u64; 2], store: S, memory_bytes_max: u64) -> LsmTable<S> {
        LsmTable {
            held: Resident::new(seed, 0),
            seed,
            versions: Versions::new(),
            as_of: store.newest(),
            kept: None,
            store,
            partial: CellSet::new(),
            counts: vec![Counts::default(); BUCKETS],
            total: Counts::default(),
            blind: vec![OLDEST; BUCKETS],
            stored: 1,
            flushing: None,
            memory_bytes_max,
            hand: 0,
            unswept: 0,
            place: Vec::new(),
            fetched: Vec::new(),
        }
    }

    /// The table over a store that may have a state already. How many keys that has is known after
    /// [`Flushing::recount`], or once every bucket was read.
    pub fn reopen(seed: [u64; 2], store: S, memory_bytes_max: u64) -> LsmTable<S> {
        let mut table = LsmTable::new(seed, store, memory_bytes_max);
        table.partial = CellSet::full();
        table
    }

    /// The map on disk.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Whether a key may be on disk that memory does not hold.
    fn is_partial(&self, cell: Cell) -> bool {
        !self.partial.is_empty() && self.partial.contains(cell)
    }

    fn set_counts(&mut self, bucket: Bucket, counts: Counts) {
        let before = std::mem::replace(&mut self.counts[bucket.index()], counts);
        self.total.keys = self.total.keys - before.keys + counts.keys;
        self.total.bytes = self.total.bytes - before.bytes + counts.bytes;
    }

    /// An entry of so many bytes, key and value, appears in place of one of `before` bytes; 0: of none.
    fn count(&mut self, bucket: Bucket, before: usize, now: usize) {
        let Counts { keys, bytes } = self.counts[bucket.index()];
        let counts = Counts {
            // Never below what is right, but before the state on disk was counted.
            keys: (keys + u64::from(now > 0)).saturating_sub(u64::from(before > 0)),
            bytes: (bytes + now as u64).saturating_sub(before as u64),
        };
        self.set_counts(bucket, counts);
    }

    /// Writes a key that memory does not hold, whatever is on disk.
    fn add(&mut self, found: Found, key: &[u8], value: &[u8], cell: Cell) -> Address {
        let stamp = self.versions.generation();
        self.versions.added(cell);
        if self.is_partial(cell) {
            self.blind[cell.bucket().index()] = stamp;
        }
        self.held.insert(found, key, value, cell, stamp)
    }

    fn is_gone(&self, address: Address) -> bool {
        self.held.arena.flags(address) & GONE != 0
    }

    /// An entry is about to be overwritten. Cheap when it was written since the last checkpoint.
    fn preserve(&mut self, address: Address) {
        let arena = &self.held.arena;
        let stamp = arena.stamp(address);
        if stamp != self.versions.generation() {
            let gone = arena.flags(address) & GONE != 0;
            let (key, value) = arena.entry(address);
            self.versions
                .overwritten(arena.cell(address), stamp, |out| {
                    if gone {
                        items::write_gone(key, out);
                    } else {
                        items::write(key, value, out);
                    }
                });
        }
    }

    /// Reads a key that memory does not hold into `fetched`; whether it is on disk.
    fn fetch(&mut self, cell: Cell, key: &[u8]) -> bool {
        self.fetched.clear();
        store::entry_key(cell, key, &mut self.place);
        self.store.get(self.as_of, &self.place, &mut self.fetched)
    }

    /// Versions that were preserved of entries in some cells of a bucket; `None`: gone.
    fn preserved(
        &self,
        view: View,
        bucket: Bucket,
        mask: &CellMask,
    ) -> impl Iterator<Item = Version<'_>> {
        let preserved = self.versions.preserved(view, bucket);
        let preserved = preserved.filter(|(index, _)| mask.contains(*index));
        preserved.flat_map(|(index, bytes)| {
            items::read_versions(bytes).map(move |(key, version)| (index, key, version))
        })
    }

    /// The entries of some cells of a bucket that memory holds, as `view` shows them; `None`: gone.
    fn overlay(&self, view: View, bucket: Bucket, mask: &CellMask) -> Vec<Version<'_>> {
        let arena = &self.held.arena;
        let listed = self.held.listed_in(bucket, mask);
        let unchanged = listed
            .filter(|(_, address)| self.versions.shows(view, arena.stamp(*address)))
            .map(|(index, address)| {
                let (key, value) = arena.entry(address);
                (index, key, (!self.is_gone(address)).then_some(value))
            });
        let mut overlay: Vec<_> = unchanged
            .chain(self.preserved(view, bucket, mask))
            .collect();
        overlay.sort_unstable_by_key(|(index, key, _)| (*index, *key));
        overlay
    }

    /// As [`Bucketed::write_cells`], when the disk must be asked for the `missing` ones. Makes them
    /// whole when there is room.
    fn write_partial(
        &mut self,
        view: View,
        bucket: Bucket,
        mask: &CellMask,
        missing: &CellMask,
        out: &mut CellItems,
    ) {
        let room = self.held.arena.used_bytes() < self.memory_bytes_max;
        let mut loaded = Vec::new();
        // Of keys that were counted as new and are not.
        let mut twice = Counts::default();
        let overlay = self.overlay(view, bucket, mask);
        let mut rest = overlay.iter().peekable();
        for (first, last) in self.stretches(bucket, missing) {
            let (from, to) = store::cells_bounds(bucket, first, last);
            self.store
                .range(self.as_of, &from, &to, &mut |place, value| {
                    let (index, key) = (store::cell_of_entry(place), store::key_of_entry(place));
                    if !missing.contains(index) {
                        return true;
                    }
                    let is_below = |(at, above, _): &&(u8, &[u8], _)| (*at, *above) < (index, key);
                    while let Some((at, above, version)) = rest.next_if(is_below) {
                        version
                            .iter()
                            .for_each(|value| items::write(above, value, out.of_cell(*at)));
                    }
                    match rest.next_if(|(_, same, _)| *same == key) {
                        Some((_, _, Some(newer))) => items::write(key, newer, out.of_cell(index)),
                        Some((_, _, None)) => {}
                        None => items::write(key, value, out.of_cell(index)),
                    }
                    let held = self.held.find(key).address;
                    if held == Address::NONE {
                        if room {
                            items::write(key, value, &mut loaded);
                        }
                    } else if self.held.arena.flags(held) & BLIND != 0 {
                        twice.keys += 1;
                        twice.bytes += (key.len() + value.len()) as u64;
                    }
                    true
                });
        }
        for (index, key, version) in rest {
            version
                .iter()
                .for_each(|value| items::write(key, value, out.of_cell(*index)));
        }
        self.no_longer_blind(bucket, missing, twice);
        if room {
            for (key, value) in items::read(&loaded) {
                self.keep(Cell::of_key(key), key, value);
            }
            let partial = self.partial.of(bucket);
            let still = partial.iter().filter(|index| !missing.contains(*index));
            let mut left = CellMask::EMPTY;
            still.for_each(|index| _ = left.insert(index));
            self.partial.set(bucket, left);
        }
    }

    /// Stretches of cells to be read for the missing ones: from the first to the last of each.
    fn stretches(&self, bucket: Bucket, missing: &CellMask) -> Vec<(u8, u8)> {
        let mut stretches: Vec<(u8, u8)> = Vec::new();
        for index in missing.iter() {
            match stretches.last_mut() {
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => stretches.push((index, index)),
            }
        }
        let whole = self.counts[bucket.index()].bytes;
        if let (Some((first, _)), Some((_, last))) = (stretches.first(), stretches.last())
            && stretches.len() as u64 * SEEK_BYTES > whole
        {
            stretches = vec![(*first, *last)];
        }
        stretches
    }

    /// These cells were read from the disk: it is known which keys were counted twice.
    fn no_longer_blind(&mut self, bucket: Bucket, read: &CellMask, twice: Counts) {
        let Counts { keys, bytes } = self.counts[bucket.index()];
        let counts = Counts {
            keys: keys.saturating_sub(twice.keys),
            bytes: bytes.saturating_sub(twice.bytes),
        };
        self.set_counts(bucket, counts);
        let arena = &self.held.arena;
        let listed = self.held.listed_in(bucket, read);
        let blind = listed.filter(|(_, address)| arena.flags(*address) & BLIND != 0);
        let blind: Vec<_> = blind.map(|(_, address)| address).collect();
        for address in blind {
            let flags = self.held.arena.flags(address) & !BLIND;
            self.held.arena.set_flags(address, flags);
        }
    }

    /// Calls `visit` with the entries of `from..to` in key order until it returns false.
    pub fn visit(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let arena = &self.held.arena;
        let addresses = self.held.order().from(arena, from);
        let mut held = addresses
            .map(|address| {
                let (key, value) = arena.entry(address);
                (key, (!self.is_gone(address)).then_some(value))
            })
            .take_while(|(key, _)| to.is_none_or(|to| *key < to))
            .peekable();
        let mut more = true;
        if !self.partial.is_empty() {
            let (mut place, mut fetched) = (Vec::new(), Vec::new());
            let (begin, end) = store::order_bounds(from, to);
            self.store.range(self.as_of, &begin, &end, &mut |at, _| {
                let key = store::key_of_order(at);
                while let Some((above, version)) = held.next_if(|(above, _)| *above < key) {
                    more = version.is_none_or(|value| visit(above, value));
                    if !more {
                        return false;
                    }
                }
                if let Some((_, version)) = held.next_if(|(same, _)| *same == key) {
                    more = version.is_none_or(|value| visit(key, value));
                    return more;
                }
                store::entry_key(Cell::of_key(key), key, &mut place);
                fetched.clear();
                let found = self.store.get(self.as_of, &place, &mut fetched);
                assert!(found, "a key in the order has an entry");
                more = visit(key, &fetched);
                more
            });
        }
        while more && let Some((key, version)) = held.next() {
            more = version.is_none_or(|value| visit(key, value));
        }
    }

    /// Holds an entry that was read from the disk.
    fn keep(&mut self, cell: Cell, key: &[u8], value: &[u8]) -> Address {
        let found = self.held.find(key);
        let address = self.held.insert(found, key, value, cell, OLDEST);
        self.unswept = BUCKETS;
        self.held.arena.set_flags(address, STORED);
        address
    }

    fn evict_bucket(&mut self, bucket: Bucket) {
        let mut at = self.held.listed(bucket).len();
        while let Some(before) = at.checked_sub(1) {
            at = before;
            let address = self.held.listed(bucket)[at];
            if self.held.arena.stamp(address) >= self.stored {
                continue;
            }
            let key = self.held.arena.key(address);
            let found = self.held.find(key);
            if !self.is_gone(address) {
                self.partial.insert(self.held.arena.cell(address));
            }
            self.held.remove(found);
        }
    }
}

impl<S: Store> Table for LsmTable<S> {
    fn warm(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
        self.held.warm(keys);
    }

    fn flushing(&mut self) -> Option<&mut dyn Flushing> {
        Some(self)
    }

    fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let mut address = self.held.find(key).address;
        if address == Address::NONE {
            let cell = Cell::of_key(key);
            if !self.is_partial(cell) || !self.fetch(cell, key) {
                return None;
            }
            let fetched = std::mem::take(&mut self.fetched);
            address = self.keep(cell, key, &fetched);
            self.fetched = fetched;
        }
        (!self.is_gone(address)).then(|| self.held.arena.value(address))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX);
        let found = self.held.find(key);
        let stamp = self.versions.generation();
        let bytes = key.len() + value.len();
        if found.address == Address::NONE {
            let cell = Cell::of_key(key);
            let address = self.add(found, key, value, cell);
            if self.is_partial(cell) {
                self.held.arena.set_flags(address, BLIND);
            }
            self.count(cell.bucket(), 0, bytes);
            return;
        }
        self.preserve(found.address);
        let arena = &self.held.arena;
        let flags = arena.flags(found.address);
        let (bucket, before) = (
            arena.cell(found.address).bucket(),
            arena.value(found.address).len(),
        );
        let flags = if flags & GONE != 0 {
            self.count(bucket, 0, bytes);
            // A flush may be about to delete it on disk.
            flags & BLIND
        } else {
            let is_clean = arena.stamp(found.address) < self.stored;
            self.count(bucket, key.len() + before, bytes);
            if is_clean {
                STORED | flags & BLIND
            } else {
                flags
            }
        };
        let address = self.held.overwrite(found, key, value, stamp);
        self.held.arena.set_flags(address, flags);
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        let found = self.held.find(key);
        let stamp = self.versions.generation();
        if found.address == Address::NONE {
            let cell = Cell::of_key(key);
            if !self.is_partial(cell) || !self.fetch(cell, key) {
                return false;
            }
            self.count(cell.bucket(), key.len() + self.fetched.len(), 0);
            let address = self.add(found, key, &[], cell);
            self.held.arena.set_flags(address, GONE);
        } else {
            if self.is_gone(found.address) {
                return false;
            }
            self.preserve(found.address);
            let arena = &self.held.arena;
            let bytes = key.len() + arena.value(found.address).len();
            let flags = arena.flags(found.address) & BLIND | GONE;
            self.count(arena.cell(found.address).bucket(), bytes, 0);
            let address = self.held.overwrite(found, key, &[], stamp);
            self.held.arena.set_flags(address, flags);
        }
        true
    }

    fn scan(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let mut left = limit;
        if left > 0 {
            self.visit(from, to, &mut |key, value| {
                left -= 1;
                visit(key, value) && left > 0
            });
        }
    }

    /// Where a cell is not whole, a key that was put without asking the disk counts twice until the
    /// cell is hashed.
    fn len(&self) -> u64 {
        self.total.keys
    }

    /// As [`Table::len`].
    fn bytes(&self) -> u64 {
        self.total.bytes
    }
}

impl<S: Store> Bucketed for LsmTable<S> {
    fn versions(&self) -> &Versions {
        &self.versions
    }

    fn versions_mut(&mut self) -> &mut Versions {
        &mut self.versions
    }

    fn write_cells(&mut self, view: View, bucket: Bucket, mask: &CellMask, out: &mut CellItems) {
        self.held.warm_cells(bucket, mask);
        // What is under a blind write is on disk, also when the cell is whole again.
        let is_blind = !self.versions.shows(view, self.blind[bucket.index()]);
        let partial = self.partial.of(bucket);
        let missing = if is_blind { *mask } else { mask.and(&partial) };
        if !missing.is_empty() {
            self.write_partial(view, bucket, mask, &missing, out);
            return;
        }
        let arena = &self.held.arena;
        let listed = self.held.listed_in(bucket, mask);
        let unchanged = listed
            .filter(|(_, address)| {
                self.versions.shows(view, arena.stamp(*address)) && !self.is_gone(*address)
            })
            .map(|(index, address)| (index, arena.entry(address)));
        let preserved = self.preserved(view, bucket, mask);
        let preserved =
            preserved.filter_map(|(index, key, version)| Some((index, (key, version?))));
        items::write_sorted(unchanged.chain(preserved), out);
    }

    fn check_cell(&self, cell: Cell, items: &[u8]) -> Result<(), Malformed> {
        items::check(cell, items)
    }

    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]) {
        let mut keys = Vec::new();
        if self.partial.buckets().contains(bucket) {
            let (from, to) = store::bucket_bounds(bucket);
            self.store.range(self.as_of, &from, &to, &mut |place, _| {
                keys.push(store::key_of_entry(place).to_vec());
                true
            });
        }
        let listed = self.held.listed(bucket).iter();
        keys.extend(listed.map(|address| self.held.arena.key(*address).to_vec()));
        for key in keys {
            self.delete(&key);
        }
        for at in 0..self.held.listed(bucket).len() {
            let address = self.held.listed(bucket)[at];
            let flags = self.held.arena.flags(address) & !BLIND;
            self.held.arena.set_flags(address, flags);
        }
        self.partial.set(bucket, CellMask::EMPTY);
        self.set_counts(bucket, Counts::default());
        for (key, value) in items::read(items) {
            self.put(key, value);
        }
    }
}
