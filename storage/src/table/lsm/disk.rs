//! The store on a real disk: the `lsm-tree` crate, fed with sorted runs by its ingestion.
//!
//! The one place of this crate that opens files. The crate's own log, memtable and transactions stay
//! unused: the write-ahead log is the log of this store, and the table in memory its memtable. A run
//! is visible and durable at once, by the replacement of the crate's manifest: until then its tables
//! are files that nothing names, and the next open deletes them.
//!
//! Readers wait while a manifest is replaced, which flushes five files: a few milliseconds, once a
//! flush and once a compaction.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lsm_tree::{
    AbstractTree, AnyIngestion, AnyTree, Cache, Config, Guard, SeqNo, SequenceNumberCounter,
};
use thiserror::Error;

use super::store::{Run, Store};

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
        match &self.source {
            lsm_tree::Error::Io(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
            _ => true,
        }
    }
}

/// See the module's documentation. Clones are handles of one store.
#[derive(Clone)]
pub struct DiskStore {
    tree: AnyTree,
    next: SequenceNumberCounter,
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
        let tree = config.use_cache(cache).open().map_err(failed)?;
        next.fetch_max(tree.get_highest_seqno().map_or(1, |highest| highest + 1));
        Ok(DiskStore {
            tree,
            next,
            path: Arc::new(path.to_owned()),
            broken,
        })
    }

    fn failed(&self, source: lsm_tree::Error) -> DiskFailed {
        DiskFailed {
            path: PathBuf::clone(&self.path),
            source,
        }
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
    /// go on. Versions that were replaced are dropped.
    pub fn compact(&self) -> Result<(), DiskFailed> {
        let strategy = Arc::new(lsm_tree::compaction::Leveled::default());
        for _ in 0..COMPACTIONS_MAX {
            let before = self.tree.current_version().id();
            self.tree
                .compact(strategy.clone(), self.next.get())
                .map_err(|error| self.failed(error))?;
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
    fn get(&self, key: &[u8], value: &mut Vec<u8>) -> bool {
        match self.tree.get(key, NEWEST) {
            Ok(Some(found)) => {
                value.extend_from_slice(&found);
                true
            }
            Ok(None) => false,
            Err(error) => (self.broken)(self.failed(error)),
        }
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        for entry in self.tree.range(from..to, NEWEST, None) {
            match entry.into_inner() {
                Ok((key, value)) => {
                    if !visit(&key, &value) {
                        return;
                    }
                }
                Err(error) => (self.broken)(self.failed(error)),
            }
        }
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

    fn finish(self) -> Result<(), DiskFailed> {
        let finished = self.ingestion.finish();
        finished.map_err(|error| self.store.failed(error))
    }
}
