//! Pools of one simulated process: bounded as in production, so that running out of buffers, and
//! buffers that never come back, are seen here too.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use wire::bytes::{Buffers, SharedBytes, UniqueBytes};

#[derive(Debug)]
struct Home {
    spare: RefCell<Vec<Vec<u8>>>,
    used: Cell<usize>,
    used_max: Cell<usize>,
    capacity: usize,
    bytes_each: usize,
}

/// A bounded pool of buffers of one size.
#[derive(Clone, Debug)]
pub struct Pool {
    home: Rc<Home>,
}

impl Pool {
    pub fn new(capacity: usize, bytes_each: usize) -> Pool {
        Pool {
            home: Rc::new(Home {
                spare: RefCell::default(),
                used: Cell::new(0),
                used_max: Cell::new(0),
                capacity,
                bytes_each,
            }),
        }
    }

    /// The most buffers that were in use at once.
    pub fn used_max(&self) -> usize {
        self.home.used_max.get()
    }

    pub fn capacity(&self) -> usize {
        self.home.capacity
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Unique {
    bytes: Vec<u8>,
    home: Option<Rc<Home>>,
}

impl Drop for Unique {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.used.set(home.used.get() - 1);
            home.spare
                .borrow_mut()
                .push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A part of a shared buffer.
#[derive(Clone, Debug)]
pub struct Shared {
    buffer: Rc<Unique>,
    start: usize,
    end: usize,
}

impl Shared {
    /// Bytes outside of any pool, for datagrams and records on their way in.
    pub fn copy_from(bytes: &[u8]) -> Shared {
        let end = bytes.len();
        let buffer = Unique {
            bytes: bytes.to_vec(),
            home: None,
        };
        Shared {
            buffer: Rc::new(buffer),
            start: 0,
            end,
        }
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }
}

impl SharedBytes for Shared {
    fn slice(&self, range: Range<usize>) -> Shared {
        assert!(range.start <= range.end && range.end <= self.len());
        let (start, end) = (self.start + range.start, self.start + range.end);
        Shared {
            buffer: Rc::clone(&self.buffer),
            start,
            end,
        }
    }
}

impl Deref for Unique {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Unique {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl UniqueBytes for Unique {
    type Shared = Shared;

    fn freeze(self) -> Shared {
        let end = self.bytes.len();
        Shared {
            buffer: Rc::new(self),
            start: 0,
            end,
        }
    }
}

impl Buffers for Pool {
    type Shared = Shared;
    type Unique = Unique;

    fn take(&mut self) -> Option<Unique> {
        let home = &self.home;
        let used = home.used.get() + 1;
        if used > home.capacity {
            return None;
        }
        home.used.set(used);
        home.used_max.set(home.used_max.get().max(used));
        let spare = home.spare.borrow_mut().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; home.bytes_each]);
        Some(Unique {
            bytes,
            home: Some(Rc::clone(home)),
        })
    }

    fn buffer_bytes(&self) -> usize {
        self.home.bytes_each
    }

    fn free(&self) -> usize {
        self.home.capacity - self.home.used.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let mut pool = Pool::new(2, 16);
        let shared = pool.take().unwrap().freeze();
        let part = shared.slice(4..8);
        drop(shared);
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        drop(part);
        assert_eq!(pool.free(), 1);
        drop(second);
        assert_eq!((pool.free(), pool.used_max()), (2, 2));
    }
}
