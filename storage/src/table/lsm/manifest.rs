//! Whether the list of files that the `lsm-tree` crate opens is the one it wrote.
//!
//! The crate sums the list and keeps the sum in the file that names it, and does not compare the two.
//! A list that rotted could name other files, or fewer; the files themselves are summed block by
//! block, which the crate does compare.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use lsm_tree::{Checksum, Error};
use xxhash_rust::xxh3::xxh3_128;

/// Number of the list, its sum, and how it was summed.
const CURRENT: &str = "current";
const CURRENT_BYTES: usize = 8 + 16 + 1;
/// Where the files with entries are.
const TABLES: &str = "tables";

/// Checks the list in a directory; without one there must be nothing to list.
pub(super) fn check(directory: &Path) -> Result<(), Error> {
    let current = match fs::read(directory.join(CURRENT)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return check_blank(directory),
        current => current?,
    };
    let parts = current
        .split_first_chunk()
        .and_then(|(number, rest)| Some((number, rest.split_first_chunk()?)))
        .filter(|_| current.len() == CURRENT_BYTES);
    let Some((number, (sum, [0]))) = parts else {
        return Err(Error::Unrecoverable);
    };
    let list = fs::read(directory.join(format!("v{}", u64::from_le_bytes(*number))))?;
    let (expected, got) = (u128::from_le_bytes(*sum), xxh3_128(&list));
    if expected != got {
        return Err(Error::ChecksumMismatch {
            expected: Checksum::from_raw(expected),
            got: Checksum::from_raw(got),
        });
    }
    Ok(())
}

fn check_blank(directory: &Path) -> Result<(), Error> {
    let mut tables = match fs::read_dir(directory.join(TABLES)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        tables => tables?,
    };
    match tables.next() {
        None => Ok(()),
        Some(_) => Err(io::Error::from(ErrorKind::NotFound).into()),
    }
}
