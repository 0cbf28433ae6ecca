//! The data directory of one node: made once by [`format`], opened at each start by [`open`].
//!
//! ```text
//! data/LOCK            held while a process uses the directory; holds its process id
//!      superblock.a    two copies: cluster, node, key, committee, log geometry
//!      superblock.b
//!      wal/00000000.segment ...   preallocated and zeroed
//!      snapshots/*.snapshot       the state at a checkpoint, named by its slot
//!      table/                     or all of it here, when storage.table is disk
//!      epochs/*.link              what led from one committee to the next
//! ```
//!
//! Nothing here interprets the log. A start never formats, and a refused start changes nothing.

mod epochs;
pub mod look;
mod segments;
pub mod snapshots;
mod steps;
pub mod tables;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage::record::LogId;
use storage::superblock::{Expected, Superblock, SuperblockError, Twin};
use storage::wal::SegmentInfo;
use wire::ids::{Digest, Epoch};

use crate::config::value::show_bytes;
use crate::exit::{Exit, ExitContext, Refusal};
use crate::keyfile;
pub use segments::{MakerState, SegmentMaker, make_segment, segment_path};
pub use snapshots::{SnapshotFile, list as list_snapshots, path as snapshot_path};
pub use steps::SnapshotSteps;

const COPIES: [(Twin, &str); 2] = [(Twin::A, "superblock.a"), (Twin::B, "superblock.b")];
const WAL: &str = "wal";
const SNAPSHOTS: &str = "snapshots";
const LOCK: &str = "LOCK";

/// An open data directory. The lock is held until this is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    pub path: PathBuf,
    pub superblock: Superblock,
    /// Every segment file with its size, ascending by index.
    pub segments: Vec<SegmentInfo>,
    /// Newest first.
    pub snapshots: Vec<SnapshotFile>,
    _lock: File,
}

impl DataDirectory {
    /// Where a segment file is, whether it exists or not.
    pub fn segment_path(&self, index: u32) -> PathBuf {
        segment_path(&self.wal_path(), index)
    }

    /// The directory of the segment files.
    pub fn wal_path(&self) -> PathBuf {
        self.path.join(WAL)
    }

    /// The directory of the flight recordings.
    pub fn recordings_path(&self) -> PathBuf {
        self.path.join("recordings")
    }

    /// The directory of the snapshots.
    pub fn snapshots_path(&self) -> PathBuf {
        snapshots_path(&self.path)
    }

    /// Starts the thread that makes segment files ahead of need.
    pub fn segment_maker(&self) -> io::Result<SegmentMaker> {
        SegmentMaker::start(
            self.wal_path(),
            self.superblock.geometry,
            self.segments.len() as u32,
        )
    }
}

/// Where the snapshots of a data directory are.
pub fn snapshots_path(data: &Path) -> PathBuf {
    data.join(SNAPSHOTS)
}

/// Makes a data directory; refuses one that exists and is not empty. `progress` is called with
/// the bytes that each step zeroed.
pub fn format(
    path: &Path,
    superblock: &Superblock,
    segments: u32,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), Refusal> {
    let shown = path.display();
    superblock
        .geometry
        .check()
        .or_exit(Exit::Usage, "cannot format")?;
    if let Ok(mut entries) = fs::read_dir(path)
        && entries.next().is_some()
    {
        return Err(Refusal::preflight(format!(
            "{shown} exists and is not empty; formatting never overwrites. Choose another \
             directory, or remove it if its node is never to return"
        )));
    }
    let failed = || format!("cannot make the data directory {shown}");
    let wal = path.join(WAL);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&wal)
        .or_exit(Exit::Failure, failed())?;
    for index in 0..segments {
        make_segment(
            &wal,
            index,
            superblock.geometry.segment_bytes,
            Duration::ZERO,
        )
        .or_exit(Exit::Failure, failed())?;
        progress(superblock.geometry.segment_bytes);
    }
    snapshots::open(&snapshots_path(path)).or_exit(Exit::Failure, failed())?;
    File::create(path.join(LOCK)).or_exit(Exit::Failure, failed())?;
    // Last: a directory without a superblock is not formatted, whatever else it holds.
    for (_, name) in COPIES {
        write_copy(path, name, superblock).or_exit(Exit::Failure, failed())?;
    }
    sync_directory(path).or_exit(Exit::Failure, failed())
}

