//! Cells: each bucket is cut once more, so that a checkpoint hashes what was written and little beside.
//!
//! The canonical bytes of a bucket are those of its cells that hold something, in order: the cell's
//! index (u8), the length of its content (u64, little-endian), the content. The hash of a bucket
//! covers the hashes of these cells, 32 bytes each in the same order, and which they are: 256 bits.
//! What the content is is no matter of the tree.

use std::sync::LazyLock;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Bucket, CLIENT_SEED, KEY_SEED, Leaf, spread};
use crate::ids::{Digest, PublicKey};

/// Cells of a bucket.
pub const CELLS: usize = 256;
const CELL_BITS: u32 = 8;
const WORDS: usize = CELLS / 64;

/// One cell of one bucket. Cells are ordered by bucket, then by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(u32);

impl Cell {
    pub fn new(bucket: Bucket, index: u8) -> Cell {
        Cell(u32::from(bucket.0) << CELL_BITS | u32::from(index))
    }

    /// The cell that an entry of the table belongs to. Costs a few nanoseconds.
    pub fn of_key(key: &[u8]) -> Cell {
        Cell((spread(KEY_SEED, key) >> 44) as u32)
    }

    /// The cell that a client's session belongs to.
    pub fn of_client(client: &PublicKey) -> Cell {
        Cell((spread(CLIENT_SEED, &client.0) >> 44) as u32)
    }

    pub fn bucket(self) -> Bucket {
        Bucket((self.0 >> CELL_BITS) as u16)
    }

    /// Of the cell in its bucket.
    pub fn index(self) -> u8 {
        self.0 as u8
    }
}

/// A set of cells of one bucket.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct CellMask([U64; WORDS]);

impl CellMask {
    pub const EMPTY: CellMask = CellMask([U64::ZERO; WORDS]);
    pub const FULL: CellMask = CellMask([U64::from_bytes([0xff; 8]); WORDS]);

    /// Adds a cell; whether it was not there.
    pub fn insert(&mut self, index: u8) -> bool {
        let word = &mut self.0[usize::from(index) / 64];
        let before = word.get();
        word.set(before | bit(index));
        before & bit(index) == 0
    }

    /// Removes a cell; whether it was there.
    pub fn remove(&mut self, index: u8) -> bool {
        let word = &mut self.0[usize::from(index) / 64];
        let before = word.get();
        word.set(before & !bit(index));
        before & bit(index) != 0
    }

    pub fn contains(&self, index: u8) -> bool {
        self.0[usize::from(index) / 64].get() & bit(index) != 0
    }

    pub fn is_empty(&self) -> bool {
        *self == CellMask::EMPTY
    }

    pub fn len(&self) -> usize {
        let ones = self.0.iter().map(|word| word.get().count_ones() as usize);
        ones.sum()
    }

    /// Cells that are in both.
    pub fn and(&self, other: &CellMask) -> CellMask {
        self.each(other, |a, b| a & b)
    }

    /// Cells that are in one of them, or in both.
    pub fn or(&self, other: &CellMask) -> CellMask {
        self.each(other, |a, b| a | b)
    }

    /// Cells below `index`.
    fn rank(&self, index: u8) -> usize {
        let word = usize::from(index) / 64;
        let before = self.0[..word].iter().map(|word| word.get().count_ones());
        let within = (self.0[word].get() & (bit(index) - 1)).count_ones();
        (before.sum::<u32>() + within) as usize
    }

    /// The cells, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> {
        self.0.into_iter().enumerate().flat_map(|(at, word)| {
            let mut left = word.get();
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some((at * 64) as u8 + bit as u8)
            })
        })
    }

    fn each(&self, other: &CellMask, combine: impl Fn(u64, u64) -> u64) -> CellMask {
        let mut words = self.0;
        for (word, other) in words.iter_mut().zip(&other.0) {
            word.set(combine(word.get(), other.get()));
        }
        CellMask(words)
    }
}

