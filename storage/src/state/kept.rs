//! Old versions of items, one behind the other.
//!
//! Items come from all buckets in turn. With a buffer for each bucket every one of them would be
//! written to cold memory, and thousands of buffers would grow; in one log the memory is warm, and
//! each item names the one before it of its bucket.

use wire::state::{BUCKETS, Bucket, Cell};

/// Bytes of a chunk of the log before the next one is begun.
const CHUNK_BYTES: usize = 256 * 1024;
/// Room for the last item of a chunk: no item of the table or the sessions is larger.
const ITEM_BYTES: usize = 128 * 1024;
/// Chunks kept for the next freeze, so that hot threads seldom allocate: 32 MiB of a holder at most.
const SPARE_CHUNKS: usize = 84;
/// Before each item: where the one before it lies, its length, its cell.
const LINK_BYTES: usize = 13;

/// Where an item lies in the log: its chunk, and the offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    chunk: u32,
    offset: u32,
}

impl At {
    const NONE: At = At {
        chunk: u32::MAX,
        offset: u32::MAX,
    };
}

/// What was preserved of one freeze.
#[derive(Debug)]
pub(super) struct Kept {
    /// The freeze began this generation.
    pub generation: u32,
    chunks: Vec<Vec<u8>>,
    /// Chunks in use; the others are spare.
    used: usize,
    /// The newest item of each bucket.
    newest: Box<[At; BUCKETS]>,
    /// Buckets that have items. The log is emptied with the last of them.
    holding: usize,
    bytes: u64,
}

impl Kept {
    pub fn new(generation: u32) -> Kept {
        Kept {
            generation,
            chunks: Vec::new(),
            used: 0,
            newest: Box::new([At::NONE; BUCKETS]),
            holding: 0,
            bytes: 0,
        }
    }

    /// Bytes of the log, also those of buckets that were dropped before others.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.holding == 0
    }

    pub fn add(&mut self, cell: Cell, write: &impl Fn(&mut Vec<u8>)) {
        let last = self.chunks[..self.used].last();
        if last.is_none_or(|chunk| chunk.len() >= CHUNK_BYTES) {
            if self.used == self.chunks.len() {
                self.chunks
                    .push(Vec::with_capacity(CHUNK_BYTES + ITEM_BYTES));
            }
            self.used += 1;
        }
        let chunk = &mut self.chunks[self.used - 1];
        let newest = &mut self.newest[cell.bucket().index()];
        self.holding += usize::from(*newest == At::NONE);
        let before = std::mem::replace(
            newest,
            At {
                chunk: (self.used - 1) as u32,
                offset: chunk.len() as u32,
            },
        );
        let start = chunk.len();
        chunk.extend_from_slice(&before.chunk.to_le_bytes());
        chunk.extend_from_slice(&before.offset.to_le_bytes());
        chunk.extend_from_slice(&[0, 0, 0, 0, cell.index()]);
        write(chunk);
        let length = (chunk.len() - start - LINK_BYTES) as u32;
        chunk[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
        self.bytes += (chunk.len() - start) as u64;
    }

    /// The items of a bucket, the newest first, each with the index of its cell.
    pub fn items(&self, bucket: Bucket) -> impl Iterator<Item = (u8, &[u8])> {
        let mut next = self.newest[bucket.index()];
        std::iter::from_fn(move || {
            if next == At::NONE {
                return None;
            }
            let item = &self.chunks[next.chunk as usize][next.offset as usize..];
            let number = |at: usize| {
                u32::from_le_bytes([item[at], item[at + 1], item[at + 2], item[at + 3]])
            };
            next = At {
                chunk: number(0),
                offset: number(4),
            };
            Some((item[12], &item[LINK_BYTES..LINK_BYTES + number(8) as usize]))
        })
    }

    /// True when there was something to drop.
    pub fn drop_bucket(&mut self, bucket: Bucket) -> bool {
        let newest = &mut self.newest[bucket.index()];
        let held = std::mem::replace(newest, At::NONE) != At::NONE;
        self.holding -= usize::from(held);
        if held && self.holding == 0 {
            self.empty();
        }
        held
    }

    fn empty(&mut self) {
        self.chunks.truncate(SPARE_CHUNKS);
        for chunk in &mut self.chunks {
            chunk.clear();
            // After an item larger than there was room for.
            chunk.shrink_to(CHUNK_BYTES + ITEM_BYTES);
        }
        (self.used, self.bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(number: u16) -> Bucket {
        Bucket::new(number).unwrap()
    }

    fn add(kept: &mut Kept, number: u16, item: &[u8]) {
        let cell = Cell::new(bucket(number), item.len() as u8);
        kept.add(cell, &|out: &mut Vec<u8>| out.extend_from_slice(item));
    }

    fn items(kept: &Kept, number: u16) -> Vec<&[u8]> {
        let items = kept.items(bucket(number));
        items
            .map(|(index, item)| {
                assert_eq!(index, item.len() as u8);
                item
            })
            .collect()
    }

    #[test]
    fn items_of_a_bucket_are_found_and_dropped() {
        let mut kept = Kept::new(1);
        assert!(!kept.drop_bucket(bucket(3)));
        for (number, item) in [(3, "a"), (9, "bb"), (3, ""), (3, "ccc")] {
            add(&mut kept, number, item.as_bytes());
        }
        assert_eq!(items(&kept, 3), [&b"ccc"[..], b"", b"a"]);
        assert_eq!(items(&kept, 9), [b"bb"]);
        assert!(items(&kept, 4).is_empty());
        assert!(kept.drop_bucket(bucket(3)));
        assert!(items(&kept, 3).is_empty() && !kept.is_empty() && kept.bytes() > 0);
        assert!(kept.drop_bucket(bucket(9)));
        assert!(kept.is_empty() && kept.bytes() == 0);
    }

    #[test]
    fn the_log_grows_by_chunks_and_its_room_is_used_again() {
        let mut kept = Kept::new(1);
        let item = |number: usize| vec![number as u8; number % 70_000];
        for round in 0..3 {
            for number in 0..200 {
                add(&mut kept, (number % 5) as u16, &item(number * 997));
            }
            assert!(kept.used > 20, "round {round}");
            for first in 0..5 {
                let expected = (0..200).rev().filter(|number| number % 5 == first);
                let expected = expected.map(|number| item(number * 997));
                assert!(items(&kept, first as u16).into_iter().eq(expected));
            }
            let chunks = kept.chunks.len();
            (0..5).for_each(|number| assert!(kept.drop_bucket(bucket(number))));
            assert_eq!(kept.chunks.len(), chunks.min(SPARE_CHUNKS));
        }
        // One that is larger than the room for the last of a chunk.
        add(&mut kept, 1, &vec![7; 3 * CHUNK_BYTES]);
        add(&mut kept, 1, b"next");
        assert_eq!(items(&kept, 1).len(), 2);
    }
}