/// Goes over to the log of the committee of a later epoch, or ends what an earlier process began of that:
/// under this key nothing was said in that epoch yet. The directory may now belong to another id.
pub fn go_over(
    path: &Path,
    expected: &Expected,
    (epoch, committee): (Epoch, Digest),
    segments: u32,
) -> Result<(), Refusal> {
    let failed = || format!("{}: cannot go over to the next epoch", path.display());
    let copies = COPIES.map(|(_, name)| read_copy(path, name).unwrap_or_default());
    // Whatever is wrong with it, the opening says so.
    let Ok(loaded) = Superblock::load(&copies[0], &copies[1]) else {
        return Ok(());
    };
    let before = loaded.superblock;
    let is_of_us = (before.cluster, before.public_key) == (expected.cluster, expected.public_key);
    // Links lead here, or the operator's committee file does, and never back.
    let is_earlier = is_of_us && before.committee != committee && before.epoch < epoch;
    if !is_earlier && !epochs::is_begun(path) {
        return Ok(());
    }
    let _lock = take_lock(path)?;
    if !is_earlier {
        return epochs::finish(path, &before).or_exit(Exit::Failure, failed());
    }
    let mut log = LogId([0; 16]);
    let entropy = keyfile::entropy().or_exit(Exit::Failure, "cannot read /dev/urandom")?;
    log.0.copy_from_slice(&entropy[..16]);
    let next = Superblock {
        sequence: before.sequence + 1,
        node: expected.node,
        epoch,
        committee,
        log,
        ..before
    };
    if next.node != before.node {
        snapshots::give(&snapshots_path(path), next.cluster, next.node)
            .or_exit(Exit::Failure, failed())?;
    }
    epochs::begin_log(path, &next, segments).or_exit(Exit::Failure, failed())?;
    tracing::info!(
        "the log of the next epoch begins; this is now node {}",
        next.node
    );
    Ok(())
}

/// Opens a directory for a start: takes the lock and checks whose it is. `segments_max` above the
/// formatted number is taken over; everything else that differs is refused.
pub fn open(
    path: &Path,
    expected: &Expected,
    committee: Digest,
    segment_bytes: u64,
    segments_max: u32,
) -> Result<DataDirectory, Refusal> {
    let shown = path.display();
    if !path.is_dir() {
        return Err(Refusal::preflight(format!(
            "data directory {shown} does not exist; `hippo start` never makes one. Is the disk \
             mounted? A new cluster's directories are made by `hippo testnet`"
        )));
    }
    let copies = COPIES.map(|(_, name)| read_copy(path, name));
    let [Ok(copy_a), Ok(copy_b)] = copies else {
        let error = copies.into_iter().find_map(Result::err);
        let error = error.map_or_else(String::new, |error| error.to_string());
        return Err(Refusal::preflight(format!(
            "cannot read the superblock in {shown}: {error}"
        )));
    };
    let loaded = Superblock::load(&copy_a, &copy_b).map_err(|error| {
        let exit = match error {
            SuperblockError::NotFormatted | SuperblockError::Newer { .. } => Exit::Preflight,
            SuperblockError::BothDamaged | SuperblockError::Geometry(_) => Exit::Damaged,
        };
        Refusal::new(exit, format!("{shown}: {error}"))
    })?;
    let mut superblock = loaded.superblock;
    superblock
        .check(expected)
        .or_exit(Exit::Preflight, &shown)?;
    if superblock.committee != committee {
        return Err(Refusal::preflight(format!(
            "{shown}: committee mismatch: the directory was formatted for committee {}, the \
             committee file is {committee}. Peers would refuse this node. `hippo config check A B` \
             names the field in which two committee files differ",
            superblock.committee
        )));
    }
    let lock = take_lock(path)?;
    check_geometry(path, &superblock, segment_bytes, segments_max)?;
    let segments = segments::list(&path.join(WAL)).or_exit(
        Exit::Damaged,
        format!("{shown}: the write-ahead log cannot be listed"),
    )?;
    let snapshots = snapshots::open(&snapshots_path(path)).or_exit(
        Exit::Failure,
        format!("{shown}: the snapshots cannot be listed"),
    )?;
    let raised = segments_max > superblock.geometry.segments_max;
    if raised {
        superblock.geometry.segments_max = segments_max;
        superblock.sequence += 1;
        tracing::info!("segments_max raised to {segments_max}");
    }
    for (copy, name) in COPIES {
        if raised || loaded.repair == Some(copy) {
            if !raised {
                tracing::warn!("superblock copy {copy} was damaged or old and is written again");
            }
            write_copy(path, name, &superblock).or_exit(
                Exit::Failure,
                format!("cannot write superblock copy {copy} in {shown}"),
            )?;
        }
    }
    Ok(DataDirectory {
        path: path.to_owned(),
        superblock,
        segments,
        snapshots,
        _lock: lock,
    })
}

fn check_geometry(
    path: &Path,
    superblock: &Superblock,
    segment_bytes: u64,
    segments_max: u32,
) -> Result<(), Refusal> {
    let formatted = superblock.geometry;
    let differs = if segment_bytes != formatted.segment_bytes {
        format!(
            "storage.segment_bytes is {}, but the directory was formatted with {}, and the size \
             of a segment never changes",
            show_bytes(segment_bytes),
            show_bytes(formatted.segment_bytes)
        )
    } else if segments_max < formatted.segments_max {
        format!(
            "storage.segments_max is {segments_max}, but the directory was formatted with {}, and \
             it can only be raised",
            formatted.segments_max
        )
    } else {
        return Ok(());
    };
    let path = path.display();
    Err(Refusal::preflight(format!("{path}: {differs}")))
}

