//! Flips bits in what it says, well authenticated: every parser behind the links must hold.

use super::{Context, Liar, Spoken};
use crate::random::Random;

/// Changes some of its datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Mutator {
    /// Datagrams in a thousand that are changed.
    pub per_mille: u32,
}

impl Mutator {
    /// From seldom to always.
    pub fn draw(random: &mut Random) -> Mutator {
        Mutator {
            per_mille: *random.pick(&[20, 100, 500, 1000]),
        }
    }
}

impl Liar for Mutator {
    fn name(&self) -> &'static str {
        "mutator"
    }

    fn on_send(&mut self, context: &mut Context<'_>, mut spoken: Spoken) -> Vec<Spoken> {
        let random = &mut *context.random;
        if random.chance(self.per_mille) && !spoken.body.is_empty() {
            // Half of the flips hit the first bytes, where lengths and numbers are.
            let bytes = spoken.body.len() as u64;
            let most = if random.chance(500) {
                bytes.min(16)
            } else {
                bytes
            };
            for _ in 0..random.within(1, 3) {
                let bit = random.below(8 * most) as usize;
                spoken.body[bit / 8] ^= 1 << (bit % 8);
            }
        }
        vec![spoken]
    }
}
