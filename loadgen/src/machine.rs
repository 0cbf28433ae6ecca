//! What the machine is, and what this process has used of it. Linux, from /proc.

use std::fs;

use crate::result::Environment;

/// Ticks a second of the times in /proc, a constant of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that this process has used, ended threads included.
pub fn own_cpu_seconds() -> f64 {
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else {
        return 0.0;
    };
    // The name in parentheses may hold blanks; fields 14 and 15 are user and system time.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// The fingerprint of this machine. `network` says how the nodes are reached.
pub fn environment(network: &str) -> Environment {
    let cpu = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_string());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_string())
        .unwrap_or_default();
    Environment {
        cpu,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel,
        network: network.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_something() {
        let environment = environment("loopback");
        assert!(environment.cores >= 1 && !environment.cpu.is_empty());
        assert!(!environment.kernel.is_empty());
        assert!(own_cpu_seconds() >= 0.0);
    }
}
