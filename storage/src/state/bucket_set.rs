//! A set of buckets, one bit each.

use wire::state::{BUCKETS, Bucket};

const WORDS: usize = BUCKETS / 64;

/// A set of buckets: 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSet {
    words: [u64; WORDS],
}

impl BucketSet {
    /// The empty set.
    pub fn new() -> BucketSet {
        BucketSet { words: [0; WORDS] }
    }

    /// Every bucket.
    pub fn full() -> BucketSet {
        BucketSet {
            words: [u64::MAX; WORDS],
        }
    }

    pub fn insert(&mut self, bucket: Bucket) {
        self.words[bucket.index() / 64] |= 1 << (bucket.index() % 64);
    }

    pub fn remove(&mut self, bucket: Bucket) {
        self.words[bucket.index() / 64] &= !(1 << (bucket.index() % 64));
    }

    pub fn contains(&self, bucket: Bucket) -> bool {
        self.words[bucket.index() / 64] & 1 << (bucket.index() % 64) != 0
    }

    /// Adds every bucket of `other`.
    pub fn add_all(&mut self, other: &BucketSet) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Removes and returns the lowest bucket.
    pub fn pop(&mut self) -> Option<Bucket> {
        let at = self.words.iter().position(|word| *word != 0)?;
        let bit = self.words[at].trailing_zeros() as usize;
        self.words[at] &= self.words[at] - 1;
        Bucket::new((at * 64 + bit) as u16)
    }

    /// The buckets, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Bucket> {
        let mut left = self.clone();
        std::iter::from_fn(move || left.pop())
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Buckets in the set.
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_leave_in_order() {
        let mut set = BucketSet::new();
        for number in [4095, 0, 64, 63] {
            set.insert(Bucket::new(number).unwrap());
        }
        let mut other = BucketSet::new();
        other.insert(Bucket::new(700).unwrap());
        set.add_all(&other);
        assert_eq!(set.len(), 5);
        assert!(set.contains(Bucket::new(700).unwrap()));
        assert!(!set.contains(Bucket::new(701).unwrap()));
        set.insert(Bucket::new(701).unwrap());
        set.remove(Bucket::new(701).unwrap());
        set.remove(Bucket::new(702).unwrap());
        let order: Vec<_> = std::iter::from_fn(|| set.pop())
            .map(Bucket::number)
            .collect();
        assert_eq!(order, [0, 63, 64, 700, 4095]);
        assert!(set.is_empty());
    }
}
