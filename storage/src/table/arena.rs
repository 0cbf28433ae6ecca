//! Memory of the entries: large chunks cut into blocks of a few sizes, reused per size.
//!
//! A block holds one entry: a head of 16 bytes, the key, the value. Freed blocks form one list per
//! size; a chunk is never given back. So a table whose entries keep their sizes keeps its memory.

use wire::state::{BUCKETS, Bucket, CELLS, Cell};

/// Where a block starts, in units of 16 bytes; 0 is nowhere. Addresses 64 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) u32);

impl Address {
    pub(super) const NONE: Address = Address(0);
}

const UNIT_BYTES: usize = 16;
const CHUNK_BYTES: usize = 4 << 20;
const CHUNK_UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;
/// Lengths, size class and bucket packed into 8 bytes; stamp; place in the list of the bucket.
const HEAD_BYTES: usize = 16;
const STAMP_AT: usize = 8;
const PLACE_AT: usize = 12;

/// Up to here a size is a multiple of 16 bytes.
const FINE_BYTES_MAX: usize = 1024;
const FINE_CLASSES: usize = FINE_BYTES_MAX / UNIT_BYTES;
/// Above, each doubling has this many sizes.
const STEPS: usize = 8;
const DOUBLINGS: usize = 7;
const CLASSES: usize = FINE_CLASSES + STEPS * DOUBLINGS;
const BLOCK_BYTES_MAX: usize = FINE_BYTES_MAX << DOUBLINGS;

const _: () = assert!(CLASSES <= u8::MAX as usize);
const _: () = assert!(
    HEAD_BYTES + wire::limits::KEY_BYTES_MAX + wire::limits::VALUE_BYTES_MAX <= BLOCK_BYTES_MAX
);
const _: () = assert!(BLOCK_BYTES_MAX < CHUNK_BYTES);

fn class_for(bytes: usize) -> usize {
    if bytes <= FINE_BYTES_MAX {
        return bytes.div_ceil(UNIT_BYTES) - 1;
    }
    let doubling = ((bytes - 1) / FINE_BYTES_MAX).ilog2() as usize;
    let step_bytes = (FINE_BYTES_MAX << doubling) / STEPS;
    FINE_CLASSES + doubling * STEPS + (bytes - (FINE_BYTES_MAX << doubling)).div_ceil(step_bytes)
        - 1
}

fn class_bytes(class: usize) -> usize {
    if class < FINE_CLASSES {
        return (class + 1) * UNIT_BYTES;
    }
    let (doubling, step) = (
        (class - FINE_CLASSES) / STEPS,
        (class - FINE_CLASSES) % STEPS,
    );
    let base = FINE_BYTES_MAX << doubling;
    base + base / STEPS * (step + 1)
}

/// The first 8 bytes of a block: 20 bits length of the value, 12 of the key, 8 bits size class, 12
/// bits bucket, 8 bits cell, a zero, 3 flags.
#[derive(Clone, Copy)]
struct Head(u64);

const _: () = assert!(wire::limits::VALUE_BYTES_MAX < 1 << 20);
const _: () = assert!(wire::limits::KEY_BYTES_MAX < 1 << 12);
const _: () = assert!(BUCKETS == 1 << 12 && CELLS == 1 << 8);
const FLAGS_AT: u32 = 61;
const FLAGS_MASK: u64 = 7;

impl Head {
    fn new(key_bytes: usize, value_bytes: usize, class: usize, cell: Cell) -> Head {
        Head(
            value_bytes as u64
                | (key_bytes as u64) << 20
                | (class as u64) << 32
                | u64::from(cell.bucket().number()) << 40
                | u64::from(cell.index()) << 52,
        )
    }

    fn of(block: &[u8]) -> Head {
        Head(u64::from_le_bytes(block[..8].try_into().expect("8 bytes")))
    }

    fn write(self, block: &mut [u8]) {
        block[..8].copy_from_slice(&self.0.to_le_bytes());
    }

    fn value_bytes(self) -> usize {
        (self.0 & 0xf_ffff) as usize
    }

    fn with_value_bytes(self, value_bytes: usize) -> Head {
        Head(self.0 & !0xf_ffff | value_bytes as u64)
    }

    fn key_bytes(self) -> usize {
        (self.0 >> 20 & 0xfff) as usize
    }

    fn class(self) -> usize {
        usize::from((self.0 >> 32) as u8)
    }

    fn cell(self) -> Cell {
        let bucket = Bucket::new((self.0 >> 40) as u16 & 0xfff).expect("12 bits");
        Cell::new(bucket, (self.0 >> 52) as u8)
    }

