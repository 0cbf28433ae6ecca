//! Fixed pools of aligned buffers: unique while written, counted references while shared.
//!
//! All memory, the reference counts included, is taken in [`Pool::new`]; nothing is allocated
//! afterwards. A buffer goes home when its last owner is dropped, from whatever thread.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crossbeam::utils::CachePadded;

use crate::stack::{NUMBERS_MAX, Stack};

/// Alignment of every buffer: what O_DIRECT wants.
pub const ALIGNMENT: usize = 4096;

/// Zeroed pages of the kernel, which become resident when they are first written.
struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

#[cfg(not(miri))]
impl Region {
    fn new(bytes: usize) -> io::Result<Region> {
        // SAFETY: a fresh private mapping touches no memory of ours; the result is checked.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Region { start, bytes })
    }
}

#[cfg(not(miri))]
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length and owned by this value; whoever drops it holds
        // the last handle, so nothing points into it.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        assert_eq!(result, 0, "a region is unmapped once");
    }
}

/// The interpreter has no kernel to map pages.
#[cfg(miri)]
impl Region {
    fn layout(bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(bytes, ALIGNMENT).expect("checked in Pool::new")
    }

    fn new(bytes: usize) -> io::Result<Region> {
        // SAFETY: the layout has a size above zero; the result is owned by the new value.
        let start = unsafe { std::alloc::alloc_zeroed(Region::layout(bytes)) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Region { start, bytes })
    }
}

#[cfg(miri)]
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout and owned by this value alone.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), Region::layout(self.bytes)) }
    }
}

/// The memory of a pool and who may use it.
struct Inner {
    name: &'static str,
    region: Region,
    bytes_each: usize,
    /// Owners of each buffer; 0 while it is at home. Padded: neighbours belong to other threads.
    owners: Box<[CachePadded<AtomicU32>]>,
    home: CachePadded<Stack>,
}

// SAFETY: the region is owned by this value alone and freed when it is dropped. A buffer is reached
// only through a `Buffer`, the one owner, or through `Shared`s, which only read.
unsafe impl Send for Inner {}
// SAFETY: as above; the free list and the counts are themselves safe to share.
unsafe impl Sync for Inner {}

impl Inner {
    fn start_of(&self, index: u32) -> NonNull<u8> {
        debug_assert!((index as usize) < self.owners.len());
        // SAFETY: the index is one of this pool's, so the result lies within its region.
        unsafe { self.region.start.add(index as usize * self.bytes_each) }
    }
}

/// A buffer that is not at home. It stands for one count of the pool's `Arc`, however many owners
/// the buffer has: sharing a buffer touches the buffer's own count and nothing of the pool's.
///
/// Whoever sees the last owner go calls `release`, once.
#[derive(Clone, Copy)]
struct Taken {
    inner: NonNull<Inner>,
    index: u32,
}

// SAFETY: `Inner` may be used from any thread, and the count that this value stands for keeps it.
unsafe impl Send for Taken {}
// SAFETY: as above.
unsafe impl Sync for Taken {}

impl Taken {
    fn new(inner: Arc<Inner>, index: u32) -> Taken {
        // SAFETY: `into_raw` never gives null.
        let inner = unsafe { NonNull::new_unchecked(Arc::into_raw(inner).cast_mut()) };
        Taken { inner, index }
    }

    fn inner(&self) -> &Inner {
        // SAFETY: the count held since `new` keeps the pool until `release`, which the last owner
        // calls when no owner is left to come here.
        unsafe { self.inner.as_ref() }
    }

    fn owners(&self) -> &AtomicU32 {
        &self.inner().owners[self.index as usize]
    }

    fn start(&self) -> NonNull<u8> {
        self.inner().start_of(self.index)
    }

