//! The store on a real disk: the `lsm-tree` crate, fed with sorted runs by its ingestion.
//!
//! The one place of this crate that opens files. The crate's own log, memtable and transactions stay
//! unused: the write-ahead log is the log of this store, and the table in memory its memtable. A run
//! is visible and durable at once, by the replacement of the crate's manifest: until then its tables
//! are files that nothing names, and the next open deletes them.
//!
//! Readers wait while a manifest is replaced, which flushes five files: a few milliseconds, once a
//! flush and once a compaction.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use lsm_tree::{
    AbstractTree, AnyIngestion, AnyTree, Cache, Config, Guard, SeqNo, SequenceNumberCounter,
    UserValue,
};
use thiserror::Error;
use wire::state::{Bucket, Cell};

use super::manifest;
use super::store::{self, AsOf, Run, Store};
use crate::state::CellItems;
use crate::table::items;

/// Sees every version: above all sequence numbers, whose highest bit the crate reserves.
const NEWEST: SeqNo = SeqNo::MAX >> 1;
/// Compactions after one run at most; what is left comes after the next.
const COMPACTIONS_MAX: usize = 16;

/// The files of the table cannot be read or written.
#[derive(Debug, Error)]
#[error("the table in {path}: {source}")]
pub struct DiskFailed {
    path: PathBuf,
    source: lsm_tree::Error,
}

impl DiskFailed {
    /// Whether what is on disk is not what was written, where a read or write that failed may be a
    /// matter of the device, of rights or of space.
    pub fn is_damage(&self) -> bool {
        let kinds = [io::ErrorKind::UnexpectedEof, io::ErrorKind::NotFound];
        self.io_error()
            .is_none_or(|error| kinds.contains(&error.kind()))
    }

    /// The directory of the table.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same of a table that is known as another one.
    pub fn called(self, path: &Path) -> DiskFailed {
        DiskFailed {
            path: path.to_owned(),
            ..self
        }
    }

