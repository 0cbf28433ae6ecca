//! The sorted map on disk as the table sees it, and its keys.
//!
//! One map holds everything of a state, so that one step replaces a state by the next:
//!
//! | first byte | then | value |
//! |---|---|---|
//! | 1 | bucket (u16, big-endian), cell (u8), key | the value |
//! | 2 | key | nothing: the keys in their own order, for scans |
//! | 3 | what the caller names | what the caller says of the state as a whole |
//!
//! The entries of a cell lie together, because checkpoints read whole cells, and so do those of a
//! bucket, which travel together. A scan finds keys in their own order, and gets each value from its
//! bucket.

use wire::state::{Bucket, Cell};

const ENTRY: u8 = 1;
const KEY: u8 = 2;
const NOTE: u8 = 3;
/// Bytes in front of the key of an entry.
const ENTRY_PREFIX_BYTES: usize = 4;

/// What a store held after one of its runs: read as of that, it does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsOf(pub(super) u64);

/// A sorted map on disk, read by one thread while another replaces its content.
///
/// Reading has no error: whoever opens the map ends the process when it cannot be read, for no
/// answer could be given without it.
pub trait Store {
    /// As of the last run that was finished. The caller knows that none is being finished.
    fn newest(&self) -> AsOf;

    /// Appends the value of a key to `value`; false, with nothing appended, when it is absent.
    fn get(&self, as_of: AsOf, key: &[u8], value: &mut Vec<u8>) -> bool;

    /// Calls `visit` with the entries of `from..to` in key order until it returns false.
    fn range(
        &self,
        as_of: AsOf,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    );

    /// Nothing is read as of anything older again, so that it may go.
    fn forget_before(&self, oldest: AsOf);
}

/// A sorted run of changes to a [`Store`]: all of them become visible and durable with
/// [`Run::finish`], or none. Keys must ascend.
pub trait Run {
    type Error;

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;

    fn delete(&mut self, key: &[u8]) -> Result<(), Self::Error>;

    /// Calls `visit` with the entries of `from..to` as of the last finished run, in key order.
    fn before(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Self::Error>;

    fn finish(self) -> Result<(), Self::Error>;
}

/// Where an entry lies, written to `out`.
pub(super) fn entry_key(cell: Cell, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&first_of(cell));
    out.extend_from_slice(key);
}

fn first_of(cell: Cell) -> [u8; ENTRY_PREFIX_BYTES] {
    let [high, low] = cell.bucket().number().to_be_bytes();
    [ENTRY, high, low, cell.index()]
}

/// The key of an entry that lies at `at`.
pub(super) fn key_of_entry(at: &[u8]) -> &[u8] {
    &at[ENTRY_PREFIX_BYTES..]
}

/// The cell of an entry that lies at `at`, as the index in its bucket.
pub(super) fn cell_of_entry(at: &[u8]) -> u8 {
    at[ENTRY_PREFIX_BYTES - 1]
}

/// From the first to behind the last entry of a bucket.
pub(super) fn bucket_bounds(bucket: Bucket) -> (Vec<u8>, Vec<u8>) {
    cells_bounds(bucket, 0, u8::MAX)
}

/// From the first entry of one cell to behind the last entry of another, of the same bucket.
pub(super) fn cells_bounds(bucket: Bucket, first: u8, last: u8) -> (Vec<u8>, Vec<u8>) {
    let from = first_of(Cell::new(bucket, first)).to_vec();
    let to = match last.checked_add(1) {
        Some(next) => first_of(Cell::new(bucket, next)).to_vec(),
        None => [&[ENTRY][..], &(bucket.number() + 1).to_be_bytes()].concat(),
    };
    (from, to)
}

/// Where a key stands in the order of the keys, written to `out`.
pub(super) fn order_key(key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(KEY);
    out.extend_from_slice(key);
}

/// The key that stands at `at` in the order.
pub(super) fn key_of_order(at: &[u8]) -> &[u8] {
    &at[1..]
}

/// Where the keys of `from..to` stand.
pub(super) fn order_bounds(from: &[u8], to: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let end = to.map_or_else(|| vec![NOTE], |to| [&[KEY][..], to].concat());
    ([&[KEY][..], from].concat(), end)
}

/// Where a note of this name lies.
pub(super) fn note_key(name: &[u8]) -> Vec<u8> {
    [&[NOTE][..], name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::state::BUCKETS;

    #[test]
    fn places_stand_in_the_order_that_they_are_written_in() {
        let bucket = |number: usize| Bucket::new(number as u16).unwrap();
        let last = |number: usize| Cell::new(bucket(number), 255);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        entry_key(last(255), &[0xff; 9], &mut low);
        entry_key(Cell::new(bucket(256), 0), &[], &mut high);
        assert!(low < high);
        let (from, to) = bucket_bounds(bucket(255));
        assert!(from <= low && low < to && to <= high);
        assert_eq!(key_of_entry(&low), &[0xff; 9]);
        assert_eq!(cell_of_entry(&low), 255);
        let (from, to) = cells_bounds(bucket(255), 3, 254);
        assert!(from < to && to < low);
        entry_key(Cell::new(bucket(255), 254), &[0xff; 9], &mut high);
        assert!(from < high && high < to);

        entry_key(last(BUCKETS - 1), &[0xff; 9], &mut low);
        let (_, to) = bucket_bounds(bucket(BUCKETS - 1));
        assert!(low < to);
        order_key(&[], &mut high);
        assert!(low < high && to <= high);
        let (from, to) = order_bounds(b"a", None);
        order_key(&[0xff; 1024], &mut high);
        assert!(from < high && high < to && key_of_order(&high) == [0xff; 1024]);
        assert!(to <= note_key(b""));
    }
}
