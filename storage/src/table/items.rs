//! Entries of a cell as bytes: length of the key (u16), of the value (u32), key, value; in the
//! order of the keys.

use wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use wire::state::Cell;

use crate::state::{CellItems, Malformed};

const KEY_LENGTH_BYTES: usize = 2;
const LENGTHS_BYTES: usize = 6;
/// Entries that are sorted without a buffer from the allocator: a bucket of 250,000 keys holds as many.
const FEW: usize = 64;
/// Bits that follow the cell in a number by which entries are sorted.
const CELL_AT: u32 = 56;

/// Appends one entry.
pub(super) fn write(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// Length that says: this key was deleted. No value is as long.
const GONE: u32 = u32::MAX;
const _: () = assert!(VALUE_BYTES_MAX < GONE as usize);

/// Appends a key that was deleted; only [`read_versions`] reads it.
pub(super) fn write_gone(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&GONE.to_le_bytes());
    out.extend_from_slice(key);
}

/// Our own entries and deleted keys.
pub(super) fn read_versions(bytes: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let lengths = rest.split_at(LENGTHS_BYTES);
        let key_bytes = usize::from(u16::from_le_bytes([lengths.0[0], lengths.0[1]]));
        let value_bytes = u32::from_le_bytes(lengths.0[2..].try_into().expect("4 bytes"));
        let (key, after) = lengths.1.split_at(key_bytes);
        if value_bytes == GONE {
            rest = after;
            return Some((key, None));
        }
        let (value, after) = after.split_at(value_bytes as usize);
        rest = after;
        Some((key, Some(value)))
    })
}

/// Adds entries, each with the index of its cell and each key once, in the order of cells and keys.
pub(super) fn write_sorted<'a>(
    entries: impl Iterator<Item = (u8, (&'a [u8], &'a [u8]))>,
    out: &mut CellItems,
) {
    let mut few = [(0, &[][..], &[][..]); FEW];
    let mut many = Vec::new();
    let mut count = 0;
    for (index, (key, value)) in entries {
        let cell = u64::from(index) << CELL_AT;
        if let Some(place) = few.get_mut(count) {
            *place = (cell, key, value);
        } else {
            if many.is_empty() {
                many.reserve(4 * FEW);
                many.extend_from_slice(&few);
            }
            many.push((cell, key, value));
        }
        count += 1;
    }
    let entries = if many.is_empty() {
        &mut few[..count]
    } else {
        &mut many[..]
    };
    let Some(&(_, first, _)) = entries.first() else {
        return;
    };
    // Mostly decided by a number that lies in the array, without a call and a cache miss. Keys
    // begin alike more often than not.
    let shared = entries.iter().fold(first.len(), |shared, (_, key, _)| {
        common(&first[..shared], key)
    });
    for (number, key, _) in &mut *entries {
        *number |= first_bytes(&key[shared..]) >> u8::BITS;
    }
    entries
        .sort_unstable_by(|(first, a, _), (second, b, _)| first.cmp(second).then_with(|| a.cmp(b)));
    for (number, key, value) in entries {
        write(key, value, out.of_cell((*number >> CELL_AT) as u8));
    }
}

/// How many bytes at the beginning are equal.
fn common(a: &[u8], b: &[u8]) -> usize {
    if b.starts_with(a) {
        return a.len();
    }
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The first eight bytes, so that numbers compare as keys do.
fn first_bytes(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = key.len().min(8);
    first[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(first)
}

/// Entries in the order of the bytes; ends at the first malformed one, which our own bytes, and
/// those that [`are_canonical`], do not hold.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (entry, after) = split(rest)?;
        rest = after;
        Some(entry)
    })
}

/// The first entry, and what follows it.
pub(super) fn split_first(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let ((key, value), rest) = split(bytes)?;
    Some((key, value, rest))
}

type Entry<'a> = (&'a [u8], &'a [u8]);

fn split(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (lengths, rest) = bytes.split_at_checked(LENGTHS_BYTES)?;
    let (key_bytes, value_bytes) = lengths.split_at(KEY_LENGTH_BYTES);
    let key_bytes = usize::from(u16::from_le_bytes(key_bytes.try_into().ok()?));
    let value_bytes = u32::from_le_bytes(value_bytes.try_into().ok()?) as usize;
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some(((key, value), rest))
}

