//! From memory to the disk: the entries of a checkpoint that the disk lacks.
//!
//! The thread that executes hands out pieces ([`Flushing::flush_next`]) between two blocks; another
//! one makes a [`Run`] of them ([`Flush`]). Keys are sorted within their bucket on the former, in
//! their own order on the latter.

use wire::state::{BUCKETS, Bucket, Cell, CellMask};

use super::store::{self, AsOf, Run, Store};
use super::{Counts, Flushing, GONE, LsmTable, OLDEST, Resident, STORED};
use crate::state::{CellItems, CellSet, View};
use crate::table::items;

/// A flush under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// What is written before this generation is flushed.
    before: u32,
    /// Bucket that comes next.
    next: usize,
}

/// An entry of a piece: one byte that says what it is, lengths and bytes as in [`items`].
const KNOWN: u8 = 0;
const NEW: u8 = 1;
const DELETED: u8 = 2;
const NOTE: u8 = 3;
/// All entries of a bucket: its number, the bytes of its entries, and they.
const REPLACED: u8 = 4;

/// Appends to a piece that a bucket holds these entries now, cell after cell, whatever it held before.
/// Buckets ascend.
pub fn write_replacement(bucket: Bucket, items: &[u8], piece: &mut Vec<u8>) {
    piece.push(REPLACED);
    piece.extend_from_slice(&bucket.number().to_le_bytes());
    piece.extend_from_slice(&(items.len() as u64).to_le_bytes());
    piece.extend_from_slice(items);
}

/// Appends to a piece what shall be known of the state as a whole, under this name. Notes follow all
/// entries, by ascending name.
pub fn write_note(name: &[u8], note: &[u8], piece: &mut Vec<u8>) {
    piece.push(NOTE);
    items::write(name, note, piece);
}

impl<S: Store> Flushing for LsmTable<S> {
    fn flush_begin(&mut self) {
        let before = self.versions.pinned_generation();
        let before = before.expect("the checkpoint to be flushed is pinned");
        assert!(self.flushing.is_none() && before >= self.stored);
        self.flushing = Some(Progress { before, next: 0 });
    }

    fn flush_next(&mut self, piece: &mut Vec<u8>) -> bool {
        let flushing = self.flushing.expect("a flush was begun");
        let mut next = flushing.next;
        let before = piece.len();
        while next < BUCKETS && piece.len() == before {
            let bucket = Bucket::new(next as u16).expect("below the number of buckets");
            next += 1;
            if self.versions.written(bucket) >= self.stored {
                self.write_changes(bucket, piece);
            }
        }
        self.flushing = Some(Progress { next, ..flushing });
        piece.len() > before
    }

    fn flush_end(&mut self) {
        let flushing = self.flushing.take().expect("a flush was begun");
        assert_eq!(flushing.next, BUCKETS, "everything was handed out");
        self.stored = flushing.before;
        self.as_of = self.store.newest();
        self.forget_copies();
        self.unswept = BUCKETS;
    }

    fn flush_abort(&mut self) {
        self.flushing = None;
    }

    fn renew(&mut self) {
        assert!(self.flushing.is_none() && self.versions.pinned_generation().is_none());
        self.as_of = self.store.newest();
        self.forget_copies();
        self.held = Resident::new(self.seed, 0);
        self.partial = CellSet::full();
        (self.counts, self.total) = (vec![Counts::default(); BUCKETS], Counts::default());
        self.blind = vec![OLDEST; BUCKETS];
        self.stored = self.versions.generation();
        self.unswept = 0;
    }

    fn memory_bytes(&self) -> u64 {
        self.held.arena.used_bytes()
    }

    fn is_blank(&self) -> bool {
        let mut blank = true;
        self.store.range(self.as_of, &[], &[u8::MAX], &mut |_, _| {
            blank = false;
            false
        });
        blank
    }

    fn copy_as_of(&self) -> AsOf {
        self.as_of
    }

