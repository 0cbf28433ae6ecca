//! Snapshot files: written beside the hot threads, found again at a start.
//!
//! A file grows under another name, is flushed, and only then gets its own; the directory is
//! flushed before anyone hears of it. So whatever has the name of a snapshot was once whole. The
//! newest two are kept: when the newest cannot be read, a log that reaches back to the older one
//! makes up for it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use platform::waker::Waker;
use replica::saving::Piece;
use storage::snapshot::SnapshotHeader;
use wire::ids::{ClusterId, NodeId, Slot};

use super::steps::{EIO, SnapshotSteps, Step, Taken};
use super::{is_no_space, sync_directory};
use crate::stages::Switch;
use crate::telemetry::Telemetry;

const SUFFIX: &str = ".snapshot";
const UNNAMED: &str = "new";
/// Files that stay.
const KEPT: usize = 2;
/// Written bytes are flushed this often, so that the last flush is short and the log's own flushes
/// find little in front of them.
const FLUSH_EVERY_BYTES: u64 = 4 << 20;
/// After each piece of 64 KiB or more: about 100 MB/s at most, so that the log is not starved.
const BREATH: Duration = Duration::from_micros(500);
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;

/// A snapshot as it lies in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    pub slot: Slot,
    pub bytes: u64,
    pub path: PathBuf,
}

impl SnapshotFile {
    /// As errors name it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Makes its bytes durable.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Its bytes, piece by piece; opened with the first.
    pub fn pieces(&self) -> Pieces {
        Pieces {
            path: self.path.clone(),
            file: None,
            ended: false,
        }
    }
}

/// Reads one file.
#[derive(Debug)]
pub struct Pieces {
    path: PathBuf,
    file: Option<File>,
    ended: bool,
}

impl Pieces {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        let mut piece = Vec::with_capacity(READ_BYTES);
        file.take(READ_BYTES as u64).read_to_end(&mut piece)?;
        Ok(piece)
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        if self.ended {
            return None;
        }
        let piece = self.read();
        self.ended = !matches!(&piece, Ok(bytes) if !bytes.is_empty());
        match piece {
            Ok(bytes) if bytes.is_empty() => None,
            piece => Some(piece),
        }
    }
}

/// Every snapshot, newest first. A directory that is not there holds none.
pub fn list(directory: &Path) -> io::Result<Vec<SnapshotFile>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let slot = name
            .to_str()
            .and_then(|name| name.strip_suffix(SUFFIX))
            .and_then(|digits| digits.parse().ok());
        if let Some(slot) = slot {
            found.push(SnapshotFile {
                slot: Slot(slot),
                bytes: entry.metadata()?.len(),
                path: entry.path(),
            });
        }
    }
    found.sort_unstable_by_key(|file| std::cmp::Reverse(file.slot));
    Ok(found)
}

/// The node of these snapshots has another id in the next epoch.
pub(super) fn give(directory: &Path, cluster: ClusterId, node: NodeId) -> io::Result<()> {
    for file in list(directory)? {
        let mut source = File::open(&file.path)?;
        let header = SnapshotHeader::read_from_front(&mut source)?;
        if header.node() == node {
            continue;
        }
        let unnamed = file.path.with_extension(UNNAMED);
        let mut target = OpenOptions::new();
        let target = target.write(true).create(true).truncate(true).mode(0o600);
        let mut target = target.open(&unnamed)?;
        let (chain, root) = (header.chain, header.root);
        let header = SnapshotHeader::new(cluster, node, header.slot(), chain, root);
        target.write_all(&header.frame())?;
        io::copy(&mut source, &mut target)?;
        target.sync_all()?;
        fs::rename(&unnamed, &file.path)?;
    }
    sync_directory(directory)
}

/// Makes the directory if an older version formatted the data directory without it, removes what a
/// process left without a name when it ended, and makes the names durable.
pub(super) fn open(directory: &Path) -> io::Result<Vec<SnapshotFile>> {
    if !directory.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        directory.parent().map_or(Ok(()), sync_directory)?;
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == UNNAMED) {
            fs::remove_file(path)?;
        }
    }
    // A name that a process gave before it ended may lie in the system's memory only, and the log
    // is soon let go behind it.
    sync_directory(directory)?;
    list(directory)
}

