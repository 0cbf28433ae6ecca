//! Buffers that cross the boundary between the halves.
//!
//! Block and datagram bytes are written once, then shared without a copy by the log, the network
//! and the table. In production they are pooled, aligned buffers; in the simulator plain memory.

use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// Read-only bytes with any number of owners; a clone costs a counter, never a copy.
pub trait SharedBytes: Clone + Deref<Target = [u8]> + 'static {
    /// The given part of these bytes. Panics when `range` is out of bounds (our own error).
    fn slice(&self, range: Range<usize>) -> Self;
}

/// Bytes with one owner, writable until they are frozen.
pub trait UniqueBytes: DerefMut<Target = [u8]> + 'static {
    type Shared: SharedBytes;

    /// Ends writing and begins sharing.
    fn freeze(self) -> Self::Shared;
}

/// A bounded source of writable buffers of one size.
pub trait Buffers {
    type Shared: SharedBytes;
    type Unique: UniqueBytes<Shared = Self::Shared>;

    /// A buffer of `buffer_bytes()` bytes with arbitrary content, or none when all are in use.
    fn take(&mut self) -> Option<Self::Unique>;

    /// Size of each buffer.
    fn buffer_bytes(&self) -> usize;

    /// How many buffers could be taken now.
    fn free(&self) -> usize;
}

/// Plain heap memory behind the same traits: simulator and tests.
#[derive(Clone, Debug)]
pub struct HeapShared {
    bytes: Arc<[u8]>,
    start: usize,
    end: usize,
}

impl HeapShared {
    pub fn copy_from(bytes: &[u8]) -> HeapShared {
        HeapShared {
            bytes: Arc::from(bytes),
            start: 0,
            end: bytes.len(),
        }
    }
}

impl Deref for HeapShared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

impl SharedBytes for HeapShared {
    fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len());
        HeapShared {
            bytes: Arc::clone(&self.bytes),
            start: self.start + range.start,
            end: self.start + range.end,
        }
    }
}

/// Heap memory with one owner.
#[derive(Debug)]
pub struct HeapUnique(pub Vec<u8>);

impl Deref for HeapUnique {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for HeapUnique {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl UniqueBytes for HeapUnique {
    type Shared = HeapShared;

    fn freeze(self) -> HeapShared {
        let end = self.0.len();
        HeapShared {
            bytes: Arc::from(self.0),
            start: 0,
            end,
        }
    }
}

/// An unbounded source of heap buffers of one size.
#[derive(Clone, Debug)]
pub struct HeapBuffers {
    pub bytes_each: usize,
}

impl Buffers for HeapBuffers {
    type Shared = HeapShared;
    type Unique = HeapUnique;

    fn take(&mut self) -> Option<HeapUnique> {
        Some(HeapUnique(vec![0; self.bytes_each]))
    }

    fn buffer_bytes(&self) -> usize {
        self.bytes_each
    }

    fn free(&self) -> usize {
        usize::MAX
    }
}
