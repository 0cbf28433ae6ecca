//! Wakes a thread that waits in its driver; costs a system call only when it sleeps.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[derive(Debug)]
struct Inner {
    sleeping: AtomicBool,
    event: OwnedFd,
}

/// A handle to one sleeping place. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker {
    inner: Arc<Inner>,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        // SAFETY: the call takes no memory of ours; a result >= 0 is a descriptor that we own.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let inner = Inner {
            sleeping: AtomicBool::new(false),
            event,
        };
        Ok(Waker {
            inner: Arc::new(inner),
        })
    }

    /// Wakes the thread if it sleeps or is about to. Call it after the work was made visible.
    pub fn wake(&self) {
        // Pairs with the fence in `prepare_sleep`: either the sleeper sees the work, or we see it
        // sleeping.
        fence(Ordering::SeqCst);
        if self.inner.sleeping.load(Ordering::Relaxed)
            && self.inner.sleeping.swap(false, Ordering::AcqRel)
        {
            let one = 1u64;
            // SAFETY: writes eight bytes of a local to a descriptor that `inner` keeps open.
            let written =
                unsafe { libc::write(self.fd(), (&raw const one).cast(), size_of::<u64>()) };
            // EAGAIN: the counter is full, so a wake-up is pending anyway.
            debug_assert!(
                written == 8 || io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
            );
        }
    }

    /// Announces sleep. The caller then looks once more for work before it waits.
    pub fn prepare_sleep(&self) {
        self.inner.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Awake again.
    pub fn end_sleep(&self) {
        self.inner.sleeping.store(false, Ordering::Release);
    }

    /// Forgets past wake-ups.
    pub fn drain(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a local from a descriptor that `inner` keeps open.
        unsafe { libc::read(self.fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Becomes readable when the thread is woken.
    pub fn fd(&self) -> RawFd {
        self.inner.event.as_raw_fd()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    /// Whether the descriptor becomes readable within that time.
    fn readable(waker: &Waker, patience: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: waker.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd of ours, which lives through the call.
        let ready = unsafe { libc::poll(&mut poll, 1, patience.as_millis() as i32) };
        ready == 1
    }

    #[test]
    fn only_a_sleeper_is_woken_and_once() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!readable(&waker, Duration::ZERO), "nobody slept");
        waker.prepare_sleep();
        waker.clone().wake();
        waker.wake();
        assert!(readable(&waker, Duration::ZERO));
        waker.end_sleep();
        waker.drain();
        assert!(!readable(&waker, Duration::ZERO));
        waker.wake();
        assert!(!readable(&waker, Duration::ZERO), "awake again");
    }

    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: u64 = 20_000;
        let waker = Waker::new().unwrap();
        let work = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicU64::new(0));
        let worker = {
            let (waker, work, done) = (waker.clone(), work.clone(), done.clone());
            std::thread::spawn(move || {
                let mut seen = 0;
                while seen < ROUNDS {
                    waker.prepare_sleep();
                    if work.load(Ordering::Relaxed) == seen {
                        assert!(readable(&waker, Duration::from_secs(20)), "lost at {seen}");
                    }
                    waker.end_sleep();
                    waker.drain();
                    seen = work.load(Ordering::Relaxed);
                    done.store(seen, Ordering::Release);
                }
            })
        };
        for round in 1..=ROUNDS {
            work.store(round, Ordering::Relaxed);
            waker.wake();
            while done.load(Ordering::Acquire) < round {
                assert!(!worker.is_finished(), "the worker failed");
                std::thread::yield_now();
            }
        }
        worker.join().unwrap();
    }
}
