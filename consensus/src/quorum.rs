//! Every quorum sum of the product (protocol §1.1), and the k-th largest of the replicas' slots.

use wire::committee::{Committee, Exclusion};
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
    /// A leader that view changes prove to be an equivocator is not counted (SELECT-3).
    pub exclusion: bool,
}

impl Quorums {
    /// Parameters that the committee has checked against C1-C7; again here, because everything
    /// rests on them (I13).
    pub fn new(n: usize, b: usize, u: usize, p: usize, exclusion: bool) -> Quorums {
        let quorums = Quorums {
            n,
            b,
            u,
            p,
            exclusion,
        };
        assert!(1 <= b && p <= u && u < n && n <= REPLICAS_MAX, "I13: range");
        let (slow, fast, change) = (quorums.slow(), quorums.fast(), quorums.view_change());
        let both = n + b + 1;
        assert!(2 * slow >= both && slow <= change, "I13: C1, C2");
        assert!(fast + slow >= both && 2 * fast >= both, "I13: C3, C4");
        assert!(
            slow + change >= both && fast + change >= both,
            "I13: C5, C6"
        );
        let explained = if exclusion {
            2 * (p + b) - 1
        } else {
            2 * (p + b) + 1
        };
        assert!(change >= explained, "I13: C7");
        quorums
    }

    /// Those of a committee.
    pub fn of(committee: &Committee) -> Quorums {
        let given = committee.parameters();
        let exclusion = committee.exclusion() == Exclusion::On;
        Quorums::new(given.n, given.b, given.u, given.p, exclusion)
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

    /// Whether COMMITs are sent: where F = q the votes alone decide.
    pub fn has_slow_path(&self) -> bool {
        self.fast() > self.slow()
    }

    /// N2: whether votes after a jump to a block that is not shown to descend from the old tip could
    /// break a quorum (L2).
    pub fn jumps_are_risky(&self) -> bool {
        self.has_slow_path() && self.u >= self.b + 2
    }

    /// p + b - e: view changes that may miss a block which was decided fast; `excluded` of the
    /// liars are known (SELECT-5).
    pub fn missing_at_most(&self, excluded: usize) -> usize {
        self.p + self.b - excluded
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
        let quorums = Quorums::new(4, 1, 1, 1, true);
        assert_eq!(
            (quorums.fast(), quorums.slow(), quorums.view_change()),
            (3, 3, 3)
        );
        assert_eq!(quorums.one_correct(), 2);
        assert!(!quorums.has_slow_path());
    }

    #[test]
    fn some_configurations_have_a_slow_path() {
        let seven = Quorums::new(7, 2, 2, 1, true);
        assert_eq!((seven.fast(), seven.slow()), (6, 5));
        assert!(seven.has_slow_path());
        assert!(Quorums::new(4, 1, 1, 0, false).has_slow_path());
        assert!(!Quorums::new(7, 1, 2, 2, true).has_slow_path());
    }

    #[test]
    #[should_panic(expected = "C7")]
    fn too_fast_a_path_is_refused() {
        Quorums::new(7, 2, 2, 2, true);
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
