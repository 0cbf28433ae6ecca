//! The pools of the machine half behind the buffer traits of the pure half.

use std::ops::{Deref, DerefMut, Range};

use platform::pool;
use wire::bytes::{Buffers, SharedBytes, UniqueBytes};

/// Pooled bytes with any number of owners.
#[derive(Clone)]
pub struct Bytes(pub pool::Shared);

/// A pooled buffer with one owner.
pub struct Block(pub pool::Buffer);

/// A pool as a source of buffers.
#[derive(Clone)]
pub struct Pooled(pub pool::Pool);

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl SharedBytes for Bytes {
    fn slice(&self, range: Range<usize>) -> Bytes {
        Bytes(self.0.slice(range))
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl UniqueBytes for Block {
    type Shared = Bytes;

    fn freeze(self) -> Bytes {
        Bytes(self.0.freeze())
    }
}

impl Buffers for Pooled {
    type Shared = Bytes;
    type Unique = Block;

    fn take(&mut self) -> Option<Block> {
        self.0.take().map(Block)
    }

    fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes()
    }

    fn free(&self) -> usize {
        self.0.free()
    }
}