    fn keep_copies(&mut self, oldest: Option<AsOf>) {
        self.kept = oldest;
        self.forget_copies();
    }

    fn note(&self, as_of: AsOf, name: &[u8], note: &mut Vec<u8>) -> bool {
        self.store.get(as_of, &store::note_key(name), note)
    }

    fn copied_bucket(&self, as_of: AsOf, bucket: Bucket, out: &mut CellItems) {
        let (from, to) = store::bucket_bounds(bucket);
        self.store.range(as_of, &from, &to, &mut |place, value| {
            let cell = store::cell_of_entry(place);
            items::write(store::key_of_entry(place), value, out.of_cell(cell));
            true
        });
    }

    fn counts(&self, note: &mut Vec<u8>) {
        for counts in &self.counts {
            note.extend_from_slice(&counts.keys.to_le_bytes());
            note.extend_from_slice(&counts.bytes.to_le_bytes());
        }
    }

    fn recount(&mut self, note: &[u8]) -> bool {
        if note.len() != BUCKETS * size_of::<Counts>() {
            return false;
        }
        let (numbers, _) = note.as_chunks::<8>();
        let (pairs, _) = numbers.as_chunks::<2>();
        for (bucket, [keys, bytes]) in Bucket::all().zip(pairs) {
            let counts = Counts {
                keys: u64::from_le_bytes(*keys),
                bytes: u64::from_le_bytes(*bytes),
            };
            self.set_counts(bucket, counts);
        }
        true
    }

    fn evict(&mut self, buckets: usize) -> bool {
        for _ in 0..buckets {
            if self.unswept == 0 || self.memory_bytes() <= self.memory_bytes_max {
                return false;
            }
            self.unswept -= 1;
            let bucket = Bucket::new(self.hand as u16).expect("below the number of buckets");
            self.hand = (self.hand + 1) % BUCKETS;
            self.evict_bucket(bucket);
        }
        true
    }
}

impl<S: Store> LsmTable<S> {
    fn forget_copies(&self) {
        let oldest = self.kept.map_or(self.as_of, |kept| kept.min(self.as_of));
        self.store.forget_before(oldest);
    }

    fn write_changes(&mut self, bucket: Bucket, piece: &mut Vec<u8>) {
        let arena = &self.held.arena;
        let listed = self.held.listed_in(bucket, &CellMask::FULL);
        let unchanged = listed
            .filter(|(_, address)| {
                let stamp = arena.stamp(*address);
                stamp >= self.stored && self.versions.shows(View::Pinned, stamp)
            })
            .map(|(index, address)| {
                let (key, value) = arena.entry(address);
                let flags = arena.flags(address);
                let is_known = flags & STORED != 0;
                (index, key, (flags & GONE == 0).then_some(value), is_known)
            });
        let preserved = self.preserved(View::Pinned, bucket, &CellMask::FULL);
        let preserved = preserved.map(|(index, key, version)| (index, key, version, false));
        let mut changes: Vec<_> = unchanged.chain(preserved).collect();
        changes.sort_unstable_by_key(|(index, key, ..)| (*index, *key));
        for (_, key, version, is_known) in changes {
            match version {
                Some(value) => {
                    piece.push(if is_known { KNOWN } else { NEW });
                    items::write(key, value, piece);
                }
                None => {
                    piece.push(DELETED);
                    items::write(key, &[], piece);
                }
            }
        }
    }
}

/// Makes one sorted run of the pieces of a flush.
#[derive(Debug)]
pub struct Flush<R> {
    run: R,
    /// Keys that appear or vanish, one behind the other, and where each begins and ends.
    keys: Vec<u8>,
    order: Vec<(usize, u16, bool)>,
    /// The order of keys was written, and notes follow.
    ordered: bool,
    place: Vec<u8>,
}

impl<R: Run> Flush<R> {
    pub fn new(run: R) -> Flush<R> {
        Flush {
            run,
            keys: Vec::new(),
            order: Vec::new(),
            ordered: false,
            place: Vec::new(),
        }
    }

