//! Every quorum sum of the product (protocol §1.1), and the k-th largest of the replicas' slots.

use std::fmt;

use wire::limits::REPLICAS_MAX;

/// Sizes of the quorums of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// Replicas.
    pub n: usize,
    /// Byzantine replicas under which safety holds.
    pub b: usize,
    /// Faulty replicas under which liveness holds.
    pub u: usize,
    /// Replicas whose absence the fast path tolerates.
    pub p: usize,
}

/// A configuration that this version does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsSlowPath {
    pub fast: usize,
    pub slow: usize,
}

impl fmt::Display for NeedsSlowPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the fast quorum F = {} is larger than the slow quorum q = {}: this version has no slow \
             path; choose n, b and p with n - p = ceil((n+b+1)/2), for example n = 4, b = u = p = 1",
            self.fast, self.slow
        )
    }
}

impl std::error::Error for NeedsSlowPath {}

impl Quorums {
    /// Parameters that the committee has checked against C1-C7.
    pub fn new(n: usize, b: usize, u: usize, p: usize) -> Result<Quorums, NeedsSlowPath> {
        assert!(
            n <= REPLICAS_MAX && u < n && p <= u,
            "the committee checks C1-C7 first"
        );
        let quorums = Quorums { n, b, u, p };
        // C1 by definition of q; C2 and C4 again, because everything rests on them (I13).
        assert!(2 * quorums.slow() > n + b && 2 * quorums.fast() > n + b);
        if quorums.fast() > quorums.slow() {
            return Err(NeedsSlowPath {
                fast: quorums.fast(),
                slow: quorums.slow(),
            });
        }
        Ok(quorums)
    }

    /// q = ceil((n+b+1)/2).
    pub fn slow(&self) -> usize {
        (self.n + self.b + 1).div_ceil(2)
    }

    /// F = n - p: this many votes of one view decide.
    pub fn fast(&self) -> usize {
        self.n - self.p
    }

    /// V = n - u.
    pub fn view_change(&self) -> usize {
        self.n - self.u
    }

    /// b + 1: one of them is correct.
    pub fn one_correct(&self) -> usize {
        self.b + 1
    }
}

/// The `rank`-th largest (from 1) of `slots`: the highest slot that `rank` replicas have reached.
pub fn reached_by(rank: usize, slots: impl Iterator<Item = u64>) -> u64 {
    let mut sorted = [0u64; REPLICAS_MAX];
    let mut count = 0;
    for slot in slots {
        let at = sorted[..count].partition_point(|&larger| larger >= slot);
        sorted.copy_within(at..count, at + 1);
        sorted[at] = slot;
        count += 1;
    }
    if rank == 0 || rank > count {
        0
    } else {
        sorted[rank - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_replicas_decide_with_three_votes() {
        let quorums = Quorums::new(4, 1, 1, 1).unwrap();
        assert_eq!(
            (quorums.fast(), quorums.slow(), quorums.view_change()),
            (3, 3, 3)
        );
        assert_eq!(quorums.one_correct(), 2);
    }

    #[test]
    fn a_configuration_with_a_slow_path_is_refused() {
        assert_eq!(
            Quorums::new(7, 2, 2, 1),
            Err(NeedsSlowPath { fast: 6, slow: 5 })
        );
        assert_eq!(
            Quorums::new(4, 1, 1, 0),
            Err(NeedsSlowPath { fast: 4, slow: 3 })
        );
        assert!(Quorums::new(7, 1, 2, 2).is_ok());
    }

    #[test]
    fn reached_by_counts_from_the_top() {
        let slots = [5, 9, 9, 2];
        let reached: Vec<_> = (0..=5)
            .map(|rank| reached_by(rank, slots.into_iter()))
            .collect();
        assert_eq!(reached, [0, 9, 9, 5, 2, 0]);
    }
}
