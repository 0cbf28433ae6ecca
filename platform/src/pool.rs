//! Fixed pools of aligned buffers: unique while written, counted references while shared.
//!
//! All memory, the reference counts included, is taken in [`Pool::new`]; nothing is allocated
//! afterwards. A buffer goes home when its last owner is dropped, from whatever thread.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crossbeam::queue::ArrayQueue;

/// Alignment of every buffer: what O_DIRECT wants.
pub const ALIGNMENT: usize = 4096;

/// The memory of a pool and who may use it.
struct Inner {
    name: &'static str,
    memory: NonNull<u8>,
    layout: std::alloc::Layout,
    bytes_each: usize,
    /// Owners of each buffer; 0 while it is at home.
    owners: Box<[AtomicU32]>,
    home: ArrayQueue<u32>,
}

// SAFETY: the memory is owned by this value alone and freed when it is dropped. A buffer is reached
// only through a `Buffer`, the one owner, or through `Shared`s, which only read.
unsafe impl Send for Inner {}
// SAFETY: as above; the free list and the counts are themselves safe to share.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: allocated in `Pool::new` with this layout; every `Buffer` and `Shared` holds an
        // `Arc` of this value, so none is left.
        unsafe { std::alloc::dealloc(self.memory.as_ptr(), self.layout) }
    }
}

impl Inner {
    fn start_of(&self, index: u32) -> NonNull<u8> {
        debug_assert!((index as usize) < self.owners.len());
        // SAFETY: the index is one of this pool's, so the result lies within its memory.
        unsafe { self.memory.add(index as usize * self.bytes_each) }
    }

    fn release(&self, index: u32) {
        let pushed = self.home.push(index);
        assert!(pushed.is_ok(), "every buffer has a place at home");
    }
}

/// A pool of buffers of one size. Clones share it.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

impl Pool {
    /// Takes memory for `count` buffers of at least `bytes` bytes, rounded up to whole 4 KiB. The
    /// memory is zeroed and becomes resident when it is first written.
    ///
    /// Errors: out of memory, or sizes that do not fit the address space.
    pub fn new(name: &'static str, count: usize, bytes: usize) -> io::Result<Pool> {
        let bytes_each = bytes.max(1).next_multiple_of(ALIGNMENT);
        let too_large = || io::Error::other(format!("pool {name}: {count} x {bytes} bytes"));
        let total = bytes_each.checked_mul(count).filter(|total| *total > 0);
        let layout = total
            .and_then(|total| std::alloc::Layout::from_size_align(total, ALIGNMENT).ok())
            .ok_or_else(too_large)?;
        if u32::try_from(count).is_err() {
            return Err(too_large());
        }
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or_else(too_large)?;
        let home = ArrayQueue::new(count);
        for index in 0..count as u32 {
            let _ = home.push(index);
        }
        let owners = (0..count).map(|_| AtomicU32::new(0)).collect();
        let inner = Inner {
            name,
            memory,
            layout,
            bytes_each,
            owners,
            home,
        };
        Ok(Pool {
            inner: Arc::new(inner),
        })
    }

    /// A buffer with arbitrary content, or none when all are in use.
    pub fn take(&self) -> Option<Buffer> {
        let index = self.inner.home.pop()?;
        let before = self.inner.owners[index as usize].swap(1, Ordering::Acquire);
        assert_eq!(before, 0, "a buffer at home has no owner");
        Some(Buffer {
            inner: self.inner.clone(),
            index,
        })
    }

    /// Buffers at home.
    pub fn free(&self) -> usize {
        self.inner.home.len()
    }

    /// Buffers in all.
    pub fn count(&self) -> usize {
        self.inner.owners.len()
    }

    /// Bytes of each buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.inner.bytes_each
    }

    pub fn name(&self) -> &'static str {
        self.inner.name
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Pool({}: {} of {} free)",
            self.name(),
            self.free(),
            self.count()
        )
    }
}

/// A buffer with one owner.
pub struct Buffer {
    inner: Arc<Inner>,
    index: u32,
}

impl Buffer {
    /// Ends writing and begins sharing.
    pub fn freeze(self) -> Shared {
        let end = self.inner.bytes_each;
        let buffer = std::mem::ManuallyDrop::new(self);
        // SAFETY: `buffer` is never dropped, so the `Arc` moves out of it once; the one owner
        // counted for the `Buffer` is now the one of the `Shared`.
        let inner = unsafe { std::ptr::read(&buffer.inner) };
        Shared {
            inner,
            index: buffer.index,
            start: 0,
            end: end as u32,
        }
    }