    /// Adds a piece; pieces come in the order in which they were handed out.
    ///
    /// # Panics
    ///
    /// If the piece is not from [`Flushing::flush_next`] and [`write_note`].
    pub fn add(&mut self, piece: &[u8]) -> Result<(), R::Error> {
        let mut rest = piece;
        while let Some((what, after)) = rest.split_first() {
            if *what == REPLACED {
                let (number, after) = after.split_first_chunk().expect("from a flush");
                let (length, after) = after.split_first_chunk().expect("from a flush");
                let length = u64::from_le_bytes(*length) as usize;
                let bucket = Bucket::new(u16::from_le_bytes(*number)).expect("from a flush");
                self.replace(bucket, &after[..length])?;
                rest = &after[length..];
                continue;
            }
            let (key, value, after) = items::split_first(after).expect("from a flush");
            rest = after;
            if *what == NOTE {
                self.write_order()?;
                self.run.put(&store::note_key(key), value)?;
                continue;
            }
            assert!(!self.ordered, "entries come before notes");
            store::entry_key(Cell::of_key(key), key, &mut self.place);
            if *what == DELETED {
                self.run.delete(&self.place)?;
            } else {
                self.run.put(&self.place, value)?;
            }
            if *what != KNOWN {
                self.reorder(key, *what == NEW);
            }
        }
        Ok(())
    }

    /// A key appears in the order of keys, or vanishes from it.
    fn reorder(&mut self, key: &[u8], appears: bool) {
        self.order
            .push((self.keys.len(), key.len() as u16, appears));
        self.keys.extend_from_slice(key);
    }

    fn replace(&mut self, bucket: Bucket, items: &[u8]) -> Result<(), R::Error> {
        assert!(!self.ordered, "entries come before notes");
        let mut held = Vec::new();
        let (from, to) = store::bucket_bounds(bucket);
        self.run.before(&from, &to, &mut |place, value| {
            items::write(store::key_of_entry(place), value, &mut held);
        })?;
        let placed = |(key, value)| (Cell::of_key(key), key, value);
        let mut held = items::read(&held).map(placed).peekable();
        for (cell, key, value) in items::read(items).map(placed) {
            while let Some((gone_from, gone, _)) =
                held.next_if(|(at, before, _)| (*at, *before) < (cell, key))
            {
                self.remove(gone_from, gone)?;
            }
            let before = held.next_if(|(_, before, _)| *before == key);
            if before.is_none_or(|(.., before)| before != value) {
                store::entry_key(cell, key, &mut self.place);
                self.run.put(&self.place, value)?;
            }
            if before.is_none() {
                self.reorder(key, true);
            }
        }
        for (cell, gone, _) in held {
            self.remove(cell, gone)?;
        }
        Ok(())
    }

    fn remove(&mut self, cell: Cell, key: &[u8]) -> Result<(), R::Error> {
        store::entry_key(cell, key, &mut self.place);
        self.run.delete(&self.place)?;
        self.reorder(key, false);
        Ok(())
    }

    /// All pieces were added: makes them visible and durable.
    pub fn finish(mut self) -> Result<(), R::Error> {
        self.write_order()?;
        self.run.finish()
    }

    fn write_order(&mut self) -> Result<(), R::Error> {
        if std::mem::replace(&mut self.ordered, true) {
            return Ok(());
        }
        let keys = &self.keys;
        let key_at = |at: usize, length: u16| &keys[at..][..usize::from(length)];
        self.order
            .sort_unstable_by_key(|(at, length, _)| key_at(*at, *length));
        for (at, length, appears) in &self.order {
            store::order_key(key_at(*at, *length), &mut self.place);
            if *appears {
                self.run.put(&self.place, &[])?;
            } else {
                self.run.delete(&self.place)?;
            }
        }
        (self.keys, self.order) = (Vec::new(), Vec::new());
        Ok(())
    }
}
