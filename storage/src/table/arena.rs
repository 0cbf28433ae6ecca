//! Memory of the entries: large chunks cut into blocks of a few sizes, reused per size.
//!
//! A block holds one entry: 8 bytes of lengths, the key, the value. Freed blocks form one list per
//! size; a chunk is never given back. So a table whose entries keep their sizes keeps its memory.

/// Where a block starts, in units of 16 bytes; 0 is nowhere. Addresses 64 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) u32);

impl Address {
    pub(super) const NONE: Address = Address(0);
}

const UNIT_BYTES: usize = 16;
const CHUNK_BYTES: usize = 4 << 20;
const CHUNK_UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;
const HEAD_BYTES: usize = 8;

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

#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Box<[u8]>>,
    /// Next unused unit of the last chunk, counted over all chunks.
    fresh: u32,
    /// First free block of each size; a free block's first bytes name the next one.
    free: [Address; CLASSES],
}

impl Arena {
    pub(super) fn new() -> Arena {
        // Unit 0 is never handed out.
        Arena {
            chunks: vec![chunk()],
            fresh: 1,
            free: [Address::NONE; CLASSES],
        }
    }

    /// Bytes taken from the system.
    pub(super) fn allocated_bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK_BYTES) as u64
    }

    /// Stores an entry.
    pub(super) fn insert(&mut self, key: &[u8], value: &[u8]) -> Address {
        let class = class_for(HEAD_BYTES + key.len() + value.len());
        let address = self.take(class);
        let block = self.block_mut(address);
        block[4..6].copy_from_slice(&(key.len() as u16).to_le_bytes());
        block[6] = class as u8;
        block[HEAD_BYTES..HEAD_BYTES + key.len()].copy_from_slice(key);
        write_value(block, key.len(), value);
        address
    }

    /// Replaces a value in its block; false, with nothing done, when it needs another block: it
    /// does not fit, or would waste most of a large one.
    pub(super) fn overwrite(&mut self, address: Address, value: &[u8]) -> bool {
        let block = self.block_mut(address);
        let (key_bytes, _) = lengths(block);
        let block_bytes = class_bytes(usize::from(block[6]));
        let needed = HEAD_BYTES + key_bytes + value.len();
        let wasteful = block_bytes > FINE_BYTES_MAX && needed < block_bytes / 4;
        if needed > block_bytes || wasteful {
            return false;
        }
        write_value(block, key_bytes, value);
        true
    }

    /// Gives a block back; its entry is gone.
    pub(super) fn remove(&mut self, address: Address) {
        let class = usize::from(self.block(address)[6]);
        let next = self.free[class];
        self.block_mut(address)[..4].copy_from_slice(&next.0.to_le_bytes());
        self.free[class] = address;
    }

    /// Reads a byte of each of a block's first three cache lines.
    pub(super) fn touch(&self, address: Address) -> u8 {
        let block = self.block(address);
        let byte = |at: usize| block.get(at).copied().unwrap_or(0);
        block[0] ^ byte(64) ^ byte(128)
    }

    pub(super) fn key(&self, address: Address) -> &[u8] {
        let block = self.block(address);
        let (key_bytes, _) = lengths(block);
        &block[HEAD_BYTES..HEAD_BYTES + key_bytes]
    }

    pub(super) fn value(&self, address: Address) -> &[u8] {
        self.entry(address).1
    }

    pub(super) fn entry(&self, address: Address) -> (&[u8], &[u8]) {
        let block = self.block(address);
        let (key_bytes, value_bytes) = lengths(block);
        block[HEAD_BYTES..HEAD_BYTES + key_bytes + value_bytes].split_at(key_bytes)
    }

    fn take(&mut self, class: usize) -> Address {
        let address = self.free[class];
        if address != Address::NONE {
            let next = lengths(self.block(address)).1 as u32;
            self.free[class] = Address(next);
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

fn lengths(block: &[u8]) -> (usize, usize) {
    let value = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let key = u16::from_le_bytes([block[4], block[5]]);
    (usize::from(key), value as usize)
}

fn write_value(block: &mut [u8], key_bytes: usize, value: &[u8]) {
    block[..4].copy_from_slice(&(value.len() as u32).to_le_bytes());
    let at = HEAD_BYTES + key_bytes;
    block[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let first = arena.insert(b"key", &[1; 100]);
        let second = arena.insert(b"yek", &[2; 100]);
        arena.remove(first);
        arena.remove(second);
        assert_eq!(arena.insert(b"abc", &[3; 99]), second);
        assert_eq!(arena.insert(b"abd", &[4; 98]), first);
        assert_eq!(arena.entry(second), (&b"abc"[..], &[3; 99][..]));
        assert!(arena.overwrite(first, &[]));
        assert_eq!(arena.entry(first), (&b"abd"[..], &[][..]));
    }

    #[test]
    fn large_blocks_are_not_kept_for_small_values() {
        let mut arena = Arena::new();
        let address = arena.insert(b"key", &[1; 60_000]);
        assert!(arena.overwrite(address, &[2; 30_000]));
        assert!(!arena.overwrite(address, &[3; 100]));
        assert!(!arena.overwrite(address, &[3; 65_536]));
        assert_eq!(arena.value(address), &[2; 30_000]);
    }
}
