//! What /proc says of processes and of the machine, and limits of the own process.

use std::fs;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

/// A tenth of the weight of the others on a full machine.
const LATE_PRIORITY: i32 = 10;

/// CPU seconds (user and system) that a process has used; `None` when it is gone.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks.
    let after_name = stat.rsplit_once(") ")?.1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident bytes of a process.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Raises the soft limit of open files to `needed`, or as far as the hard limit allows, and returns
/// the limit then in force. The kernel allows so many files at once, and as many registered with
/// one io_uring; the usual soft limit of 1,024 is only for programs that use select(2).
pub fn raise_open_files(needed: u64) -> u64 {
    // Threads open their drivers at once: one that read the limit before must not lower it again.
    static CHANGING: Mutex<()> = Mutex::new(());
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    let have = limit.current.unwrap_or(u64::MAX);
    let wanted = needed.min(limit.maximum.unwrap_or(u64::MAX));
    if wanted > have {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        // A sandbox may forbid it; the limit read below says what came of it.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lowers the priority of the calling thread, for work that may be late.
pub fn yield_to_others() {
    // Linux keeps priorities by thread; 0 is the calling one. A sandbox may forbid it.
    let _ = setpriority_process(None, LATE_PRIORITY);
}

/// The machine in a few words, without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
}

impl Fingerprint {
    pub fn read() -> Fingerprint {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .and_then(|rest| rest.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Fingerprint {
            cpu: cpu.to_owned(),
            cores: info
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore)]
    fn the_own_process_is_there() {
        let own = std::process::id();
        assert!(cpu_seconds(own).is_some() && rss_bytes(own).is_some_and(|bytes| bytes > 4096));
        assert!(cpu_seconds(u32::MAX).is_none());
        assert!(Fingerprint::read().cores > 0);
    }
}