/// A second process on one directory would destroy the log.
fn take_lock(path: &Path) -> Result<File, Refusal> {
    let shown = path.display();
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK))
        .or_exit(Exit::Preflight, format!("cannot open {shown}/LOCK"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            return Err(Refusal::preflight(format!(
                "data directory {shown} is in use by process {}; stop that node first. One \
                 directory and one key serve one process",
                holder.trim()
            )));
        }
        Err(TryLockError::Error(error)) => {
            return Err(Refusal::preflight(format!(
                "cannot lock {shown}/LOCK: {error}"
            )));
        }
    }
    // Only a hint for the message above; the lock itself is what counts.
    let _ = lock.set_len(0);
    let _ = writeln!(lock, "{}", std::process::id());
    Ok(lock)
}

fn read_copy(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    match fs::read(path.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn write_copy(path: &Path, name: &str, superblock: &Superblock) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(name))?;
    file.write_all(&superblock.format())?;
    file.sync_all()
}

/// Whether an error may pass when somebody makes room.
fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Makes names durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use storage::record::LogId;
    use storage::superblock::DIRECTORY_VERSION;
    use storage::wal::Geometry;
    use wire::ids::{ClusterId, NodeId, PublicKey};

    use super::*;

    const SEGMENT_BYTES: u64 = 1 << 20;

    fn superblock() -> Superblock {
        Superblock {
            epoch: Epoch(0),
            directory_version: DIRECTORY_VERSION,
            sequence: 1,
            cluster: ClusterId([1; 16]),
            node: NodeId(2),
            public_key: PublicKey([3; 32]),
            committee: Digest([4; 32]),
            log: LogId([5; 16]),
            geometry: Geometry {
                segment_bytes: SEGMENT_BYTES,
                segments_max: 3,
                reserve_bytes: 1 << 18,
            },
        }
    }

    fn expected() -> Expected {
        Expected {
            cluster: ClusterId([1; 16]),
            node: NodeId(2),
            public_key: PublicKey([3; 32]),
        }
    }

    fn fresh(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("hippo-datadir-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn opened(path: &Path) -> Result<DataDirectory, Refusal> {
        open(path, &expected(), Digest([4; 32]), SEGMENT_BYTES, 3)
    }

    fn refused(path: &Path) -> (Exit, String) {
        let refusal = opened(path).unwrap_err();
        (refusal.exit, refusal.to_string())
    }

    #[test]
    fn formatted_opened_locked() {
        let path = fresh("life");
        assert_eq!(refused(&path).0, Exit::Preflight);
        format(&path, &superblock(), 2, &|_| {}).unwrap();
        assert!(format(&path, &superblock(), 2, &|_| {}).is_err());
        let first = opened(&path).unwrap();
        assert_eq!(first.superblock, superblock());
        let sizes: Vec<_> = first.segments.iter().map(|s| (s.index, s.bytes)).collect();
        assert_eq!(sizes, [(0, SEGMENT_BYTES), (1, SEGMENT_BYTES)]);
        let (exit, text) = refused(&path);
        assert_eq!(exit, Exit::Preflight);
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        drop(first);
        opened(&path).unwrap();
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_damaged_copy_is_repaired_two_are_refused() {
        let path = fresh("damage");
        format(&path, &superblock(), 2, &|_| {}).unwrap();
        let good = fs::read(path.join("superblock.a")).unwrap();
        fs::write(path.join("superblock.a"), vec![7; good.len()]).unwrap();
        opened(&path).unwrap();
        assert_eq!(fs::read(path.join("superblock.a")).unwrap(), good);
        for (_, name) in COPIES {
            fs::write(path.join(name), vec![7; good.len()]).unwrap();
        }
        assert_eq!(refused(&path).0, Exit::Damaged);
        for (_, name) in COPIES {
            fs::remove_file(path.join(name)).unwrap();
        }
        let (exit, text) = refused(&path);
        assert_eq!(exit, Exit::Preflight);
        assert!(text.contains("not formatted"), "{text}");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn foreign_and_changed_directories_are_refused() {
        let path = fresh("foreign");
        format(&path, &superblock(), 2, &|_| {}).unwrap();
        let foreign = Expected {
            node: NodeId(1),
            ..expected()
        };
        let try_open = |expected: &Expected, committee, bytes, max| {
            let refusal = open(&path, expected, committee, bytes, max).unwrap_err();
            assert_eq!(refusal.exit, Exit::Preflight);
            refusal.to_string()
        };
        let digest = Digest([4; 32]);
        assert!(try_open(&foreign, digest, SEGMENT_BYTES, 3).contains("foreign data directory"));
        let other = Digest([9; 32]);
        assert!(try_open(&expected(), other, SEGMENT_BYTES, 3).contains("committee mismatch"));
        assert!(try_open(&expected(), digest, 2 * SEGMENT_BYTES, 3).contains("segment_bytes"));
        assert!(try_open(&expected(), digest, SEGMENT_BYTES, 2).contains("segments_max"));
        let raised = open(&path, &expected(), digest, SEGMENT_BYTES, 5).unwrap();
        assert_eq!(raised.superblock.geometry.segments_max, 5);
        drop(raised);
        assert_eq!(
            open(&path, &expected(), digest, SEGMENT_BYTES, 5)
                .unwrap()
                .superblock
                .sequence,
            2
        );
        fs::remove_dir_all(path).unwrap();
    }
}