    fn flags(self) -> u8 {
        (self.0 >> FLAGS_AT) as u8
    }

    fn with_flags(self, flags: u8) -> Head {
        Head(self.0 & !(FLAGS_MASK << FLAGS_AT) | (u64::from(flags) & FLAGS_MASK) << FLAGS_AT)
    }
}

#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Box<[u8]>>,
    /// Next unused unit of the last chunk, counted over all chunks.
    fresh: u32,
    /// First free block of each size; a free block's stamp names the next one.
    free: [Address; CLASSES],
    /// Bytes of the blocks that hold entries.
    used_bytes: u64,
}

impl Arena {
    pub(super) fn new() -> Arena {
        // Unit 0 is never handed out.
        Arena {
            chunks: vec![chunk()],
            fresh: 1,
            free: [Address::NONE; CLASSES],
            used_bytes: 0,
        }
    }

    /// Bytes taken from the system.
    pub(super) fn allocated_bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK_BYTES) as u64
    }

    /// Bytes of the blocks that hold entries.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Stores an entry that was last written in generation `stamp`.
    pub(super) fn insert(&mut self, key: &[u8], value: &[u8], cell: Cell, stamp: u32) -> Address {
        let class = class_for(HEAD_BYTES + key.len() + value.len());
        let address = self.take(class);
        self.used_bytes += class_bytes(class) as u64;
        let block = self.block_mut(address);
        Head::new(key.len(), value.len(), class, cell).write(block);
        write_number(block, STAMP_AT, stamp);
        let (key_to, value_to) =
            block[HEAD_BYTES..HEAD_BYTES + key.len() + value.len()].split_at_mut(key.len());
        key_to.copy_from_slice(key);
        value_to.copy_from_slice(value);
        address
    }

    /// Replaces a value in its block; false, with nothing done, when it needs another block: it
    /// does not fit, or would waste most of a large one.
    pub(super) fn overwrite(&mut self, address: Address, value: &[u8], stamp: u32) -> bool {
        let block = self.block_mut(address);
        let head = Head::of(block);
        let block_bytes = class_bytes(head.class());
        let needed = HEAD_BYTES + head.key_bytes() + value.len();
        let wasteful = block_bytes > FINE_BYTES_MAX && needed < block_bytes / 4;
        if needed > block_bytes || wasteful {
            return false;
        }
        head.with_value_bytes(value.len()).write(block);
        write_number(block, STAMP_AT, stamp);
        let at = HEAD_BYTES + head.key_bytes();
        block[at..at + value.len()].copy_from_slice(value);
        true
    }

    /// Gives a block back; its entry is gone.
    pub(super) fn remove(&mut self, address: Address) {
        let class = Head::of(self.block(address)).class();
        self.used_bytes -= class_bytes(class) as u64;
        let next = self.free[class];
        write_number(self.block_mut(address), STAMP_AT, next.0);
        self.free[class] = address;
    }

    /// Reads a byte of each of a block's first three cache lines.
    pub(super) fn touch(&self, address: Address) -> u8 {
        let block = self.block(address);
        let byte = |at: usize| block.get(at).copied().unwrap_or(0);
        block[0] ^ byte(64) ^ byte(128)
    }

    /// The generation in which the entry was last written.
    pub(super) fn stamp(&self, address: Address) -> u32 {
        number(self.block(address), STAMP_AT)
    }

    /// Three bits for whoever stores entries; zero at first, kept when a value is overwritten.
    pub(super) fn flags(&self, address: Address) -> u8 {
        Head::of(self.block(address)).flags()
    }

    pub(super) fn set_flags(&mut self, address: Address, flags: u8) {
        let block = self.block_mut(address);
        Head::of(block).with_flags(flags).write(block);
    }

    pub(super) fn cell(&self, address: Address) -> Cell {
        Head::of(self.block(address)).cell()
    }

    /// Where the entry stands in the list of its bucket.
    pub(super) fn place(&self, address: Address) -> u32 {
        number(self.block(address), PLACE_AT)
    }

    pub(super) fn set_place(&mut self, address: Address, place: u32) {
        write_number(self.block_mut(address), PLACE_AT, place);
    }

    pub(super) fn key(&self, address: Address) -> &[u8] {
        let block = self.block(address);
        &block[HEAD_BYTES..HEAD_BYTES + Head::of(block).key_bytes()]
    }

    pub(super) fn value(&self, address: Address) -> &[u8] {
        self.entry(address).1
    }

    pub(super) fn entry(&self, address: Address) -> (&[u8], &[u8]) {
        let block = self.block(address);
        let head = Head::of(block);
        block[HEAD_BYTES..HEAD_BYTES + head.key_bytes() + head.value_bytes()]
            .split_at(head.key_bytes())
    }

    fn take(&mut self, class: usize) -> Address {
        let address = self.free[class];
        if address != Address::NONE {
            self.free[class] = Address(number(self.block(address), STAMP_AT));
            return address;
        }
        let units = (class_bytes(class) / UNIT_BYTES) as u32;
        let end = self.chunks.len() as u32 * CHUNK_UNITS;
        if end - self.fresh < units {
            // The rest of the chunk is lost: at most the largest block, 3 % of a chunk.
            self.chunks.push(chunk());
            self.fresh = end;
        }
        let address = Address(self.fresh);
        self.fresh = self
            .fresh
            .checked_add(units)
            .expect("the table holds 64 GiB at most");
        address
    }

    /// From the start of a block to the end of its chunk.
    fn block(&self, address: Address) -> &[u8] {
        let (chunk, offset) = place(address);
        &self.chunks[chunk][offset..]
    }

    fn block_mut(&mut self, address: Address) -> &mut [u8] {
        let (chunk, offset) = place(address);
        &mut self.chunks[chunk][offset..]
    }
}

