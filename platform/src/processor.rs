//! What a build needs of the processor that it runs on.

use std::fs;

/// Features that a native build takes for granted, and whether this build does.
const FEATURES: &[(&str, bool)] = &[
    ("avx2", cfg!(target_feature = "avx2")),
    ("bmi2", cfg!(target_feature = "bmi2")),
    ("avx512f", cfg!(target_feature = "avx512f")),
    ("avx512vl", cfg!(target_feature = "avx512vl")),
    ("avx512ifma", cfg!(target_feature = "avx512ifma")),
];

/// A feature that this program was compiled for and that this processor lacks. To be asked first of
/// all: what follows may end in an illegal instruction.
pub fn missing() -> Option<&'static str> {
    // Where the system does not tell, the program tries.
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    missing_in(&info, FEATURES)
}

fn missing_in(info: &str, features: &[(&'static str, bool)]) -> Option<&'static str> {
    let flags = info.lines().find(|line| line.starts_with("flags"))?;
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let lacking = features.iter().find(|(name, needed)| *needed && !has(name));
    lacking.map(|(name, _)| *name)
}

/// What to do about it.
pub fn advice(missing: &str) -> String {
    format!(
        "this program was built for a processor with {missing}, which this one lacks; build it on \
         this machine, or for any with RUSTFLAGS='--cfg curve25519_dalek_backend=\"avx512\"'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "processor : 0\nflags\t\t: fpu avx2 bmi2 avx512f\nbugs : none\n";

    #[test]
    fn what_is_needed_and_not_there_is_named() {
        let features = |ifma| [("avx2", true), ("avx512ifma", ifma)];
        assert_eq!(missing_in(INFO, &features(true)), Some("avx512ifma"));
        assert_eq!(missing_in(INFO, &features(false)), None);
        assert_eq!(missing_in("", &features(true)), None);
        assert!(advice("avx512ifma").contains("avx512ifma"));
    }

    /// Tests are built where they run.
    #[test]
    fn this_processor_lacks_nothing() {
        assert_eq!(missing(), None);
    }
}
