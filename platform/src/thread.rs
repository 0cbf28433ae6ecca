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

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn threads_have_their_name_and_their_core() {
        let core = cores::Cores::read().unwrap().allowed()[0];
        let thread = spawn("fifteen-letters", Some(core), move || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            (name, cores::Cores::read().unwrap())
        });
        let (name, cores) = thread.unwrap().join().unwrap();
        assert_eq!(name.trim(), "fifteen-letters");
        assert_eq!(cores.allowed(), [core]);
    }

    #[test]
    #[should_panic(expected = "too long")]
    fn a_name_that_would_be_cut_is_refused() {
        let _ = spawn("sixteen-letters-", None, || ());
    }
}