    /// Where the buffer begins; it stays there.
    pub fn as_ptr(&self) -> *const u8 {
        self.inner.start_of(self.index).as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: this is the only owner of the buffer, whose memory lives as long as `inner`.
        unsafe {
            let start = self.inner.start_of(self.index).as_ptr();
            std::slice::from_raw_parts(start, self.inner.bytes_each)
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: this is the only owner, borrowed mutably.
        unsafe {
            let start = self.inner.start_of(self.index).as_ptr();
            std::slice::from_raw_parts_mut(start, self.inner.bytes_each)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.inner.owners[self.index as usize].store(0, Ordering::Release);
        self.inner.release(self.index);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} {})", self.inner.name, self.index)
    }
}

/// Read-only part of a buffer, with any number of owners.
pub struct Shared {
    inner: Arc<Inner>,
    index: u32,
    start: u32,
    end: u32,
}

impl Shared {
    /// The given part of this part. Panics when `range` is out of bounds.
    pub fn slice(&self, range: Range<usize>) -> Shared {
        assert!(range.start <= range.end && range.end <= self.len());
        let mut part = self.clone();
        part.end = self.start + range.end as u32;
        part.start = self.start + range.start as u32;
        part
    }

    /// Makes the whole buffer writable again when this is its only owner.
    pub fn try_unique(self) -> Result<Buffer, Shared> {
        if self.inner.owners[self.index as usize].load(Ordering::Acquire) != 1 {
            return Err(self);
        }
        let shared = std::mem::ManuallyDrop::new(self);
        // SAFETY: `shared` is never dropped, so the `Arc` moves out of it once. The count was 1 and
        // this value is that owner; no other `Shared` exists from which one could be cloned.
        let inner = unsafe { std::ptr::read(&shared.inner) };
        Ok(Buffer {
            inner,
            index: shared.index,
        })
    }
}

impl Clone for Shared {
    fn clone(&self) -> Shared {
        let before = self.inner.owners[self.index as usize].fetch_add(1, Ordering::Relaxed);
        assert!((1..u32::MAX / 2).contains(&before), "owners are counted");
        Shared {
            inner: self.inner.clone(),
            ..*self
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.inner.owners[self.index as usize].fetch_sub(1, Ordering::Release) == 1 {
            // Pairs with the releases of the other owners: their reads are over.
            fence(Ordering::Acquire);
            self.inner.release(self.index);
        }
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer has at least this owner, so nobody writes it; the range lies within.
        unsafe {
            let start = self
                .inner
                .start_of(self.index)
                .as_ptr()
                .add(self.start as usize);
            std::slice::from_raw_parts(start, (self.end - self.start) as usize)
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Shared({} {} {}..{})",
            self.inner.name, self.index, self.start, self.end
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_bounded_and_come_home() {
        let pool = Pool::new("test", 2, 5000).unwrap();
        assert_eq!(
            (pool.buffer_bytes(), pool.count(), pool.free()),
            (8192, 2, 2)
        );
        let mut first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        assert_eq!(first.as_ptr() as usize % ALIGNMENT, 0);
        first[0] = 7;
        let shared = first.freeze();
        let part = shared.slice(0..10).slice(0..1);
        assert_eq!(&*part, &[7]);
        drop(shared);
        assert_eq!(pool.free(), 0);
        drop((part, second));
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn only_the_last_owner_writes_again() {
        let pool = Pool::new("test", 1, 1).unwrap();
        let shared = pool.take().unwrap().freeze();
        let other = shared.clone();
        let shared = shared.try_unique().unwrap_err();
        drop(other);
        let mut buffer = shared.try_unique().unwrap();
        buffer[4095] = 1;
        drop(buffer);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn owners_on_other_threads_bring_buffers_home() {
        let pool = Pool::new("test", 8, 64).unwrap();
        let rounds = if cfg!(miri) { 20 } else { 200 };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for round in 0..rounds {
                        let Some(mut buffer) = pool.take() else {
                            continue;
                        };
                        buffer[0] = round as u8;
                        let shared = buffer.freeze();
                        let other = shared.slice(0..1);
                        let reader = std::thread::spawn(move || other[0]);
                        assert_eq!(shared[0], round as u8);
                        assert_eq!(reader.join().unwrap(), round as u8);
                    }
                });
            }
        });
        assert_eq!(pool.free(), 8);
    }
}
