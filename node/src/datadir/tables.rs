//! The table on disk: opened at a start, brought up to date beside the hot threads.
//!
//! One thread writes a run of what the table hands out, and makes it visible and durable; another
//! one merges runs. Neither is pinned, and nobody waits for either but the log, which is let go
//! behind a finished run.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use platform::process::yield_to_others;
use platform::waker::Waker;
use replica::saving::Piece;
use storage::table::{DiskFailed, DiskStore, Flush};
use wire::ids::Slot;

use super::steps::{EIO, SnapshotSteps, Step, Taken};
use super::{is_no_space, sync_directory};
use crate::exit::{Exit, Refusal};
use crate::stages::Switch;
use crate::telemetry::Telemetry;

pub(super) const TABLE: &str = "table";
const ASIDE: &str = "table.old";
/// Where the crate keeps the files with entries, below the table's directory.
const ENTRIES: &str = "tables";
/// Files that grow are flushed when so much was written, so that the last flush is short and the
/// log's own flushes find little in front of them.
const FLUSH_EVERY_BYTES: usize = 4 << 20;
/// Runs that wait to be merged at most.
const RUNS_MAX: usize = 32;
/// After each piece of 64 KiB or more: about 100 MB/s at most, so that the log is not starved.
const BREATH: Duration = Duration::from_micros(500);
/// How soon a thread sees that the node has ended.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the table of a data directory is.
pub fn table_path(data: &Path) -> PathBuf {
    data.join(TABLE)
}

/// Opens the table of a data directory, or makes it. Blocks that were read take `cache_bytes` of
/// memory at most. A read that fails later ends the process.
pub fn open(data: &Path, cache_bytes: u64) -> Result<DiskStore, DiskFailed> {
    let store = DiskStore::open(&table_path(data), cache_bytes, broken)?;
    // Its name, if it was made just now; the crate has flushed what is below.
    let _ = sync_directory(data);
    Ok(store)
}

/// Whether a process found the table damaged.
pub fn is_marked(data: &Path) -> bool {
    mark_of(&table_path(data)).exists()
}

/// Says that the table is damaged: the next start asks others for the state.
pub fn mark(data: &Path) {
    let _ = File::create(mark_of(&table_path(data)));
}

/// The mark of a damaged table, beside it.
fn mark_of(table: &Path) -> PathBuf {
    table.with_extension("damaged")
}

/// Gives the table of a data directory another name, in place of one that had it before; returns it.
pub fn set_aside(data: &Path) -> io::Result<PathBuf> {
    let (table, aside) = (table_path(data), data.join(ASIDE));
    remove(fs::remove_dir_all(&aside))?;
    fs::rename(&table, &aside)?;
    remove(fs::remove_file(mark_of(&table)))?;
    sync_directory(data)?;
    Ok(aside)
}

/// What is not there need not be removed.
fn remove(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// How a program ends that needs a table which cannot be opened.
pub fn refusal(error: &DiskFailed) -> Refusal {
    Refusal::new(exit_of(error), error.to_string())
}

fn exit_of(error: &DiskFailed) -> Exit {
    match error.is_damage() {
        true => Exit::Damaged,
        false => Exit::Failure,
    }
}

/// The table cannot be read: no answer can be given, and nothing be executed.
fn broken(error: DiskFailed) -> ! {
    if error.is_damage() {
        // The next start asks others for the state.
        let _ = File::create(mark_of(error.path()));
    }
    // Whether a log is listened to or not.
    tracing::error!("the table cannot be read, and this process ends: {error}");
    eprintln!("hippo: the table cannot be read: {error}");
    std::process::exit(exit_of(&error) as i32)
}

/// Starts the threads that write to the table; `waker` is of the thread that hears the answers.
pub fn start(
    store: DiskStore,
    data: &Path,
    telemetry: Arc<Telemetry>,
    stopped: Arc<Switch>,
    waker: Waker,
) -> io::Result<SnapshotSteps> {
    let failure = Arc::new(OnceLock::new());
    let failures = Failures {
        directory: table_path(data),
        failure: failure.clone(),
        telemetry: telemetry.clone(),
    };
    publish(&store, &telemetry);
    let mut keeper = Keeper {
        growing: Growing::in_directory(table_path(data).join(ENTRIES)),
        merger: Merger::start(store.clone(), failures.clone(), stopped.clone())?,
        failures,
        stopped: stopped.clone(),
        unflushed: 0,
    };
    let work = move |mut taken: Taken| keeper.work(&store, &mut taken);
    SnapshotSteps::start("hippo-table", failure, stopped, waker, work)
}

fn publish(store: &DiskStore, telemetry: &Telemetry) {
    let told = &telemetry.table;
    let (tables, runs) = store.tables();
    told.disk_bytes.set(store.bytes());
    told.tables.set(tables as u64);
    told.runs.set(runs as u64);
}

/// Where to say that a write or a flush failed.
#[derive(Clone)]
struct Failures {
    directory: PathBuf,
    /// Nothing that this disk says is believed again, and the process ends.
    failure: Arc<OnceLock<String>>,
    telemetry: Arc<Telemetry>,
}

impl Failures {
    /// The error as a number of the system.
    fn tell(&self, error: &DiskFailed) -> i32 {
        let said = error.io_error();
        self.telemetry.snapshots.failures.add(1);
        if said.is_some_and(is_no_space) {
            tracing::error!(
                "no space for the table: {error}. The log is not released and grows; the next \
                 checkpoint is tried again"
            );
        } else {
            self.give_up(error);
        }
        said.and_then(io::Error::raw_os_error).unwrap_or(EIO)
    }

    fn give_up(&self, error: &impl std::fmt::Display) {
        self.telemetry.snapshots.given_up.set(true);
        let _ = self.failure.set(format!(
            "cannot write the table in {}: {error}. Nothing is tried again on a disk that failed: \
             check it, then start this node again",
            self.directory.display()
        ));
    }
}

/// Merges runs, in a thread of its own.
struct Merger {
    thread: Thread,
    shared: Arc<Merging>,
}

#[derive(Default)]
struct Merging {
    wanted: AtomicBool,
    under_way: AtomicBool,
}

impl Merger {
    fn start(store: DiskStore, failures: Failures, stopped: Arc<Switch>) -> io::Result<Merger> {
        let shared = Arc::new(Merging::default());
        let merging = shared.clone();
        let work = move || {
            yield_to_others();
            while !stopped.get() {
                if !merging.wanted.swap(false, Ordering::Relaxed) {
                    thread::park_timeout(PAUSE);
                    continue;
                }
                merging.under_way.store(true, Ordering::Relaxed);
                match store.compact() {
                    Ok(()) => publish(&store, &failures.telemetry),
                    Err(error) => {
                        failures.tell(&error);
                    }
                }
                merging.under_way.store(false, Ordering::Relaxed);
            }
        };
        let thread = thread::Builder::new().name("hippo-merge".to_owned());
        let thread = thread.spawn(work)?.thread().clone();
        let merger = Merger { thread, shared };
        // What an earlier process left unmerged.
        merger.merge();
        Ok(merger)
    }

    fn merge(&self) {
        self.shared.wanted.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }

    fn is_merging(&self) -> bool {
        self.shared.under_way.load(Ordering::Relaxed)
    }
}

/// Files that are written by somebody else, and how far they were flushed.
struct Growing {
    directory: PathBuf,
    flushed: HashMap<OsString, u64>,
}

impl Growing {
    /// What is there already is on disk.
    fn in_directory(directory: PathBuf) -> Growing {
        let mut growing = Growing {
            directory,
            flushed: HashMap::new(),
        };
        let _ = growing.each(|_| Ok(()));
        growing
    }

    /// Flushes what was added since the last call.
    fn flush(&mut self) -> io::Result<()> {
        self.each(|path| match File::open(path) {
            // It was merged into another one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            file => file?.sync_data(),
        })
    }

    /// Calls `visit` for each file that has grown.
    fn each(&mut self, mut visit: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.flushed);
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let (name, bytes) = (entry.file_name(), metadata.len());
            if before.remove(&name) != Some(bytes) {
                visit(&entry.path())?;
            }
            self.flushed.insert(name, bytes);
        }
        Ok(())
    }
}