    /// Brings the buffer home. The owners are zero.
    fn release(self) {
        // SAFETY: the pointer came from `into_raw` in `new`; this is the one call that takes the
        // count back. It goes after the push, which may be the pool's last use.
        let inner = unsafe { Arc::from_raw(self.inner.as_ptr().cast_const()) };
        inner.home.push(self.index);
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
        let too_large = || io::Error::other(format!("pool {name}: {count} x {bytes} bytes"));
        let bytes_each = bytes.max(1).checked_next_multiple_of(ALIGNMENT);
        let bytes_each = bytes_each.ok_or_else(too_large)?;
        let total = bytes_each.checked_mul(count).filter(|total| *total > 0);
        let total = total
            .filter(|total| *total <= isize::MAX as usize)
            .ok_or_else(too_large)?;
        // A `Shared` keeps its range in 32 bits.
        if count > NUMBERS_MAX || u32::try_from(bytes_each).is_err() {
            return Err(too_large());
        }
        let region = Region::new(total)?;
        let owners = (0..count)
            .map(|_| CachePadded::new(AtomicU32::new(0)))
            .collect();
        let inner = Inner {
            name,
            region,
            bytes_each,
            owners,
            home: CachePadded::new(Stack::full(count)),
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
            taken: Taken::new(self.inner.clone(), index),
        })
    }

    /// Buffers at home.
    pub fn free(&self) -> usize {
        self.inner.home.held()
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
    taken: Taken,
}

impl Buffer {
    /// Ends writing and begins sharing.
    pub fn freeze(self) -> Shared {
        // The one owner counted for the `Buffer` is now the one of the `Shared`.
        let taken = std::mem::ManuallyDrop::new(self).taken;
        Shared {
            taken,
            start: 0,
            end: taken.inner().bytes_each as u32,
        }
    }

    /// Where the buffer begins; it stays there.
    pub fn as_ptr(&self) -> *const u8 {
        self.taken.start().as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: this is the only owner of the buffer, whose memory the taken pool keeps.
        unsafe {
            let start = self.taken.start().as_ptr();
            std::slice::from_raw_parts(start, self.taken.inner().bytes_each)
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: this is the only owner, borrowed mutably.
        unsafe {
            let start = self.taken.start().as_ptr();
            std::slice::from_raw_parts_mut(start, self.taken.inner().bytes_each)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.taken.owners().store(0, Ordering::Release);
        self.taken.release();
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Buffer({} {})",
            self.taken.inner().name,
            self.taken.index
        )
    }
}

/// Read-only part of a buffer, with any number of owners.
pub struct Shared {
    taken: Taken,
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
        if self.taken.owners().load(Ordering::Acquire) != 1 {
            return Err(self);
        }
        // The count was 1 and this value is that owner; no other `Shared` exists from which one
        // could be cloned.
        let taken = std::mem::ManuallyDrop::new(self).taken;
        Ok(Buffer { taken })
    }
}

impl Clone for Shared {
    fn clone(&self) -> Shared {
        let before = self.taken.owners().fetch_add(1, Ordering::Relaxed);
        assert!((1..u32::MAX / 2).contains(&before), "owners are counted");
        Shared { ..*self }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.taken.owners().fetch_sub(1, Ordering::Release) == 1 {
            // Pairs with the releases of the other owners: their reads are over.
            fence(Ordering::Acquire);
            self.taken.release();
        }
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer has at least this owner, so nobody writes it; the range lies within.
        unsafe {
            let start = self.taken.start().as_ptr().add(self.start as usize);
            std::slice::from_raw_parts(start, (self.end - self.start) as usize)
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Shared({} {} {}..{})",
            self.taken.inner().name,
            self.taken.index,
            self.start,
            self.end
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
    fn memory_outlives_the_pool_while_a_handle_is_left() {
        let pool = Pool::new("test", 2, 100).unwrap();
        let mut buffer = pool.take().unwrap();
        let other = pool.take().unwrap().freeze();
        drop(pool);
        assert!(other.iter().all(|byte| *byte == 0), "pages begin zeroed");
        buffer[99] = 9;
        let part = buffer.freeze().slice(90..100);
        drop(other);
        assert_eq!(std::thread::spawn(move || part[9]).join().unwrap(), 9);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for (count, bytes) in [(0, 1), (1, usize::MAX), (1, 1 << 32), (usize::MAX, 4096)] {
            let error = Pool::new("large", count, bytes).unwrap_err();
            assert!(error.to_string().contains("large"), "{error}");
        }
    }

    #[test]
    #[should_panic(expected = "range")]
    fn a_slice_stays_within_its_part() {
        let pool = Pool::new("test", 1, 100).unwrap();
        let part = pool.take().unwrap().freeze().slice(10..20);
        let _ = part.slice(0..11);
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