fn bit(index: u8) -> u64 {
    1 << (index % 64)
}

/// Bytes in front of the content of a cell.
pub const CELL_HEAD_BYTES: usize = 1 + size_of::<u64>();

/// Appends a cell to the bytes of a bucket. Cells ascend, and hold something.
pub fn write_cell(index: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(index);
    out.extend_from_slice(&(content.len() as u64).to_le_bytes());
    out.extend_from_slice(content);
}

/// The cells of a bucket: index and content. Ends after a `None`, when the bytes are not those of a
/// bucket.
pub fn cells(bucket: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    let mut rest = bucket;
    let mut above = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let found = first_cell(rest).filter(|(index, ..)| u16::from(*index) >= above);
        let Some((index, content, after)) = found else {
            rest = &[];
            return Some(None);
        };
        (above, rest) = (u16::from(index) + 1, after);
        Some(Some((index, content)))
    })
}

fn first_cell(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (index, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (content, rest) = rest.split_at_checked(length)?;
    (!content.is_empty()).then_some((*index, content, rest))
}

/// The hashes below one leaf: 40 bytes for each cell that holds something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellTree {
    held: CellMask,
    digests: Vec<Digest>,
    /// Of the contents.
    lengths: Vec<u64>,
    bytes: u64,
}

impl CellTree {
    /// Of a bucket with these bytes; none if they are not those of a bucket.
    pub fn of(bucket: &[u8]) -> Option<CellTree> {
        let mut tree = CellTree::default();
        for cell in cells(bucket) {
            let (index, content) = cell?;
            tree.set(index, content);
        }
        Some(tree)
    }

    /// A cell has this content now.
    pub fn set(&mut self, index: u8, content: &[u8]) {
        let at = self.held.rank(index);
        let is_held = self.held.contains(index);
        if is_held {
            self.bytes -= self.lengths[at] + CELL_HEAD_BYTES as u64;
        }
        if content.is_empty() {
            if is_held {
                self.held.remove(index);
                self.digests.remove(at);
                self.lengths.remove(at);
            }
            return;
        }
        self.bytes += (content.len() + CELL_HEAD_BYTES) as u64;
        let (digest, length) = (digest(content), content.len() as u64);
        if is_held {
            (self.digests[at], self.lengths[at]) = (digest, length);
        } else {
            self.held.insert(index);
            self.digests.insert(at, digest);
            self.lengths.insert(at, length);
        }
    }

    /// Hashes at most 8,224 bytes: 3-5 us.
    pub fn leaf(&self) -> Leaf {
        let mut hasher = blake3::Hasher::new_derive_key("hippodrome/1/state-bucket");
        hasher.update(self.digests.as_bytes());
        hasher.update(self.held.as_bytes());
        Leaf {
            digest: Digest(*hasher.finalize().as_bytes()),
            bytes: U64::new(self.bytes),
        }
    }
}