/// Starts the thread that writes files; `waker` is of the thread that hears the answers.
pub fn start(
    directory: PathBuf,
    telemetry: Arc<Telemetry>,
    stopped: Arc<Switch>,
    waker: Waker,
) -> io::Result<SnapshotSteps> {
    let failure = Arc::new(OnceLock::new());
    let mut keeper = Keeper {
        directory,
        file: None,
        failure: failure.clone(),
        telemetry,
    };
    let work = move |mut taken: Taken| {
        while let Some(Step { file, piece }) = taken.next(|| ()) {
            let answered = piece != Piece::Abort;
            let result = keeper.carry_out(piece);
            if answered {
                taken.answer(file, result);
            }
        }
    };
    SnapshotSteps::start("hippo-snapshots", failure, stopped, waker, work)
}

/// A file that has no name yet.
#[derive(Debug)]
struct Unnamed {
    file: File,
    slot: Slot,
    path: PathBuf,
    bytes: u64,
    unflushed: u64,
}

/// What the thread works with.
struct Keeper {
    directory: PathBuf,
    file: Option<Unnamed>,
    /// A write or a flush failed: nothing that this disk says is believed again, and the process
    /// ends.
    failure: Arc<OnceLock<String>>,
    telemetry: Arc<Telemetry>,
}

impl Keeper {
    fn carry_out(&mut self, piece: Piece) -> Result<(), i32> {
        if piece == Piece::Abort {
            self.abort();
            return Ok(());
        }
        // Of a file that failed, the other end may not have heard yet.
        let begins = matches!(piece, Piece::Begin { .. });
        if self.failure.get().is_some() || !begins && self.file.is_none() {
            return Err(EIO);
        }
        let outcome = match piece {
            Piece::Begin { slot } => self.begin(slot),
            Piece::Bytes(bytes) => self.append(&bytes),
            Piece::End => self.end(),
            Piece::Abort => Ok(()),
        };
        outcome.map_err(|error| {
            self.failed(&error);
            error.raw_os_error().unwrap_or(EIO)
        })
    }

    fn begin(&mut self, slot: Slot) -> io::Result<()> {
        self.abort();
        let path = path(&self.directory, slot).with_extension(UNNAMED);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        self.file = Some(Unnamed {
            file,
            slot,
            path,
            bytes: 0,
            unflushed: 0,
        });
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(unnamed) = &mut self.file else {
            return Ok(());
        };
        unnamed.file.write_all(bytes)?;
        unnamed.bytes += bytes.len() as u64;
        unnamed.unflushed += bytes.len() as u64;
        if unnamed.unflushed >= FLUSH_EVERY_BYTES {
            unnamed.unflushed = 0;
            unnamed.file.sync_data()?;
        }
        thread::sleep(BREATH);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(unnamed) = &self.file else {
            return Ok(());
        };
        let named = path(&self.directory, unnamed.slot);
        // The length is metadata: all of it counts.
        unnamed.file.sync_all()?;
        fs::rename(&unnamed.path, &named)?;
        sync_directory(&self.directory)?;
        let telemetry = &self.telemetry.snapshots;
        telemetry.written.add(1);
        telemetry.slot.set(unnamed.slot.0);
        telemetry.bytes.set(unnamed.bytes);
        tracing::info!(
            "snapshot of slot {} written: {} bytes in {}",
            unnamed.slot,
            unnamed.bytes,
            named.display()
        );
        self.file = None;
        // Older ones that stay cost room, and nothing else.
        let found = list(&self.directory).unwrap_or_default();
        for older in found.into_iter().skip(KEPT) {
            let _ = fs::remove_file(older.path);
        }
        Ok(())
    }