    /// What the system said, if it was the system.
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.source {
            lsm_tree::Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// As of which sequence number the crate shows what there was after a run.
#[derive(Debug)]
struct Runs {
    /// Ascending; those that may still be read.
    shown: Mutex<Vec<(AsOf, SeqNo)>>,
    /// Held while a run becomes visible, and while a merge is told from one.
    finishing: Mutex<()>,
}

impl Runs {
    fn new(seqno: SeqNo) -> Runs {
        Runs {
            shown: Mutex::new(vec![(AsOf(0), seqno)]),
            finishing: Mutex::new(()),
        }
    }

    fn with<T>(&self, visit: impl FnOnce(&mut Vec<(AsOf, SeqNo)>) -> T) -> T {
        visit(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn newest(&self) -> AsOf {
        self.with(|shown| shown.last().expect("the newest stays").0)
    }

    fn seqno(&self, as_of: AsOf) -> SeqNo {
        let found = self.with(|shown| shown.iter().find(|(run, _)| *run == as_of).copied());
        found.expect("nobody reads as of a run that was let go").1
    }

    fn oldest_seqno(&self) -> SeqNo {
        self.with(|shown| shown[0].1)
    }

    fn forget_before(&self, oldest: AsOf) {
        self.with(|shown| shown.retain(|(run, _)| *run >= oldest));
    }

    /// `finish` makes a run visible; `next` then tells the sequence number that shows it.
    fn finished<E>(
        &self,
        finish: impl FnOnce() -> Result<(), E>,
        next: impl FnOnce() -> SeqNo,
    ) -> Result<(), E> {
        let _guard = self
            .finishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        finish()?;
        let AsOf(before) = self.newest();
        self.with(|shown| shown.push((AsOf(before + 1), next())));
        Ok(())
    }

    /// What the newest run shows lies in other tables now: the older ones need not stay for it.
    fn merged(&self, next: impl FnOnce() -> SeqNo) {
        let _guard = self
            .finishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let seqno = next();
        self.with(|shown| shown.last_mut().expect("the newest stays").1 = seqno);
    }
}

/// See the module's documentation. Clones are handles of one store.
#[derive(Clone)]
pub struct DiskStore {
    tree: AnyTree,
    next: SequenceNumberCounter,
    runs: Arc<Runs>,
    path: Arc<PathBuf>,
    broken: fn(DiskFailed) -> !,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DiskStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the store in a directory, which is created if it is absent. Blocks that were read take
    /// `cache_bytes` of memory at most; `broken` ends the process when a read fails.
    pub fn open(
        path: &Path,
        cache_bytes: u64,
        broken: fn(DiskFailed) -> !,
    ) -> Result<DiskStore, DiskFailed> {
        let next = SequenceNumberCounter::default();
        let cache = Arc::new(Cache::with_capacity_bytes(cache_bytes));
        let config = Config::new(path, next.clone(), SequenceNumberCounter::default());
        let failed = |source| DiskFailed {
            path: path.to_owned(),
            source,
        };
        manifest::check(path).map_err(failed)?;
        let tree = config.use_cache(cache).open().map_err(failed)?;
        next.fetch_max(tree.get_highest_seqno().map_or(1, |highest| highest + 1));
        let runs = Arc::new(Runs::new(next.get()));
        Ok(DiskStore {
            tree,
            next,
            runs,
            path: Arc::new(path.to_owned()),
            broken,
        })
    }

    /// The same store, which errors name so.
    pub fn called(self, path: &Path) -> DiskStore {
        DiskStore {
            path: Arc::new(path.to_owned()),
            ..self
        }
    }

    fn failed(&self, source: lsm_tree::Error) -> DiskFailed {
        DiskFailed {
            path: PathBuf::clone(&self.path),
            source,
        }
    }

    /// The value at a place.
    fn read(&self, as_of: SeqNo, place: &[u8]) -> Result<Option<UserValue>, DiskFailed> {
        let read = self.tree.get(place, as_of);
        read.map_err(|error| self.failed(error))
    }

    fn read_range(
        &self,
        as_of: SeqNo,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskFailed> {
        for entry in self.tree.range(from..to, as_of, None) {
            let (key, value) = entry.into_inner().map_err(|error| self.failed(error))?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// What the last run noted under a name (see [`write_note`](super::write_note)).
    pub fn read_note(&self, name: &[u8]) -> Result<Option<Vec<u8>>, DiskFailed> {
        let note = self.read(NEWEST, &store::note_key(name))?;
        Ok(note.map(|note| note.to_vec()))
    }

    /// Adds the entries of a bucket as [`Bucketed::write_cells`](crate::state::Bucketed) does.
    pub fn read_bucket(&self, bucket: Bucket, items: &mut CellItems) -> Result<(), DiskFailed> {
        let (from, to) = store::bucket_bounds(bucket);
        self.read_range(NEWEST, &from, &to, &mut |place, value| {
            let cell = store::cell_of_entry(place);
            items::write(store::key_of_entry(place), value, items.of_cell(cell));
            true
        })
    }

    /// Whether a key has an entry.
    pub fn has_entry(&self, key: &[u8]) -> Result<bool, DiskFailed> {
        let mut place = Vec::new();
        store::entry_key(Cell::of_key(key), key, &mut place);
        Ok(self.read(NEWEST, &place)?.is_some())
    }

    /// Calls `visit` with every key in the order of keys, until it returns false.
    pub fn read_keys(&self, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), DiskFailed> {
        let (from, to) = store::order_bounds(&[], None);
        self.read_range(NEWEST, &from, &to, &mut |place, _| {
            visit(store::key_of_order(place))
        })
    }

    /// Begins a run. One at a time; reads go on.
    pub fn run(&self) -> Result<DiskRun<'_>, DiskFailed> {
        let ingestion = self.tree.ingestion().map_err(|error| self.failed(error))?;
        Ok(DiskRun {
            ingestion,
            store: self,
        })
    }

    /// Merges tables as long as there is something to gain, for a thread of its own: reads and runs
    /// go on. Values that were replaced are dropped when nobody reads as of a time that shows them.
    pub fn compact(&self) -> Result<(), DiskFailed> {
        let strategy = Arc::new(lsm_tree::compaction::Leveled::default());
        for _ in 0..COMPACTIONS_MAX {
            let before = self.tree.current_version().id();
            self.tree
                .compact(strategy.clone(), self.runs.oldest_seqno())
                .map_err(|error| self.failed(error))?;
            self.runs.merged(|| self.next.get());
            if self.tree.current_version().id() == before {
                break;
            }
        }
        Ok(())
    }

    /// Bytes of all tables on disk.
    pub fn bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    /// Tables on disk, and sorted runs that wait to be merged.
    pub fn tables(&self) -> (usize, usize) {
        (self.tree.table_count(), self.tree.l0_run_count())
    }
}

impl Store for DiskStore {
    fn newest(&self) -> AsOf {
        self.runs.newest()
    }

    fn get(&self, as_of: AsOf, key: &[u8], value: &mut Vec<u8>) -> bool {
        let found = self.read(self.runs.seqno(as_of), key);
        let found = found.unwrap_or_else(|error| (self.broken)(error));
        found.iter().for_each(|held| value.extend_from_slice(held));
        found.is_some()
    }

    fn range(
        &self,
        as_of: AsOf,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let read = self.read_range(self.runs.seqno(as_of), from, to, visit);
        read.unwrap_or_else(|error| (self.broken)(error));
    }

    fn forget_before(&self, oldest: AsOf) {
        self.runs.forget_before(oldest);
    }
}

/// A run that becomes visible and durable when it is finished.
pub struct DiskRun<'a> {
    ingestion: AnyIngestion<'a>,
    store: &'a DiskStore,
}

impl fmt::Debug for DiskRun<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DiskRun").finish_non_exhaustive()
    }
}

impl Run for DiskRun<'_> {
    type Error = DiskFailed;

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), DiskFailed> {
        let written = self.ingestion.write(key, value);
        written.map_err(|error| self.store.failed(error))
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), DiskFailed> {
        let written = self.ingestion.write_tombstone(key);
        written.map_err(|error| self.store.failed(error))
    }

    fn before(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), DiskFailed> {
        self.store.read_range(NEWEST, from, to, &mut |key, value| {
            visit(key, value);
            true
        })
    }

    fn finish(self) -> Result<(), DiskFailed> {
        let DiskRun { ingestion, store } = self;
        let finished = store
            .runs
            .finished(|| ingestion.finish(), || store.next.get());
        finished.map_err(|error| store.failed(error))
    }
}
