//! A set of cells of all buckets, one bit each.

use wire::state::{BUCKETS, Bucket, Cell, CellMask};

use super::BucketSet;

/// A set of cells: 128 KiB. Whatever is done costs as much as the buckets that it concerns.
#[derive(Clone, Debug)]
pub struct CellSet {
    masks: Vec<CellMask>,
    /// Those that have cells here.
    buckets: BucketSet,
    len: usize,
}

impl CellSet {
    /// The empty set.
    pub fn new() -> CellSet {
        CellSet {
            masks: vec![CellMask::EMPTY; BUCKETS],
            buckets: BucketSet::new(),
            len: 0,
        }
    }

    /// Every cell.
    pub fn full() -> CellSet {
        let masks = vec![CellMask::FULL; BUCKETS];
        CellSet {
            len: masks.iter().map(CellMask::len).sum(),
            buckets: BucketSet::full(),
            masks,
        }
    }

    pub fn insert(&mut self, cell: Cell) {
        let bucket = cell.bucket();
        if self.masks[bucket.index()].insert(cell.index()) {
            self.buckets.insert(bucket);
            self.len += 1;
        }
    }

    pub fn contains(&self, cell: Cell) -> bool {
        self.masks[cell.bucket().index()].contains(cell.index())
    }

    /// The cells of a bucket.
    pub fn of(&self, bucket: Bucket) -> CellMask {
        self.masks[bucket.index()]
    }

    /// Puts these cells of a bucket in place of those that are there.
    pub fn set(&mut self, bucket: Bucket, mask: CellMask) {
        let before = std::mem::replace(&mut self.masks[bucket.index()], mask);
        self.len = self.len - before.len() + mask.len();
        if mask.is_empty() {
            self.buckets.remove(bucket);
        } else {
            self.buckets.insert(bucket);
        }
    }

    /// Removes the lowest bucket, and returns its cells.
    pub fn pop(&mut self) -> Option<(Bucket, CellMask)> {
        let bucket = self.buckets.pop()?;
        let mask = std::mem::take(&mut self.masks[bucket.index()]);
        self.len -= mask.len();
        Some((bucket, mask))
    }

    /// Adds every cell of `other`.
    pub fn add_all(&mut self, other: &CellSet) {
        for bucket in other.buckets.iter() {
            let both = self.of(bucket).or(&other.of(bucket));
            self.set(bucket, both);
        }
    }

    /// Becomes equal to `other`.
    pub fn copy_from(&mut self, other: &CellSet) {
        self.clear();
        self.add_all(other);
    }

    pub fn clear(&mut self) {
        while self.pop().is_some() {}
    }

    /// Buckets of which the set has a cell.
    pub fn buckets(&self) -> &BucketSet {
        &self.buckets
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(bucket: u16, index: u8) -> Cell {
        Cell::new(Bucket::new(bucket).unwrap(), index)
    }

    #[test]
    fn cells_are_found_by_bucket() {
        let mut set = CellSet::new();
        assert!(set.is_empty() && set.pop().is_none());
        for cell in [cell(4095, 255), cell(7, 3), cell(7, 3), cell(7, 200)] {
            set.insert(cell);
        }
        assert!(set.contains(cell(7, 3)) && !set.contains(cell(7, 4)));
        assert_eq!((set.len, set.buckets().len()), (3, 2));
        let mut other = CellSet::new();
        other.insert(cell(9, 1));
        other.add_all(&set);
        assert_eq!(other.len, 4);
        let mut mask = CellMask::EMPTY;
        mask.insert(4);
        other.set(Bucket::new(7).unwrap(), mask);
        assert!(other.contains(cell(7, 4)) && !other.contains(cell(7, 3)));
        other.set(Bucket::new(7).unwrap(), CellMask::EMPTY);
        assert_eq!((other.len, other.buckets().len()), (2, 2));
        other.copy_from(&set);
        assert_eq!((other.len, other.pop().unwrap().0.number()), (3, 7));
        assert_eq!(other.pop().unwrap().0.number(), 4095);
        assert!(other.is_empty());
        assert_eq!(CellSet::full().len, 1 << 20);
        set.clear();
        assert!(set.is_empty() && !set.contains(cell(7, 3)));
    }
}