/// There is a hash for each cell that was written: with a key that is made once it costs one or two
/// blocks less than with a context.
fn digest(content: &[u8]) -> Digest {
    static KEY: LazyLock<[u8; 32]> =
        LazyLock::new(|| blake3::derive_key("hippodrome/1/state-cell", &[]));
    Digest(*blake3::keyed_hash(&KEY, content).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(cells: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, content) in cells {
            write_cell(*index, content, &mut bytes);
        }
        bytes
    }

    #[test]
    fn a_cell_is_of_the_bucket_that_its_key_is_of() {
        for number in 0..1000u32 {
            let key = number.to_le_bytes();
            let cell = Cell::of_key(&key);
            assert_eq!(cell.bucket(), Bucket::of_key(&key));
            assert_eq!(Cell::new(cell.bucket(), cell.index()), cell);
            let client = PublicKey([number as u8; 32]);
            assert_eq!(
                Cell::of_client(&client).bucket(),
                Bucket::of_client(&client)
            );
        }
        let last = Bucket::new(4095).unwrap();
        assert!(Cell::new(last, 0) > Cell::new(Bucket::new(4094).unwrap(), 255));
    }

    /// A change here is a change of the protocol.
    #[test]
    fn golden_cell_and_leaf() {
        assert_eq!(Cell::of_key(b"hippodrome").index(), GOLDEN_CELL);
        let leaf = Leaf::of(&bucket(&[(3, b"three"), (255, b"last")])).unwrap();
        assert_eq!(format!("{:#}", leaf.digest), GOLDEN_LEAF);
        assert_eq!(leaf.bytes(), 2 * 9 + 9);
    }

    const GOLDEN_CELL: u8 = 188;
    const GOLDEN_LEAF: &str = "5e3b6e162bd3ffc9780bcf1bc071832553146f06e6dc1b6dcca2c23a3b24cac6";

    #[test]
    fn masks_are_sets() {
        let mut mask = CellMask::EMPTY;
        for index in [0, 63, 64, 200, 255] {
            assert!(mask.insert(index) && !mask.insert(index));
        }
        assert!(mask.remove(63) && !mask.remove(63));
        assert!(mask.iter().eq([0, 64, 200, 255]));
        assert_eq!((mask.len(), mask.rank(200), mask.rank(0)), (4, 2, 0));
        assert!(mask.contains(64) && !mask.contains(65));
        assert!(CellMask::FULL.iter().eq(0..=255));
        assert_eq!(mask.and(&CellMask::FULL), mask);
        assert_eq!(mask.or(&CellMask::FULL), CellMask::FULL);
        assert!(mask.and(&CellMask::EMPTY).is_empty());
    }

    #[test]
    fn what_is_not_a_bucket_has_no_leaf() {
        let good = bucket(&[(3, b"three"), (9, b"nine")]);
        assert!(CellTree::of(&good).is_some());
        let first = CELL_HEAD_BYTES + 5;
        for length in (1..good.len()).filter(|length| *length != first) {
            assert_eq!(Leaf::of(&good[..length]), None, "{length}");
        }
        for bad in [
            [(9, "a"), (3, "b")],
            [(3, "a"), (3, "b")],
            [(3, ""), (9, "b")],
        ] {
            let cells = bad.map(|(index, content)| (index, content.as_bytes()));
            assert_eq!(Leaf::of(&bucket(&cells)), None, "{bad:?}");
        }
        let mut endless = good;
        endless[1..9].fill(0xff);
        assert_eq!(Leaf::of(&endless), None);
    }

    #[test]
    fn a_leaf_covers_contents_and_places() {
        let leaf = |cells: &[(u8, &[u8])]| Leaf::of(&bucket(cells)).unwrap();
        let one = leaf(&[(3, b"a"), (9, b"b")]);
        assert_ne!(one, leaf(&[(3, b"a"), (8, b"b")]));
        assert_ne!(one, leaf(&[(3, b"b"), (9, b"a")]));
        assert_ne!(one, leaf(&[(3, b"a")]));
        assert_ne!(one, leaf(&[(3, b"ab")]));
    }

    proptest! {
        /// However it came about, the tree is the one of the bytes.
        #[test]
        fn a_tree_is_kept_up_to_date(
            changes in prop::collection::vec((0u8.., prop::collection::vec(any::<u8>(), 0..3)), 0..99)
        ) {
            let mut held = std::collections::BTreeMap::new();
            let mut tree = CellTree::default();
            for (index, content) in changes {
                let index = index % 40 * 6;
                tree.set(index, &content);
                if content.is_empty() {
                    held.remove(&index);
                } else {
                    held.insert(index, content);
                }
            }
            let cells: Vec<_> = held.iter().map(|(index, content)| (*index, &content[..])).collect();
            let bytes = bucket(&cells);
            prop_assert_eq!(CellTree::of(&bytes), Some(tree.clone()));
            prop_assert_eq!(tree.leaf().bytes(), bytes.len() as u64);
        }
    }
}
