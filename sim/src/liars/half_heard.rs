//! BYZ16, A19: authenticates correctly for some and wrongly for the others.

use super::{Context, Liar, Spoken};
use crate::random::Random;

/// See the module's documentation.
pub struct HalfHeard {
    good_for: Vec<bool>,
    per_mille: u32,
}

impl HalfHeard {
    /// Wrong for these, always.
    pub fn wrong_for(nodes: usize, deaf: &[usize]) -> HalfHeard {
        HalfHeard {
            good_for: (0..nodes).map(|end| !deaf.contains(&end)).collect(),
            per_mille: 1000,
        }
    }

    /// Wrong for about half.
    pub fn draw(nodes: usize, random: &mut Random) -> HalfHeard {
        HalfHeard {
            good_for: (0..nodes).map(|_| random.chance(500)).collect(),
            per_mille: *random.pick(&[300, 1000]),
        }
    }
}

impl Liar for HalfHeard {
    fn name(&self) -> &'static str {
        "half-heard"
    }

    fn on_send(&mut self, context: &mut Context<'_>, mut spoken: Spoken) -> Vec<Spoken> {
        let good = self.good_for.get(spoken.to.0).copied().unwrap_or(true);
        spoken.spoiled = !good && context.random.chance(self.per_mille);
        vec![spoken]
    }
}