/// What the thread that writes runs works with.
struct Keeper {
    growing: Growing,
    merger: Merger,
    failures: Failures,
    stopped: Arc<Switch>,
    /// Bytes handed over since files were flushed.
    unflushed: usize,
}

impl Keeper {
    fn work(&mut self, store: &DiskStore, taken: &mut Taken) {
        while let Some(Step { file, piece }) = self.next(taken) {
            match piece {
                Piece::Begin { slot } => {
                    let result = self.write(store, slot, file, taken);
                    let result = result.map_err(|error| self.failures.tell(&error));
                    if !matches!(result, Ok(false)) {
                        taken.answer(file, result.map(|_| ()));
                    }
                }
                // Of a run that failed, the other end may not have heard yet.
                Piece::Bytes(_) | Piece::End => taken.answer(file, Err(EIO)),
                Piece::Abort => {}
            }
        }
    }

    fn next(&mut self, taken: &mut Taken) -> Option<Step> {
        let (growing, merger, failures) = (&mut self.growing, &self.merger, &self.failures);
        taken.next(|| {
            if merger.is_merging()
                && let Err(error) = growing.flush()
            {
                failures.give_up(&error);
            }
        })
    }

    /// Writes one run, and answers all of its steps but the last. False if it was given up.
    fn write(
        &mut self,
        store: &DiskStore,
        slot: Slot,
        file: u64,
        taken: &mut Taken,
    ) -> Result<bool, DiskFailed> {
        self.wait_for_merges(store);
        let mut flush = Flush::new(store.run()?);
        taken.answer(file, Ok(()));
        while let Some(Step { piece, .. }) = self.next(taken) {
            match piece {
                Piece::Bytes(bytes) => {
                    flush.add(&bytes)?;
                    self.breathe(bytes.len());
                    taken.answer(file, Ok(()));
                }
                Piece::End => {
                    let begun = Instant::now();
                    flush.finish()?;
                    publish(store, &self.failures.telemetry);
                    self.merger.merge();
                    let told = &self.failures.telemetry.snapshots;
                    told.written.add(1);
                    told.slot.set(slot.0);
                    told.bytes.set(store.bytes());
                    tracing::info!(
                        "table brought up to slot {slot}: {} bytes, ended in {:?}",
                        store.bytes(),
                        begun.elapsed()
                    );
                    return Ok(true);
                }
                Piece::Abort => break,
                Piece::Begin { .. } => unreachable!("one run is under way"),
            }
        }
        Ok(false)
    }

    /// A table of too many runs is slow to read: the log waits, and then its clients.
    fn wait_for_merges(&self, store: &DiskStore) {
        while store.tables().1 >= RUNS_MAX && !self.stopped.get() {
            self.merger.merge();
            thread::sleep(PAUSE);
        }
    }

    fn breathe(&mut self, bytes: usize) {
        self.unflushed += bytes;
        if self.unflushed >= FLUSH_EVERY_BYTES {
            self.unflushed = 0;
            if let Err(error) = self.growing.flush() {
                self.failures.give_up(&error);
            }
        }
        thread::sleep(BREATH);
    }
}
