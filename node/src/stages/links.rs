//! Ring ends as stages hold them: a push marks the consumer's thread to be woken, once a turn.

use platform::ring::{Consumer, Producer, spsc};
use platform::waker::Waker;

/// The producing end of a link.
pub struct Outlet<T> {
    ring: Producer<T>,
    /// The consumer's thread, when it is another one.
    waker: Option<Waker>,
    pushed: bool,
}

/// The consuming end of a link.
pub struct Inlet<T> {
    ring: Consumer<T>,
}

/// A link of `depth` items whose consumer is woken by `waker` when it runs on another thread.
pub fn link<T>(depth: usize, waker: Option<Waker>) -> (Outlet<T>, Inlet<T>) {
    let (producer, consumer) = spsc(depth);
    (
        Outlet {
            ring: producer,
            waker,
            pushed: false,
        },
        Inlet { ring: consumer },
    )
}

impl<T> Outlet<T> {
    /// Hands an item over, or back when the ring is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.pushed = true;
        self.ring.push(item)
    }

    /// Items that wait.
    pub fn queued(&self) -> usize {
        self.ring.len()
    }

    /// Free places.
    pub fn room(&self) -> usize {
        self.ring.capacity() - self.ring.len()
    }

    /// Wakes the consumer if anything was pushed since the last call.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.pushed)
            && let Some(waker) = &self.waker
        {
            waker.wake();
        }
    }
}

impl<T> Inlet<T> {
    /// Items that wait.
    pub fn queued(&self) -> usize {
        self.ring.len()
    }

    pub fn pop(&mut self) -> Option<T> {
        self.ring.pop()
    }
}
