//! Named, pinned threads.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::cores;

/// Longest name that the kernel keeps.
pub const NAME_BYTES_MAX: usize = 15;

/// Starts a thread under a name that perf and top show whole, pinned to `core` if given.
///
/// Errors: the thread cannot be made. A pin that the scheduler refuses is reported on standard
/// error by the thread, which then runs unpinned.
pub fn spawn<T: Send + 'static>(
    name: &str,
    core: Option<usize>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    assert!(
        name.len() <= NAME_BYTES_MAX,
        "thread name {name} is too long"
    );
    let shown = name.to_owned();
    Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(core) = core
            && let Err(error) = cores::pin_current(core)
        {
            eprintln!("thread {shown}: {error}");
        }
        work()
    })
}
