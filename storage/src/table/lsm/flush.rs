//! From memory to the disk: the entries of a checkpoint that the disk lacks.
//!
//! The thread that executes hands out pieces ([`LsmTable::flush_next`]) between two blocks; another
//! one makes a [`Run`] of them ([`Flush`]). Keys are sorted within their bucket on the former, in
//! their own order on the latter.

use wire::state::{BUCKETS, Bucket};

use super::store::{self, Run, Store};
use super::{GONE, LsmTable, STORED};
use crate::state::View;
use crate::table::items;

/// A flush under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushing {
    /// What is written before this generation is flushed.
    before: u32,
    /// Bucket that comes next.
    next: usize,
}

/// An entry of a piece: one byte that says what it is, lengths and bytes as in [`items`].
const KNOWN: u8 = 0;
const NEW: u8 = 1;
const DELETED: u8 = 2;

impl<S: Store> LsmTable<S> {
    /// Begins to flush the pinned checkpoint.
    pub fn flush_begin(&mut self) {
        let before = self.versions.pinned_generation();
        let before = before.expect("the checkpoint to be flushed is pinned");
        assert!(self.flushing.is_none() && before >= self.stored);
        self.flushing = Some(Flushing { before, next: 0 });
    }

    /// Appends the entries of the next bucket that has any to `piece`. False, with nothing
    /// appended, when all were handed out. The pin must last until then.
    pub fn flush_next(&mut self, piece: &mut Vec<u8>) -> bool {
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
        self.flushing = Some(Flushing { next, ..flushing });
        piece.len() > before
    }

    /// What was handed out is on disk, visible and durable: entries older than that may be dropped.
    pub fn flush_end(&mut self) {
        let flushing = self.flushing.take().expect("a flush was begun");
        assert_eq!(flushing.next, BUCKETS, "everything was handed out");
        self.stored = flushing.before;
    }

    /// Nothing of it became visible.
    pub fn flush_abort(&mut self) {
        self.flushing = None;
    }

    fn write_changes(&mut self, bucket: Bucket, piece: &mut Vec<u8>) {
        let arena = &self.held.arena;
        let listed = self.held.listed(bucket).iter();
        let unchanged = listed
            .filter(|address| {
                let stamp = arena.stamp(**address);
                stamp >= self.stored && self.versions.shows(View::Pinned, stamp)
            })
            .map(|address| {
                let (key, value) = arena.entry(*address);
                let flags = arena.flags(*address);
                let is_known = flags & STORED != 0;
                (key, (flags & GONE == 0).then_some(value), is_known)
            });
        let preserved = self.versions.preserved(View::Pinned, bucket);
        let preserved = preserved.flat_map(items::read_versions);
        let preserved = preserved.map(|(key, version)| (key, version, false));
        let mut changes: Vec<_> = unchanged.chain(preserved).collect();
        changes.sort_unstable_by_key(|(key, ..)| *key);
        for (key, version, is_known) in changes {
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
    order: Vec<(u32, u16, bool)>,
    place: Vec<u8>,
}

impl<R: Run> Flush<R> {
    pub fn new(run: R) -> Flush<R> {
        Flush {
            run,
            keys: Vec::new(),
            order: Vec::new(),
            place: Vec::new(),
        }
    }

    /// Adds a piece; pieces come in the order in which they were handed out.
    ///
    /// # Panics
    ///
    /// If the piece is not from [`LsmTable::flush_next`].
    pub fn add(&mut self, piece: &[u8]) -> Result<(), R::Error> {
        let mut rest = piece;
        while let Some((what, after)) = rest.split_first() {
            let (key, value, after) = items::split_first(after).expect("from a flush");
            rest = after;
            store::entry_key(Bucket::of_key(key), key, &mut self.place);
            if *what == DELETED {
                self.run.delete(&self.place)?;
            } else {
                self.run.put(&self.place, value)?;
            }
            if *what != KNOWN {
                let at = u32::try_from(self.keys.len()).expect("keys of a flush fit 4 GiB");
                let appears = *what == NEW;
                self.order.push((at, key.len() as u16, appears));
                self.keys.extend_from_slice(key);
            }
        }
        Ok(())
    }

    /// All pieces were added: ends with the order of the keys and with `notes`, by ascending name.
    pub fn finish<'a>(
        mut self,
        notes: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), R::Error> {
        let keys = &self.keys;
        let key_at = |at: u32, length: u16| &keys[at as usize..][..usize::from(length)];
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
        for (name, note) in notes {
            self.run.put(&store::note_key(name), note)?;
        }
        self.run.finish()
    }
}
