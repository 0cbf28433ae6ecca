//! BYZ2: votes twice, for rivals and for blocks that nobody knows, in the present view and in old
//! ones.

use wire::header::Kind;
use wire::ids::{Digest, Slot};

use super::branches::vote_for;
use super::{Context, Heard, Liar, Spoken};
use crate::random::Random;

/// Digests that it heard and may vote for.
const HEARD_MAX: usize = 32;

/// See the module's documentation.
pub struct DoubleVoter {
    per_mille: u32,
    honest_to: Vec<bool>,
    heard: Vec<(Slot, Digest)>,
}

impl DoubleVoter {
    /// Lies to some, sometimes or always.
    pub fn draw(nodes: usize, random: &mut Random) -> DoubleVoter {
        DoubleVoter {
            per_mille: *random.pick(&[50, 300, 1000]),
            honest_to: (0..nodes).map(|_| random.chance(300)).collect(),
            heard: Vec::new(),
        }
    }
}

impl Liar for DoubleVoter {
    fn name(&self) -> &'static str {
        "double-voter"
    }

    fn on_hear(&mut self, _: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        if let (Kind::Vote | Kind::Decided, Some(digest)) = (heard.kind, heard.body.first_chunk()) {
            self.heard.push((heard.slot, Digest(*digest)));
            if self.heard.len() > HEARD_MAX {
                self.heard.remove(0);
            }
        }
        true
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let word = matches!(spoken.kind, Kind::Vote | Kind::Commit);
        let honest = self.honest_to.get(spoken.to.0).copied().unwrap_or(true);
        let random = &mut *context.random;
        if !word || honest || !random.chance(self.per_mille) {
            return vec![spoken];
        }
        let unknown = Digest(random.bytes());
        let authentic = context.authentic;
        let (slot, digest) = match random.below(4) {
            0 => (spoken.slot, unknown),
            1 => (Slot(spoken.slot.0 + random.below(40)), unknown),
            _ if !self.heard.is_empty() => *random.pick(&self.heard),
            _ => (spoken.slot, unknown),
        };
        let lie = vote_for(authentic, &spoken, slot, digest);
        match random.below(3) {
            0 => vec![lie],
            1 => vec![lie, spoken],
            _ => vec![spoken, lie],
        }
    }
}
