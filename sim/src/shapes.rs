//! Committees that the simulator can judge, and their quorums as literal numbers: on purpose not
//! computed, so that a wrong sum in the product does not become a wrong sum here.

/// One committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    /// Replicas, liars among them under which safety holds, faulty ones under which it lives, and
    /// absent ones under which it is fast.
    pub n: usize,
    pub b: usize,
    pub u: usize,
    pub p: usize,
    /// A leader caught lying is not counted in a view change.
    pub exclusion: bool,
    /// Votes bear no signatures: links alone prove them.
    pub votes_by_mac: bool,
    /// Votes that decide; COMMITs, acknowledgements and equal states that do; view changes.
    pub fast: usize,
    pub slow: usize,
    pub change: usize,
    /// View changes that may miss a block which was decided fast, without and with an excluded liar.
    pub missing: [usize; 2],
}

/// Every committee that can be judged.
pub const SHAPES: &[Shape] = &[
    shape("4", [4, 1, 1, 1], true, [3, 3, 3], [2, 1]),
    shape("5", [5, 1, 1, 1], true, [4, 4, 4], [2, 1]),
    shape("6", [6, 1, 2, 1], true, [5, 4, 4], [2, 1]),
    shape("7", [7, 2, 2, 1], true, [6, 5, 5], [3, 2]),
    shape("7-fast", [7, 1, 2, 2], true, [5, 5, 5], [3, 2]),
    shape("10", [10, 3, 3, 1], true, [9, 7, 7], [4, 3]),
    shape("4-strict", [4, 1, 1, 0], false, [4, 3, 3], [1, 1]),
    shape("4-safe", [4, 2, 0, 0], true, [4, 4, 4], [2, 1]),
    by_mac(shape("4-mac", [4, 1, 1, 1], true, [3, 3, 3], [2, 1])),
];

const fn shape(
    name: &'static str,
    [n, b, u, p]: [usize; 4],
    exclusion: bool,
    [fast, slow, change]: [usize; 3],
    missing: [usize; 2],
) -> Shape {
    Shape {
        name,
        n,
        b,
        u,
        p,
        exclusion,
        votes_by_mac: false,
        fast,
        slow,
        change,
        missing,
    }
}

const fn by_mac(shape: Shape) -> Shape {
    Shape {
        votes_by_mac: true,
        ..shape
    }
}

impl Shape {
    /// The shape of this name; a number names the usual committee of so many replicas.
    pub fn named(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// Whether COMMITs are sent: the votes alone do not decide soon enough.
    pub fn has_slow_path(&self) -> bool {
        self.fast > self.slow
    }
}
