//! The four integers n, b, u, p and the conditions C1-C7 between them (protocol §1.1).

use std::fmt;

use super::Exclusion;
use crate::limits::REPLICAS_MAX;

/// Safety against liveness as a choice of four integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Replicas.
    pub n: usize,
    /// Byzantine replicas at most for which safety holds; at least 1.
    pub b: usize,
    /// Faulty replicas of any kind at most for which liveness holds.
    pub u: usize,
    /// Replicas that may be missing while two delays still commit; at most u.
    pub p: usize,
}

/// A condition of protocol §1.1 that parameters must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// n <= REPLICAS_MAX, 1 <= b, p <= u < n.
    Range,
    C1,
    C2,
    C3,
    C4,
    C5,
    C6,
    C7,
    C7Strict,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Condition::Range => "range (1 <= b, p <= u < n <= 31)",
            Condition::C1 => "C1 (2q >= n+b+1: two q-quorums share a correct replica)",
            Condition::C2 => "C2 (q <= n-u: the slow quorum is reachable with u faults)",
            Condition::C3 => "C3 (F+q >= n+b+1: fast and slow quorums share a correct replica)",
            Condition::C4 => "C4 (2F >= n+b+1: two fast quorums share a correct replica)",
            Condition::C5 => "C5 (q+V >= n+b+1: every view change sees a slow commit)",
            Condition::C6 => "C6 (F+V >= n+b+1: every view change sees a fast commit)",
            Condition::C7 => "C7 (V >= 2(p+b)-1: view-change candidates form a chain)",
            Condition::C7Strict => {
                "C7' (V >= 2(p+b)+1: view-change candidates form a chain without exclusion)"
            }
        })
    }
}

/// Why parameters are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    #[error(
        "n={n} b={b} u={u} p={p} breaks condition {condition}: {left} is less than {right}",
        n = parameters.n, b = parameters.b, u = parameters.u, p = parameters.p
    )]
    Fails {
        condition: Condition,
        parameters: Parameters,
        /// The side that should be the larger, and the other.
        left: usize,
        right: usize,
    },
    #[error(
        "preset {preset} gives b={b} u={u} p={p} for n={n}, the file says b={fb} u={fu} p={fp}: \
         remove b, u and p, or choose crash-heavy or safety-heavy",
        n = given.n, b = expected.b, u = expected.u, p = expected.p,
        fb = given.b, fu = given.u, fp = given.p
    )]
    Contradicts {
        preset: Preset,
        expected: Parameters,
        given: Parameters,
    },
    #[error("preset {preset} needs b {relation} u, the file says b={b} u={u}", b = given.b, u = given.u)]
    WrongRelation {
        preset: Preset,
        relation: &'static str,
        given: Parameters,
    },
    #[error("preset {0} needs b, u and p as well")]
    NotGiven(Preset),
    #[error(
        "n={n} b={b} u={u} p={p} is no preset: with b = u, choose balanced, latency or strict, which \
         have the largest b or p",
        n = given.n, b = given.b, u = given.u, p = given.p
    )]
    Nameless { given: Parameters },
    #[error("preset {preset} stands no fault with {n} replicas; it needs at least {n_min}")]
    TooFew {
        preset: Preset,
        n: usize,
        n_min: usize,
    },
}

impl Parameters {
    /// q = ceil((n+b+1)/2).
    pub(crate) fn slow(&self) -> usize {
        (self.n + self.b + 1).div_ceil(2)
    }

    /// V = n-u.
    pub(crate) fn view_change(&self) -> usize {
        self.n - self.u
    }

    /// F = n-p.
    pub(super) fn fast(&self) -> usize {
        self.n - self.p
    }

    /// R = n-q+b+1: equal answers that make the result of a fenced read (§9.6). They share a correct
    /// replica with every q voters, hence with whatever completed before.
    pub fn fenced_read(&self) -> usize {
        self.n - self.slow() + self.b + 1
    }

    /// Tests every condition; the error names the first that fails, with both sides.
    pub fn check(&self, exclusion: Exclusion) -> Result<(), ParameterError> {
        let Parameters { n, b, u, p } = *self;
        self.at_least(Condition::Range, REPLICAS_MAX, n)?;
        self.at_least(Condition::Range, b, 1)?;
        self.at_least(Condition::Range, n, b.saturating_add(1))?;
        self.at_least(Condition::Range, u, p)?;
        self.at_least(Condition::Range, n, u.saturating_add(1))?;
        let (slow, fast, view_change) = (self.slow(), self.fast(), n - u);
        let both = n + b + 1;
        self.at_least(Condition::C1, 2 * slow, both)?;
        self.at_least(Condition::C2, n - u, slow)?;
        self.at_least(Condition::C3, fast + slow, both)?;
        self.at_least(Condition::C4, 2 * fast, both)?;
        self.at_least(Condition::C5, slow + view_change, both)?;
        self.at_least(Condition::C6, fast + view_change, both)?;
        match exclusion {
            Exclusion::On => self.at_least(Condition::C7, view_change, 2 * (p + b) - 1),
            Exclusion::Off => self.at_least(Condition::C7Strict, view_change, 2 * (p + b) + 1),
        }
    }

