//! Reads what lies on the disk, slowly and again and again, for damage that nobody would notice before
//! it is needed.
//!
//! Of the log, every record that a start would need; of a table on disk, every bucket against the tree
//! of its certified checkpoint. What the system's cache has is dropped first: it is the disk that is
//! judged. Damage is logged, counted and shown; a damaged log is let go early, behind a snapshot that
//! is asked for, and a damaged table is replaced by the others' at the next start.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use platform::process::yield_to_others;
use replica::flush::{CopyHead, sessions_note};
use replica::recovery::SavedUnusable;
use storage::record::Identity;
use storage::state::CellItems;
use storage::table::{DiskFailed, DiskStore};
use storage::wal::{Geometry, SegmentInfo, SegmentSource, scrub};
use wire::state::Bucket;

use crate::datadir::look::{Onlooker, SegmentFiles, TableLinks};
use crate::datadir::tables;
use crate::stages::{Shared, Switch};

/// How soon the thread sees that the node has ended.
const PAUSE: Duration = Duration::from_millis(50);
/// Damaged places that are logged in one pass.
const LOGGED_MAX: usize = 4;
/// Of blocks of the table, which are read once.
const CACHE_BYTES: u64 = 1 << 20;

/// What is read, and how fast.
pub struct Plan {
    /// The data directory.
    pub data: PathBuf,
    pub geometry: Geometry,
    pub identity: Identity,
    /// Whether there is a table on disk.
    pub has_table: bool,
    /// Bytes a second.
    pub rate: u64,
    /// From the end of one pass to the next.
    pub interval: Duration,
}

/// Starts the thread. It ends with the node.
pub fn start(plan: Plan, shared: Shared) -> io::Result<()> {
    TableLinks::remove_left(&plan.data, Onlooker::Scrub)?;
    let mut scrubber = Scrubber {
        pace: Pace {
            rate: plan.rate,
            stopped: shared.stopped.clone(),
        },
        plan,
        shared,
    };
    let thread = thread::Builder::new().name("hippo-scrub".to_owned());
    thread.spawn(move || {
        yield_to_others();
        while scrubber.pace.rest(scrubber.plan.interval) {
            scrubber.pass();
        }
    })?;
    Ok(())
}

/// Keeps to a rate.
#[derive(Clone)]
struct Pace {
    rate: u64,
    stopped: Arc<Switch>,
}

impl Pace {
    /// Waits; false when the node has ended.
    fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.stopped.get() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(PAUSE));
        }
        false
    }

    /// Waits as long as so many bytes may take.
    fn after(&self, bytes: u64) -> bool {
        self.rest(Duration::from_secs_f64(bytes as f64 / self.rate as f64))
    }
}

struct Scrubber {
    plan: Plan,
    pace: Pace,
    shared: Shared,
}

impl Scrubber {
    fn pass(&mut self) {
        self.log();
        if self.plan.has_table {
            self.table();
        }
        if !self.shared.stopped.get() {
            self.shared.telemetry.scrub.passes.add(1);
        }
    }

    fn log(&self) {
        let files = match SegmentFiles::list(&self.plan.data) {
            Ok(files) => files,
            Err(error) => return tracing::error!("scrub: the log cannot be listed: {error}"),
        };
        let mut files = Slow {
            files,
            pace: self.pace.clone(),
        };
        let scrubbed = scrub(&mut files, &self.plan.geometry, &self.plan.identity);
        if self.shared.stopped.get() {
            // Files that were not read look damaged.
            return;
        }
        let told = &self.shared.telemetry.scrub;
        told.log_bytes.set(scrubbed.bytes);
        let before = told.log_damaged.get();
        told.log_damaged.set(scrubbed.damaged);
        if scrubbed.damaged == 0 {
            return;
        }
        if scrubbed.damaged != before {
            for rot in scrubbed.rot.iter().take(LOGGED_MAX) {
                tracing::error!(
                    "scrub: the log is damaged at position {}: {}. A restart now would need other \
                     nodes for it (R5); check the disk",
                    rot.position,
                    rot.cause
                );
            }
            tracing::error!(
                "scrub: {} damaged place(s) in the log; it is let go early",
                scrubbed.damaged
            );
        }
        self.shared.log_rotten.set(true);
    }

    fn table(&self) {
        let links = match TableLinks::beside(&self.plan.data, Onlooker::Scrub) {
            Ok(Some(links)) => links,
            Ok(None) => return,
            Err(error) => return tracing::warn!("scrub: the table is not read: {error}"),
        };
        links.forget_cached();
        let (mut good, mut damaged, mut first) = (0, 0, None);
        match Copy::open(&links) {
            Err(wrong) => {
                damaged = 1;
                first = Some(wrong);
            }
            Ok(copy) => {
                for bucket in Bucket::all() {
                    match copy.bucket(bucket) {
                        Ok(bytes) => {
                            good += 1;
                            if !self.pace.after(bytes) {
                                return;
                            }
                        }
                        Err(wrong) => {
                            damaged += 1;
                            first.get_or_insert(wrong);
                        }
                    }
                }
            }
        }
        let told = &self.shared.telemetry.scrub;
        told.table_buckets.set(good);
        let before = told.table_damaged.get();
        told.table_damaged.set(damaged);
        if let Some(first) = first.filter(|_| damaged != before) {
            tables::mark(&self.plan.data);
            tracing::error!(
                "scrub: {damaged} bucket(s) of the table on disk are damaged, first: {first}. The \
                 next start sets it aside and takes the state from the others; check the disk"
            );
        }
    }
}

/// The table as it was at one moment: others go on with theirs.
struct Copy {
    store: DiskStore,
    head: CopyHead,
}

impl Copy {
    fn open(links: &TableLinks) -> Result<Copy, Wrong> {
        let store = tables::open(links.data(), CACHE_BYTES)?;
        let head = CopyHead::read(|name| Ok::<_, Wrong>(store.read_note(name)?))?;
        Ok(Copy { store, head })
    }

    /// Reads a bucket, and compares; how many bytes it has.
    fn bucket(&self, bucket: Bucket) -> Result<u64, Wrong> {
        let mut items = CellItems::new();
        self.store.read_bucket(bucket, &mut items)?;
        let noted = self.store.read_note(&sessions_note(bucket))?;
        let noted = noted.unwrap_or_default();
        let sessions = CellItems::decode(&noted).ok_or(Wrong::Other(bucket))?;
        match self.head.holds(bucket, &items, &sessions) {
            true => Ok((items.bytes().len() + noted.len()) as u64),
            false => Err(Wrong::Other(bucket)),
        }
    }
}

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Unreadable(#[from] DiskFailed),
    #[error("what it says of its state: {0}")]
    Head(#[from] SavedUnusable),
    #[error("bucket {} is not the one in the tree", .0.number())]
    Other(Bucket),
}

/// The segment files, read no faster than allowed.
struct Slow {
    files: SegmentFiles,
    pace: Pace,
}

impl SegmentSource for Slow {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.files.segments()
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if !self.pace.after(into.len() as u64) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.files.read(segment, offset, into)
    }
}
