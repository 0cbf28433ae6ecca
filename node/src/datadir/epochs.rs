//! From one epoch's log to the next one's, in one step that a crash cannot divide.
//!
//! A new log is made beside the old one, under the name of the log to come; then the superblock is written,
//! which names that log; then the directories change places. An opening that finds both goes by the
//! superblock. What the old log held is never read again: the epoch begins with a certified state.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use storage::superblock::Superblock;

use super::{COPIES, WAL, make_segment, sync_directory, write_copy};

const NEXT: &str = "wal.next";
const OLD: &str = "wal.old";
/// In a log to come: whose it is.
const NAME: &str = "LOG";

/// What stands in [`NAME`]: the name of a log is secret, its hash is not.
fn name_of(superblock: &Superblock) -> String {
    blake3::Hash::from_bytes(blake3::derive_key(
        "hippodrome/1/log-name",
        &superblock.log.0,
    ))
    .to_hex()
    .to_string()
}

/// Whether there is anything to finish.
pub(super) fn is_begun(data: &Path) -> bool {
    data.join(NEXT).exists() || data.join(OLD).exists()
}

/// Begins the log of the next epoch. `next` has the name of a new log, and the highest sequence.
pub(super) fn begin_log(data: &Path, next: &Superblock, segments: u32) -> io::Result<()> {
    let made = data.join(NEXT);
    remove(&made)?;
    DirBuilder::new().mode(0o700).create(&made)?;
    for index in 0..segments {
        make_segment(&made, index, next.geometry.segment_bytes, Duration::ZERO)
            .map_err(io::Error::other)?;
    }
    fs::write(made.join(NAME), name_of(next))?;
    fs::File::open(made.join(NAME))?.sync_all()?;
    sync_directory(&made)?;
    sync_directory(data)?;
    for (_, name) in COPIES {
        write_copy(data, name, next)?;
    }
    sync_directory(data)?;
    finish(data, next)
}

/// Ends what a process had begun: the log of this superblock takes its place, any other one to come is
/// removed.
pub(super) fn finish(data: &Path, superblock: &Superblock) -> io::Result<()> {
    let (current, made, old) = (data.join(WAL), data.join(NEXT), data.join(OLD));
    let named = match fs::read_to_string(made.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    if named.as_deref() == Some(&*name_of(superblock)) {
        if current.exists() {
            remove(&old)?;
            fs::rename(&current, &old)?;
        }
        fs::rename(&made, &current)?;
        sync_directory(data)?;
    }
    remove(&made)?;
    remove(&old)?;
    remove_file(&current.join(NAME))
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