/// See [`Bucketed::check_cell`](crate::state::Bucketed::check_cell).
pub(super) fn check(cell: Cell, bytes: &[u8]) -> Result<(), Malformed> {
    match are_canonical(cell, bytes) {
        true => Ok(()),
        false => Err(Malformed {
            bucket: cell.bucket(),
        }),
    }
}

/// Whether `bytes` are entries of this cell as [`write_sorted`] writes them.
fn are_canonical(cell: Cell, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut before: &[u8] = &[];
    while !rest.is_empty() {
        let Some(((key, value), after)) = split(rest) else {
            return false;
        };
        // Keys are not empty, so the first one is above the empty `before` too.
        let well_formed =
            key > before && key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX;
        if !well_formed || Cell::of_key(key) != cell {
            return false;
        }
        (before, rest) = (key, after);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two keys of one cell, ascending.
    fn pair() -> (Cell, [Vec<u8>; 2]) {
        let key = |number: u32| number.to_be_bytes().to_vec();
        let cell = Cell::of_key(&key(0));
        let other = (1..)
            .map(key)
            .find(|key| Cell::of_key(key) == cell)
            .unwrap();
        (cell, [key(0), other])
    }

    #[test]
    fn one_cell_has_one_encoding() {
        let (cell, [low, high]) = pair();
        let mut items = CellItems::new();
        let entries = [(&high[..], &b"2"[..]), (&low[..], &b"1"[..])];
        let entries = entries.map(|entry| (cell.index(), entry));
        write_sorted(entries.into_iter(), &mut items);
        let sorted = items.bytes();
        assert!(items.cells().eq([(cell.index(), sorted)]));
        assert!(are_canonical(cell, sorted));
        assert!(are_canonical(cell, &[]));
        let again: Vec<_> = read(sorted).collect();
        assert_eq!(again, [(&low[..], &b"1"[..]), (&high[..], &b"2"[..])]);

        let mut reversed = Vec::new();
        write(&high, b"2", &mut reversed);
        write(&low, b"1", &mut reversed);
        assert!(!are_canonical(cell, &reversed));
        let mut twice = Vec::new();
        write(&low, b"1", &mut twice);
        write(&low, b"1", &mut twice);
        assert!(!are_canonical(cell, &twice));
        let foreign = Cell::new(cell.bucket(), cell.index() ^ 1);
        assert!(!are_canonical(foreign, sorted));
        let first = LENGTHS_BYTES + low.len() + 1;
        for length in (1..sorted.len()).filter(|length| *length != first) {
            assert!(!are_canonical(cell, &sorted[..length]), "{length}");
        }
        let mut empty_key = Vec::new();
        write(b"", b"v", &mut empty_key);
        assert!(!are_canonical(Cell::of_key(b""), &empty_key));
        let mut long = Vec::new();
        let key = vec![7; KEY_BYTES_MAX + 1];
        write(&key, b"", &mut long);
        assert!(!are_canonical(Cell::of_key(&key), &long));
        long.clear();
        write(&low, &vec![0; VALUE_BYTES_MAX + 1], &mut long);
        assert!(!are_canonical(cell, &long));
    }

    #[test]
    fn any_number_of_entries_is_sorted() {
        for count in [0, 1, FEW - 1, FEW, FEW + 1, 5 * FEW] {
            let keys = (0..count).map(|number| format!("key-{}", number * 7919 % count));
            let keys = keys.collect::<Vec<_>>();
            let cell = |key: &[u8]| key[key.len() - 1];
            let mut out = CellItems::new();
            let entries = keys.iter().map(|key| (key.as_bytes(), &b"v"[..]));
            write_sorted(entries.map(|entry| (cell(entry.0), entry)), &mut out);
            let mut sorted = keys.iter().map(String::as_bytes).collect::<Vec<_>>();
            sorted.sort_unstable_by_key(|key| (cell(key), *key));
            let written = read(out.bytes()).map(|(key, _)| key);
            assert!(written.eq(sorted), "{count} entries");
        }
    }
}
