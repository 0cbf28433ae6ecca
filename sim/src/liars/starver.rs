//! BYZ14: starves one replica of blocks, or keeps their payloads from all but one.

use wire::header::Kind;
use wire::ids::NodeId;

use super::{Context, Liar, Spoken};
use crate::network::End;
use crate::random::Random;

/// See the module's documentation.
pub struct Starver {
    other: End,
    /// `other` is the only one that is served, not the only one that is not.
    serves_one: bool,
    /// Of a long block the first part leaves.
    first_parts: bool,
}

impl Starver {
    /// Only this one gets blocks.
    pub fn serving(other: usize) -> Starver {
        Starver {
            other: End(other),
            serves_one: true,
            first_parts: false,
        }
    }

    /// All but this one get blocks.
    pub fn starving(other: usize) -> Starver {
        Starver {
            serves_one: false,
            ..Starver::serving(other)
        }
    }

    /// One other replica is treated differently.
    pub fn draw(nodes: usize, me: NodeId, random: &mut Random) -> Starver {
        let other = (me.index() + random.within(1, nodes as u64 - 1) as usize) % nodes;
        Starver {
            other: End(other),
            serves_one: random.chance(400),
            first_parts: random.chance(500),
        }
    }
}

impl Liar for Starver {
    fn name(&self) -> &'static str {
        "starver"
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let served = (spoken.to == self.other) == self.serves_one;
        let block = matches!(spoken.kind, Kind::Propose | Kind::Block | Kind::Decided);
        let long = spoken.fragment.total as usize > spoken.body.len();
        let first = self.first_parts && long && spoken.fragment.offset_grains == 0;
        if spoken.to.0 < context.nodes && block && !served && !first {
            return Vec::new();
        }
        vec![spoken]
    }
}
