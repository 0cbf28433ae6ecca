//! What the system knows of this process.

use std::fs;

/// Processor time in seconds, all threads, user and system; 0 where it cannot be read.
pub fn cpu_seconds() -> f64 {
    /// What `/proc` counts in, on every Linux since 2.6.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command, in parentheses, may itself hold spaces and parentheses.
    let Some((_, fields)) = text.rsplit_once(')') else {
        return 0.0;
    };
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_SECOND
}

/// Resident memory in bytes; 0 where it cannot be read.
pub fn rss_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_is_measured() {
        assert!(super::rss_bytes() > 100_000);
        let start = std::time::Instant::now();
        while super::cpu_seconds() == 0.0 {
            assert!(
                start.elapsed().as_secs() < 60,
                "no processor time was counted"
            );
        }
    }
}