    fn at_least(
        &self,
        condition: Condition,
        left: usize,
        right: usize,
    ) -> Result<(), ParameterError> {
        if left >= right {
            return Ok(());
        }
        Err(ParameterError::Fails {
            condition,
            parameters: *self,
            left,
            right,
        })
    }
}

/// Named choices of b, u and p.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// b = u = floor((n-1)/3), p as large as the conditions allow.
    #[default]
    Balanced,
    /// b = u = p = floor((n+1)/5): always two delays.
    Latency,
    /// b < u, given explicitly.
    CrashHeavy,
    /// b > u, given explicitly.
    SafetyHeavy,
    /// As balanced under C7': no exclusion rule.
    Strict,
}

impl Preset {
    pub const ALL: [Preset; 5] = [
        Preset::Balanced,
        Preset::Latency,
        Preset::CrashHeavy,
        Preset::SafetyHeavy,
        Preset::Strict,
    ];

    /// As files and commands spell it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Balanced => "balanced",
            Preset::Latency => "latency",
            Preset::CrashHeavy => "crash-heavy",
            Preset::SafetyHeavy => "safety-heavy",
            Preset::Strict => "strict",
        }
    }

    pub fn parse(name: &str) -> Option<Preset> {
        Preset::ALL.into_iter().find(|preset| preset.name() == name)
    }

    pub fn exclusion(self) -> Exclusion {
        match self {
            Preset::Strict => Exclusion::Off,
            _ => Exclusion::On,
        }
    }

    /// Whether b, u and p must be given.
    pub fn is_explicit(self) -> bool {
        matches!(self, Preset::CrashHeavy | Preset::SafetyHeavy)
    }

    /// The parameters for `n` replicas, where the preset alone settles them.
    pub fn parameters(self, n: usize) -> Result<Parameters, ParameterError> {
        let (b, n_min) = match self {
            Preset::Balanced | Preset::Strict => (n.saturating_sub(1) / 3, 4),
            Preset::Latency => ((n + 1) / 5, 4),
            Preset::CrashHeavy | Preset::SafetyHeavy => {
                return Err(ParameterError::NotGiven(self));
            }
        };
        if b == 0 {
            return Err(ParameterError::TooFew {
                preset: self,
                n,
                n_min,
            });
        }
        let with = |p| Parameters { n, b, u: b, p };
        let most = match self {
            Preset::Latency => Some(b),
            _ => (0..=b)
                .rev()
                .find(|&p| with(p).check(self.exclusion()).is_ok()),
        };
        let parameters = with(most.unwrap_or(0));
        parameters.check(self.exclusion())?;
        Ok(parameters)
    }

    /// The name that a committee with these parameters goes by, under the exclusion rule. The
    /// conditions are checked first: an error names one of them where it can.
    pub fn of(given: &Parameters) -> Result<Preset, ParameterError> {
        given.check(Exclusion::On)?;
        let fits =
            |preset: &Preset| preset.exclusion() == Exclusion::On && preset.check(given).is_ok();
        let found = Preset::ALL.into_iter().find(fits);
        found.ok_or(ParameterError::Nameless { given: *given })
    }

    /// Whether explicit parameters are what the preset's name says.
    pub(super) fn check(self, given: &Parameters) -> Result<(), ParameterError> {
        let relation = match self {
            Preset::CrashHeavy if given.b >= given.u => "<",
            Preset::SafetyHeavy if given.b <= given.u => ">",
            Preset::CrashHeavy | Preset::SafetyHeavy => return Ok(()),
            _ => {
                let expected = self.parameters(given.n)?;
                if expected == *given {
                    return Ok(());
                }
                return Err(ParameterError::Contradicts {
                    preset: self,
                    expected,
                    given: *given,
                });
            }
        };
        Err(ParameterError::WrongRelation {
            preset: self,
            relation,
            given: *given,
        })
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of protocol §1.1: n, b = u, p, F, q, and p under strict.
    const TABLE: [(usize, usize, usize, usize, usize, Option<usize>); 9] = [
        (4, 1, 1, 3, 3, Some(0)),
        (5, 1, 1, 4, 4, Some(0)),
        (6, 1, 1, 5, 4, Some(1)),
        (7, 2, 1, 6, 5, Some(0)),
        (8, 2, 1, 7, 6, Some(0)),
        (9, 2, 2, 7, 6, Some(1)),
        (10, 3, 1, 9, 7, Some(0)),
        (14, 4, 1, 13, 10, Some(0)),
        (31, 10, 1, 30, 21, Some(0)),
    ];

    #[test]
    fn presets_are_the_published_table() {
        for (n, b, p, fast, slow, strict) in TABLE {
            let parameters = Preset::Balanced.parameters(n).unwrap();
            assert_eq!(parameters, Parameters { n, b, u: b, p }, "n={n}");
            assert_eq!(
                (parameters.fast(), parameters.slow()),
                (fast, slow),
                "n={n}"
            );
            let found = Preset::Strict.parameters(n).ok().map(|found| found.p);
            assert_eq!(found, strict, "n={n}");
        }
        let latency = |n, b| {
            let expected = Parameters { n, b, u: b, p: b };
            assert_eq!(Preset::Latency.parameters(n), Ok(expected));
        };
        latency(4, 1);
        latency(10, 2);
        latency(14, 3);
        latency(31, 6);
        for n in 0..4 {
            assert!(matches!(
                Preset::Balanced.parameters(n),
                Err(ParameterError::TooFew { .. })
            ));
        }
    }

    #[test]
    fn explicit_choices_of_the_table_hold() {
        for (n, b, u, p) in [(4, 2, 0, 0), (6, 1, 2, 1), (7, 1, 2, 2), (10, 2, 2, 2)] {
            let parameters = Parameters { n, b, u, p };
            assert_eq!(parameters.check(Exclusion::On), Ok(()), "{parameters:?}");
        }
    }

    #[test]
    fn parameters_find_their_name() {
        let of = |n, b, u, p| Preset::of(&Parameters { n, b, u, p });
        for (n, b, p, ..) in TABLE {
            assert_eq!(of(n, b, b, p), Ok(Preset::Balanced), "n={n}");
        }
        assert_eq!(of(4, 2, 0, 0), Ok(Preset::SafetyHeavy));
        assert_eq!(of(6, 1, 2, 1), Ok(Preset::CrashHeavy));
        assert_eq!(of(10, 2, 2, 2), Ok(Preset::Latency));
        // The exclusion rule goes with the name strict alone.
        for (n, b, u, p) in [(4, 1, 1, 0), (7, 2, 2, 0), (9, 1, 1, 1)] {
            let given = Parameters { n, b, u, p };
            assert_eq!(of(n, b, u, p), Err(ParameterError::Nameless { given }));
        }
        assert!(matches!(
            of(7, 2, 2, 2),
            Err(ParameterError::Fails {
                condition: Condition::C7,
                ..
            })
        ));
    }

    fn failed(n: usize, b: usize, u: usize, p: usize, exclusion: Exclusion) -> Condition {
        match (Parameters { n, b, u, p }).check(exclusion) {
            Err(ParameterError::Fails { condition, .. }) => condition,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_error_names_the_condition() {
        assert_eq!(failed(32, 1, 1, 1, Exclusion::On), Condition::Range);
        assert_eq!(failed(4, 0, 1, 1, Exclusion::On), Condition::Range);
        assert_eq!(failed(4, 1, 0, 1, Exclusion::On), Condition::Range);
        assert_eq!(failed(4, 1, 4, 1, Exclusion::On), Condition::Range);
        assert_eq!(failed(4, 2, 1, 0, Exclusion::On), Condition::C2);
        assert_eq!(failed(4, 1, 1, 1, Exclusion::Off), Condition::C7Strict);
        assert_eq!(failed(7, 2, 2, 2, Exclusion::On), Condition::C7);
        let error = Parameters {
            n: 7,
            b: 2,
            u: 2,
            p: 2,
        }
        .check(Exclusion::On);
        assert_eq!(
            error.unwrap_err().to_string(),
            "n=7 b=2 u=2 p=2 breaks condition C7 (V >= 2(p+b)-1: view-change candidates form a \
             chain): 5 is less than 7"
        );
    }

    proptest! {
        /// The conditions restated as inequalities over n alone, without q, F and V.
        #[test]
        fn check_agrees_with_closed_forms(
            n in 1usize..40, b in 0usize..12, u in 0usize..12, p in 0usize..12,
        ) {
            let parameters = Parameters { n, b, u, p };
            let range = n <= 31 && b >= 1 && b < n && p <= u && u < n;
            let slow = (n + b) / 2 + 1;
            let common = range
                && n > 2 * u + b
                && n > 2 * p + b
                && slow > p + b
                && slow > u + b
                && n > p + u + b;
            let on = common && n + 1 >= u + 2 * b + 2 * p;
            let off = common && n > u + 2 * b + 2 * p;
            prop_assert_eq!(parameters.check(Exclusion::On).is_ok(), on);
            prop_assert_eq!(parameters.check(Exclusion::Off).is_ok(), off);
        }
    }
}