    fn abort(&mut self) {
        if let Some(unnamed) = self.file.take() {
            let _ = fs::remove_file(unnamed.path);
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.abort();
        let telemetry = &self.telemetry.snapshots;
        telemetry.failures.add(1);
        let directory = self.directory.display();
        if is_no_space(error) {
            tracing::error!(
                "no space for a snapshot in {directory}: {error}. The log is not released and \
                 grows; the next checkpoint is tried again"
            );
            return;
        }
        telemetry.given_up.set(true);
        // Without it a state that was taken over would never count, and this node stay behind.
        let _ = self.failure.set(format!(
            "cannot write a snapshot in {directory}: {error}. Nothing is tried again on a disk that \
             failed: check it, then start this node again"
        ));
    }
}

/// Where the snapshot of a slot is.
pub fn path(directory: &Path, slot: Slot) -> PathBuf {
    directory.join(format!("{:020}{SUFFIX}", slot.0))
}

#[cfg(test)]
mod tests {
    use wire::ids::{Instant, NodeId};

    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("hippo-snapshots-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn keeper(directory: &Path) -> Keeper {
        Keeper {
            directory: directory.to_owned(),
            file: None,
            failure: Arc::default(),
            telemetry: Arc::new(Telemetry::new(NodeId(1), 4, Instant(0))),
        }
    }

    fn write(keeper: &mut Keeper, slot: u64, bytes: &[u8]) -> Result<(), i32> {
        keeper.carry_out(Piece::Begin { slot: Slot(slot) })?;
        keeper.carry_out(Piece::Bytes(bytes.to_vec()))?;
        keeper.carry_out(Piece::Bytes(bytes.to_vec()))?;
        keeper.carry_out(Piece::End)
    }

    #[test]
    fn the_newest_two_are_kept_and_read_back() {
        let directory = fresh("kept");
        assert!(list(&directory).unwrap().is_empty());
        assert!(open(&directory).unwrap().is_empty());
        let mut keeper = keeper(&directory);
        for slot in [1024, 2048, 3072] {
            write(&mut keeper, slot, b"abc").unwrap();
        }
        let found = list(&directory).unwrap();
        let slots = found.iter().map(|file| (file.slot.0, file.bytes));
        assert_eq!(slots.collect::<Vec<_>>(), [(3072, 6), (2048, 6)]);
        let read = found[0].pieces().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(read, [b"abcabc".to_vec()]);
        assert_eq!(keeper.telemetry.snapshots.written.get(), 3);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_has_no_name_is_removed() {
        let directory = fresh("unnamed");
        open(&directory).unwrap();
        let mut keeper = keeper(&directory);
        keeper.carry_out(Piece::Begin { slot: Slot(8) }).unwrap();
        keeper.carry_out(Piece::Bytes(vec![1])).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert!(list(&directory).unwrap().is_empty());
        keeper.carry_out(Piece::Abort).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        keeper.carry_out(Piece::Begin { slot: Slot(9) }).unwrap();
        // As after the process has ended.
        assert!(open(&directory).unwrap().is_empty());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_first_failure_ends_it() {
        let directory = fresh("failure");
        let mut keeper = keeper(&directory);
        assert!(write(&mut keeper, 8, b"abc").is_err());
        open(&directory).unwrap();
        assert!(write(&mut keeper, 8, b"abc").is_err());
        let told = &keeper.telemetry.snapshots;
        assert_eq!((told.failures.get(), told.given_up.get()), (1, true));
        assert!(
            keeper
                .failure
                .get()
                .unwrap()
                .contains("cannot write a snapshot")
        );
        assert!(list(&directory).unwrap().is_empty());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn answers_of_a_file_that_was_given_up_are_dropped() {
        let directory = fresh("steps");
        open(&directory).unwrap();
        let stopped = Arc::new(Switch::default());
        let telemetry = Arc::new(Telemetry::new(NodeId(1), 4, Instant(0)));
        let waker = Waker::new().unwrap();
        let mut steps = super::start(directory.clone(), telemetry, stopped.clone(), waker).unwrap();
        steps.push(Piece::Begin { slot: Slot(8) });
        steps.push(Piece::Bytes(vec![1]));
        steps.push(Piece::Abort);
        steps.push(Piece::Begin { slot: Slot(9) });
        steps.push(Piece::End);
        let mut answers = Vec::new();
        for _ in 0..6000 {
            answers.extend(steps.next_answer());
            if answers.len() == 2 && steps.answers_waiting() == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        stopped.set(true);
        assert_eq!(answers, [Ok(()), Ok(())]);
        let found = list(&directory).unwrap();
        assert_eq!(found.iter().map(|f| f.slot.0).collect::<Vec<_>>(), [9]);
        fs::remove_dir_all(directory).unwrap();
    }
}
