//! An allocator that counts, by stage: hot stages must not allocate after start.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// Stages that can be told apart.
pub const STAGES_MAX: usize = 16;
/// Outside every stage.
pub const NONE: u8 = u8::MAX;

static COUNTS: [CachePadded<AtomicU64>; STAGES_MAX] =
    [const { CachePadded::new(AtomicU64::new(0)) }; STAGES_MAX];

thread_local! {
    static STAGE: Cell<u8> = const { Cell::new(NONE) };
}

/// From here on this thread's allocations belong to `stage`; returns the one before.
pub fn enter(stage: u8) -> u8 {
    STAGE.replace(stage)
}

/// Allocations of a stage, on all threads, since the process started.
pub fn allocations(stage: u8) -> u64 {
    COUNTS
        .get(usize::from(stage))
        .map_or(0, |count| count.load(Ordering::Relaxed))
}

fn count() {
    // `try_with`: the thread may be past the end of its thread-locals.
    let stage = STAGE.try_with(Cell::get).unwrap_or(NONE);
    if let Some(count) = COUNTS.get(usize::from(stage)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts what another allocator hands out.
pub struct Tripwire<A>(A);

impl<A> Tripwire<A> {
    pub const fn new(allocator: A) -> Tripwire<A> {
        Tripwire(allocator)
    }
}

// SAFETY: every call goes to the inner allocator unchanged; counting allocates nothing.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Tripwire<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.realloc(memory, layout, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[global_allocator]
    static ALLOCATOR: Tripwire<System> = Tripwire::new(System);

    #[test]
    fn allocations_are_counted_where_they_happen() {
        let before = allocations(15);
        let outer = enter(15);
        let memory = std::hint::black_box(Vec::<u8>::with_capacity(100));
        enter(outer);
        drop(memory);
        let _elsewhere = std::hint::black_box(vec![1]);
        assert_eq!(allocations(15), before + 1);
        assert_eq!(allocations(NONE), 0);
    }
}