fn chunk() -> Box<[u8]> {
    vec![0; CHUNK_BYTES].into_boxed_slice()
}

fn place(address: Address) -> (usize, usize) {
    let Address(units) = address;
    (
        (units / CHUNK_UNITS) as usize,
        (units % CHUNK_UNITS) as usize * UNIT_BYTES,
    )
}

fn number(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(block[at..at + 4].try_into().expect("4 bytes"))
}

fn write_number(block: &mut [u8], at: usize, number: u32) {
    block[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_cell() -> Cell {
        Cell::new(Bucket::new(BUCKETS as u16 - 1).unwrap(), 255)
    }

    fn insert(arena: &mut Arena, key: &[u8], value: &[u8]) -> Address {
        arena.insert(key, value, last_cell(), 7)
    }

    #[test]
    fn classes_cover_every_size_tightly() {
        for bytes in 1..=BLOCK_BYTES_MAX {
            let class = class_for(bytes);
            assert!(class < CLASSES);
            assert!(class_bytes(class) >= bytes);
            assert!(class == 0 || class_bytes(class - 1) < bytes);
            assert!(class_bytes(class) < bytes + UNIT_BYTES.max(bytes / STEPS + 1));
            assert!(class_bytes(class).is_multiple_of(UNIT_BYTES));
        }
    }

    #[test]
    fn freed_blocks_are_reused() {
        let mut arena = Arena::new();
        let first = insert(&mut arena, b"key", &[1; 100]);
        let second = insert(&mut arena, b"yek", &[2; 100]);
        arena.remove(first);
        arena.remove(second);
        assert_eq!(insert(&mut arena, b"abc", &[3; 99]), second);
        assert_eq!(insert(&mut arena, b"abd", &[4; 98]), first);
        assert_eq!(arena.entry(second), (&b"abc"[..], &[3; 99][..]));
        assert!(arena.overwrite(first, &[], 8));
        assert_eq!(arena.entry(first), (&b"abd"[..], &[][..]));
        assert_eq!((arena.stamp(first), arena.stamp(second)), (8, 7));
        arena.set_place(first, u32::MAX);
        assert_eq!(arena.place(first), u32::MAX);
        assert_eq!(arena.cell(first), last_cell());
        assert_eq!(arena.flags(first), 0);
        arena.set_flags(first, 7);
        assert!(arena.overwrite(first, b"v", 9));
        assert_eq!((arena.flags(first), arena.value(first)), (7, &b"v"[..]));
        arena.set_flags(first, 1);
        assert_eq!(arena.cell(first), last_cell());
        assert_eq!((arena.flags(first), arena.key(first)), (1, &b"abd"[..]));
    }

    #[test]
    fn large_blocks_are_not_kept_for_small_values() {
        let mut arena = Arena::new();
        let address = insert(&mut arena, b"key", &[1; 60_000]);
        assert!(arena.overwrite(address, &[2; 30_000], 8));
        assert!(!arena.overwrite(address, &[3; 100], 8));
        assert!(!arena.overwrite(address, &[3; 65_536], 8));
        assert_eq!(arena.value(address), &[2; 30_000]);
    }
}
